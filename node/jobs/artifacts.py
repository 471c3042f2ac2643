"""What runs leave, their logs and outputs, on its way to becoming keys: `jobs/<id>/<attempt>/log.txt` and `output.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from broker import keys
from broker.clock import DAY_MS, now_ms
from broker.messages.runs import Finished
from broker.messages.store import Result, Status, Store
from broker.messages.versions import VersionMaker, node_number
from broker.settings import Settings
from node.jobs.claims import Claim, Ended, Left
from node.storage.staging import Staging

_NAMES = {"log": ("log.txt", "text/plain; charset=utf-8"), "output": ("output.json", "application/json")}


class Artifacts:
    """Of the agent; `left` may be called by any thread."""

    def __init__(self, node: str, config: Settings) -> None:
        self._small: int = config.volume.small
        self._staging = Staging(Path(config.volume.dir), config.volume.reserve)
        self._lifetime_ms = config.general.retention_policy * DAY_MS
        self._versions = VersionMaker(node_number(node))

    def is_large(self, data: bytes) -> bool:
        """Whether this is to be written to a file of its own, which takes a while."""
        return len(data) > self._small

    def left(self, data: bytes) -> Left:
        """What has been left, in a durable file of its own when it is large; raises `StorageError`."""
        if not self.is_large(data):
            return Left.of(data)
        with self._staging.create(len(data)) as upload:
            upload.write(data)
            staged = upload.finish()
        return Left(None, staged.token, staged.size, staged.sha256)

    def stores(self, claim: Claim, ended: Ended) -> list[Store]:
        """The commands that make keys of what a run has left; none when that is nothing."""
        now = now_ms()
        stores = []
        for what, (name, content_type) in _NAMES.items():
            left: Left = getattr(ended, what)
            if left.size:
                key = keys.encode(f"jobs/{claim.id}/{claim.attempt}/{name}")
                store = Store(
                    0,
                    key,
                    self._versions.next(),
                    now,
                    now + self._lifetime_ms,
                    content_type,
                    left.digest,
                    left.size,
                    left.data,
                    left.token,
                )
                stores.append(store)
        return stores


def finished(claim: Claim, ended: Ended, results: Sequence[Result]) -> Finished:
    """The report of a run, with the keys that its log and its output have become; says so when they have not."""
    places = {"log.txt": "", "output.json": ""}
    reason = ended.reason
    for result in results:
        key = keys.decode(result.key)
        name = key.rpartition("/")[2]
        if result.status == Status.DONE:
            places[name] = key
        else:
            reason = and_also(reason, f"its {name} could not be kept: {result.reason or result.status.name.lower()}")
    return Finished(
        claim.run,
        claim.id,
        claim.attempt,
        ended.state,
        reason,
        ended.started,
        ended.ended,
        places["log.txt"],
        places["output.json"],
        ended.progress,
    )


def and_also(reason: str, more: str) -> str:
    """Two reasons as one."""
    return f"{reason}; {more}" if reason else more
