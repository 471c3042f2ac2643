"""Stores the log and output of a finished run as the keys `jobs/<id>/<attempt>/log.txt` and `output.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from broker import keys
from broker.clock import DAY_MS, now_ms
from broker.messages.runs import Finished, RunEnd
from broker.messages.store import Result, Status, Store
from broker.messages.versions import VersionMaker, node_number
from broker.settings import Settings
from node.jobs.claims import Artifact, Claim, RunResult
from node.storage.staging import Staging

_FILES = (("log.txt", "text/plain; charset=utf-8"), ("output.json", "application/json"))


class ArtifactStore:
    """Turns artifacts into commands for the node's storage. `stage` is thread-safe."""

    def __init__(self, node: str, config: Settings) -> None:
        self._small: int = config.volume.small
        self._staging = Staging(Path(config.volume.dir), config.volume.reserve)
        self._lifetime_ms = config.general.retention_policy * DAY_MS
        self._versions = VersionMaker(node_number(node))

    def is_large(self, data: bytes) -> bool:
        """Whether these bytes need a file of their own; writing one takes a while."""
        return len(data) > self._small

    def stage(self, data: bytes) -> Artifact:
        """The artifact of these bytes, in a durable file of its own when they are many; raises `StorageError`."""
        if not self.is_large(data):
            return Artifact.of(data)
        with self._staging.create(len(data)) as upload:
            upload.write(data)
            staged = upload.finish()
        return Artifact(None, staged.token, staged.size, staged.sha256)

    def stores(self, claim: Claim, result: RunResult) -> list[Store]:
        """The commands that store the artifacts of a run as keys; none for those that are empty."""
        now = now_ms()
        stores = []
        for artifact, (name, content_type) in zip((result.log, result.output), _FILES, strict=True):
            if artifact.size:
                key = keys.encode(f"jobs/{claim.id}/{claim.attempt}/{name}")
                version, expires = self._versions.next(), now + self._lifetime_ms
                digest, size, value, staged = artifact.digest, artifact.size, artifact.data, artifact.token
                store = Store(0, key, version, now, expires, content_type, digest, size, value, staged)
                stores.append(store)
        return stores


def build_report(claim: Claim, result: RunResult, outcomes: Sequence[Result]) -> Finished:
    """The report of a run with the keys of its artifacts; its reason names those that could not be stored."""
    places = {"log.txt": "", "output.json": ""}
    end = result.end
    for outcome in outcomes:
        key = keys.decode(outcome.key)
        name = key.rpartition("/")[2]
        if outcome.status == Status.DONE:
            places[name] = key
        else:
            end = add_problem(end, name, outcome.reason or outcome.status.name.lower())
    log_key, output_key = places.values()
    return Finished(
        claim.run, claim.id, claim.attempt, end, log_key=log_key, output_key=output_key, progress=result.progress
    )


def add_problem(end: RunEnd, what: str, problem: object) -> RunEnd:
    """The end of a run, with a reason that also says which artifact could not be kept."""
    more = f"its {what} could not be kept: {problem}"
    return end._replace(reason=f"{end.reason}; {more}" if end.reason else more)
