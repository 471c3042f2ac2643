"""Carries out `Replay`: sends the current records of the node's log again, a stretch at a time."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Replay, Result, Results
from node.errors import StorageError
from node.storage.log_replay import ReplayPart
from node.storage.storage import Storage

log = logs.get(__name__)

MESSAGES = 24  # of one stretch. Then the master asks for the next, so it is never flooded
UNCONFIRMED = 4  # messages without a confirm of RabbitMQ yet
IDLE_SECS = 15.0  # without a request for the next stretch: the log is not kept open any more


class Replayer:
    """A thread that sends replays, one after the other."""

    def __init__(self, node: str, storage: Storage, link: Link) -> None:
        self._node = node
        self._storage = storage
        self._link = link
        self._requests: queue.SimpleQueue[Replay | None] = queue.SimpleQueue()
        self._rest: tuple[int, Iterator[ReplayPart]] | None = (
            None  # what follows the last stretch, and behind which seq
        )
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the replay that it is sending; waits up to 5 s."""
        self._requests.put(None)
        self._thread.join(5)

    def ask(self, request: Replay) -> None:
        """Send a stretch; any thread may call this."""
        self._requests.put(request)

    def _run(self) -> None:
        while True:
            request = self._next_request()
            if request is None:
                return
            try:
                self._send(request)
            except LinkDown as error:
                log.warning("replay broken off; the master will ask again", request=request.request, reason=error)
            except (StorageError, OSError):
                log.exception("replay failed", request=request.request)

    def _next_request(self) -> Replay | None:
        with suppress(queue.Empty):  # nobody goes on with the last replay
            return self._requests.get(timeout=IDLE_SECS if self._rest else None)
        self._rest = None
        return self._requests.get()

    def _begin(self, after: int) -> tuple[ReplayPart | None, Iterator[ReplayPart]]:
        """The first part of the log behind a seq, and the others. Where the last stretch ended, none is read twice."""
        rest, self._rest = self._rest, None
        if rest and rest[0] == after and (part := next(rest[1], None)):
            return part, rest[1]
        parts = self._storage.replay(after)
        return next(parts, None), parts

    def _send(self, request: Replay) -> None:
        window = threading.Semaphore(UNCONFIRMED)
        part, parts = self._begin(request.after)
        after, records = request.after, 0
        items = [Result.of_epochs(self._storage.epochs)]
        for count in range(1, MESSAGES + 1):
            upto = end = after
            if part is not None:
                after, upto, results = part
                items += results
                records += len(results)
                end = self._storage.seq
            last = part is None or count == MESSAGES
            message = Results(self._node, "", request.request, after=after, upto=upto, end=end, last=last, items=items)
            window.acquire()
            self._link.publish(topology.RESULTS, encode(message), done=lambda _: window.release())
            after, items = upto, []
            if last:
                break
            part = next(parts, None)
        if part is not None:
            self._rest = after, parts
        log.debug("replayed", request=request.request, after=request.after, upto=after, records=records)
