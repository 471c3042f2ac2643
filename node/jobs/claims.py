"""The runs that this node has claimed and what it has still to report of them, in the file `claims.log`.

| record                                  | says                                                                   |
| --------------------------------------- | ---------------------------------------------------------------------- |
| `[1, run, id, attempt, at, order]`      | claimed; `order` is empty unless the job was published by hand         |
| `[2, run]`                              | the job's message was acknowledged                                     |
| `[3, run, id]`                          | the id of a job that was published by hand                             |
| `[4, run, *end, log, output, progress]` | the run has ended: `RunResult`, each `Artifact` as an array            |
| `[5, *report]`                          | the broker has the report `Finished`, with its fields as `flat` has them |

A claim is durable before anything is done about it. The other records are written at once and flushed soon. A power
cut may lose some of them: then a run counts as lost, or is reported twice. Once the file has doubled, it is rewritten
without the records that nobody needs any more.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.clock import now_ms
from broker.messages.runs import NO_PROGRESS, Claimed, Finished, ProgressTuple, RunEnd, RunState
from node.errors import StorageError
from node.jobs.journal import Fields, Journal, Place, pack, unpack

log = logs.get(__name__)

KEPT = 10_000  # reports of attempts that are over, should their jobs be handed out once more
REWRITE_BYTES = 4 << 20  # a file smaller than this is left as it is

_CLAIMED, _ACKNOWLEDGED, _NAMED, _ENDED, _REPORTED = range(1, 6)


class Artifact(NamedTuple):
    """The log or the output of a run: its bytes, or the name of the staged upload that has them."""

    data: bytes | None
    token: str  # of the upload, "" when the bytes are here
    size: int  # bytes
    digest: bytes  # SHA-256

    @classmethod
    def of(cls, data: bytes) -> Artifact:
        """An artifact of these bytes."""
        return cls(data, "", len(data), hashlib.sha256(data).digest()) if data else NO_ARTIFACT


NO_ARTIFACT = Artifact(b"", "", 0, b"")


class RunResult(NamedTuple):
    """How a run ended, and its artifacts."""

    end: RunEnd
    log: Artifact = NO_ARTIFACT
    output: Artifact = NO_ARTIFACT
    progress: ProgressTuple = NO_PROGRESS  # the last it told

    def flat(self) -> tuple[object, ...]:
        """The fields as they are packed."""
        return *self.end, *self[1:]

    @classmethod
    def unpacked(cls, fields: Fields) -> RunResult:
        """The result with these fields, as `flat` gave them; raises `ValueError` or `TypeError` for others."""
        *end, log_fields, output_fields, (done, total, text) = fields
        return cls(RunEnd.unpacked(*end), Artifact(*log_fields), Artifact(*output_fields), (done, total, text))


@dataclass(slots=True)
class Claim:
    """A run whose final report the broker does not have yet."""

    run: str
    id: int  # of the job; 0: published by hand, and the master has not named it yet
    attempt: int
    at: int  # ms since the epoch
    by_hand: bool = False
    acknowledged: bool = False  # the broker was told that the job's message is taken
    result: RunResult | None = None  # set when the run has ended
    places: dict[int, Place] = field(default_factory=dict)  # of its records, by kind

    def report(self, order: bytes) -> Claimed:
        """The claim as the master is told of it, with the order of a job that has no id."""
        return Claimed(self.run, self.id, self.attempt, at=self.at, order=order)

    def ended_now(self, state: RunState, reason: str) -> RunResult:
        """The result of a run that ended without the runner, at this moment."""
        return RunResult(RunEnd(state, reason, self.at, max(now_ms(), self.at)))


class _Record(NamedTuple):
    """A record that is not written yet."""

    claim: Claim | None  # None: of a run that needs no claim any more
    kind: int
    raw: bytes


class Claims:
    """The claims of a node. Used on the jobs thread; other threads may read `open`."""

    def __init__(self, directory: Path) -> None:
        """Open `claims.log` in this directory and read it, or make it; raises `StorageError`."""
        self.open: dict[str, Claim] = {}  # by run
        self._attempts: dict[tuple[int, int], str] = {}  # (id, attempt) → run, of those
        self._reports: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # records of reports, oldest first
        self._unwritten: list[_Record] = []
        self._journal = Journal(directory / "claims.log", self._replay)
        self._base = self._journal.size

    def close(self) -> None:
        """Make everything durable and close the file."""
        self.flush()
        self.sync()
        self._journal.close()

    def known(self, job: int, attempt: int) -> Claim | Finished | None:
        """The claim of an attempt at a job, or its report when that is over; None if it is unknown or forgotten."""
        run = self._attempts.get((job, attempt))
        if run is not None:
            return self.open[run]
        fields = unpack(self._reports.get((job, attempt), b""))
        return Finished.unpacked(*fields[1:]) if fields else None

    # Changes.

    def add(self, claims: Sequence[tuple[Claim, bytes]]) -> None:
        """Claim runs durably, each with its order if it has no id; raises `StorageError`: then none is claimed."""
        self.flush()
        before = self._journal.size
        records = [pack(_CLAIMED, claim.run, claim.id, claim.attempt, claim.at, order) for claim, order in claims]
        places = self._journal.append(records)
        try:
            self._journal.sync()
        except StorageError:
            self._journal.cut(before)
            raise
        for (claim, _), place in zip(claims, places, strict=True):
            claim.places[_CLAIMED] = place
            self._put(claim)

    def acknowledge(self, claim: Claim) -> None:
        """Note that the broker was told: the job's message is taken."""
        claim.acknowledged = True
        self._note(claim, _ACKNOWLEDGED, claim.run)

    def name(self, claim: Claim, job: int) -> None:
        """Note the id of a job that was published by hand."""
        claim.id = job
        self._put(claim)
        self._note(claim, _NAMED, claim.run, job)

    def end(self, claim: Claim, result: RunResult) -> None:
        """Note that the run has ended."""
        claim.result = result
        self._note(claim, _ENDED, claim.run, *result.flat())

    def report(self, finished: Finished) -> None:
        """Note that the broker has the report of a run, which closes its claim."""
        record = _Record(None, _REPORTED, pack(_REPORTED, *finished.flat()))
        self._close(finished, record.raw)
        self._unwritten.append(record)

    def drop(self, claim: Claim) -> None:
        """Close a claim without a report, since nobody wants one."""
        self.report(Finished(claim.run, claim.id, claim.attempt, RunEnd(RunState.CANCELLED, "", claim.at, claim.at)))

    def _note(self, claim: Claim, kind: int, *values: object) -> None:
        self._unwritten.append(_Record(claim, kind, pack(kind, *values)))

    def flush(self) -> None:
        """Write what was noted. A failure is only logged: the next start does again what was not written."""
        records, self._unwritten = self._unwritten, []
        if not records:
            return
        try:
            places = self._journal.append([record.raw for record in records])
        except StorageError as error:
            log.error("records of claims can't be written", records=len(records), error=error)
            return
        for (claim, kind, _), place in zip(records, places, strict=True):
            if claim is None:
                continue
            claim.places[kind] = place
            if kind == _ENDED and claim.result and not claim.id:
                # It may wait for its id for long: its artifacts stay on the disk.
                claim.result = claim.result._replace(log=NO_ARTIFACT, output=NO_ARTIFACT)
        if self._journal.size > max(REWRITE_BYTES, 2 * self._base):
            self._rewrite()

    def sync(self) -> None:
        """Make durable what was written; a failure is only logged."""
        try:
            self._journal.sync()
        except StorageError as error:
            log.error("records of claims can't be made durable", error=error)

    def try_writing(self) -> None:
        """Write a record without effect; raises `StorageError` if claims can't be written."""
        self._journal.append([pack(_ACKNOWLEDGED, "")])
        self._journal.sync()

    # What is only in the file.

    def order(self, claim: Claim) -> bytes:
        """The job as it was published by hand; raises `StorageError`."""
        return bytes(self._journal.read(claim.places[_CLAIMED])[5])

    def full_result(self, claim: Claim) -> RunResult:
        """The result of an ended run with its artifacts; raises `StorageError` when these can't be read any more."""
        assert claim.result is not None
        place = claim.places.get(_ENDED)
        return RunResult.unpacked(self._journal.read(place)[2:]) if place else claim.result

    def _rewrite(self) -> None:
        """Rewrite the file without the records that nobody needs any more."""
        began, before = time.monotonic(), self._journal.size
        wanted = [(claim, kind, place) for claim in self.open.values() for kind, place in claim.places.items()]
        try:
            places = self._journal.rewrite([*self._reports.values(), *(place for _, _, place in wanted)])
        except StorageError as error:
            log.error("claims.log can't be rewritten", error=error)
            self._base = before
            return
        for (claim, kind, _), place in zip(wanted, places[len(self._reports) :], strict=True):
            claim.places[kind] = place
        self._base = self._journal.size
        seconds = time.monotonic() - began
        log.info("claims.log rewritten", before=before, after=self._base, open=len(self.open), seconds=seconds)

    # The state.

    def _put(self, claim: Claim) -> None:
        self.open[claim.run] = claim
        if claim.id:
            self._attempts[claim.id, claim.attempt] = claim.run

    def _close(self, finished: Finished, record: bytes) -> None:
        attempt = (finished.id, finished.attempt)
        if self.open.pop(finished.run, None):
            self._attempts.pop(attempt, None)
        if finished.id:
            self._reports[attempt] = record
            if len(self._reports) > KEPT:
                self._reports.popitem(last=False)

    def _replay(self, fields: Fields, place: Place) -> None:
        kind, run, *rest = fields
        if kind == _REPORTED:
            self._close(Finished.unpacked(*fields[1:]), pack(*fields))
            return
        if kind == _CLAIMED:
            job, attempt, at, order = rest
            self._put(Claim(run, job, attempt, at, by_hand=bool(order)))
        claim = self.open.get(run)
        if claim is None:
            return
        if kind == _ACKNOWLEDGED:
            claim.acknowledged = True
        elif kind == _NAMED:
            (claim.id,) = rest
            self._put(claim)
        elif kind == _ENDED:
            claim.result = RunResult.unpacked(rest)._replace(log=NO_ARTIFACT, output=NO_ARTIFACT)
        claim.places[kind] = place
