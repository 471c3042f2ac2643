"""Has damaged values of this node replaced by good copies, which other nodes have.

What the scrub and readers find is told to the master, which knows the other holders, and sends a `Fetch`. The bytes are
compared with the digest before they take the place of the damaged ones. A value that nobody else has stays as it is,
and is asked for again now and then.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import NamedTuple

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Damaged
from node.errors import StorageError
from node.storage.disk.damages import DamageReports
from node.storage.storage import Storage

log = logs.get(__name__)

LOOK_SECS = 0.5
FIRST_SECS = 15.0  # until a value is asked for again; twice as long each time
MOST_SECS = 600.0
MOST_AWAITED = 500  # values that are asked for, and may come soon

Value = tuple[bytes, int]  # key and version


class _Request(NamedTuple):
    """When a good copy was asked for, by the monotonic clock, and for how many seconds it is awaited."""

    at: float
    pause: float


class Healer:
    """A thread that asks for good copies of damaged values."""

    def __init__(self, directory: Path, node: str, storage: Storage, link: Link) -> None:
        """`directory` is the node's data directory."""
        self._node = node
        self._storage = storage
        self._link = link
        self._reports = DamageReports(directory)
        self._asked: dict[Value, _Request] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="healer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ask for nothing more. Waits up to 5 s for the thread, which uses the storage."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.wait(LOOK_SECS):
            try:
                self.look(time.monotonic())
            except LinkDown as error:
                log.debug("good copies can't be asked for now", reason=error)
            except (StorageError, OSError) as error:
                log.error("damaged values can't be looked at", error=error)

    def look(self, now: float) -> None:
        """Ask for what is due at `now`. Raises `LinkDown`, `StorageError`."""
        missing = [
            (key, version) for key, version, reason in self._reports.take() if not self._note(key, version, reason)
        ]
        damaged = [(damage.key, damage.version) for damage in self._storage.damaged_values()]
        self._asked = {value: self._asked[value] for value in damaged if value in self._asked}
        awaited = sum(now < request.at + FIRST_SECS for request in self._asked.values())
        due = [value for value in damaged if self._is_due(value, now)][: max(0, MOST_AWAITED - awaited)]
        if not (missing or due) or not self._link.ready:
            return
        self._link.publish(topology.RESULTS, encode(Damaged(self._node, [*missing, *due])))
        for value in due:
            before = self._asked.get(value)
            self._asked[value] = _Request(now, min(MOST_SECS, 2 * before.pause) if before else FIRST_SECS)

    def _note(self, key: bytes, version: int, reason: str) -> bool:
        log.error("a reader found a value damaged or missing", key=key, version=version, reason=reason)
        return self._storage.note_damage(key, version, reason)

    def _is_due(self, value: Value, now: float) -> bool:
        request = self._asked.get(value)
        return request is None or now >= request.at + request.pause
