"""What this node has promised: the runs it has claimed, and what it still has to say of them, in `claims.log`.

| record                                                      | says                                                  |
| ----------------------------------------------------------- | ----------------------------------------------------- |
| `[1, run, id, attempt, at, order]`                          | claimed; `order` is empty unless published by hand    |
| `[2, run]`                                                  | the broker was told that the job's message is taken   |
| `[3, run, id]`                                              | the id of a job that was published by hand            |
| `[4, run, state, reason, started, ended, [log], [output], [progress]]` | the run has ended; `Left` of its log and its output   |
| `[5, …]`                                                    | the fields of its `Finished`, which the broker has    |

A claim is durable before anything is done about it. The other records are written at once and flushed soon: what is
lost of them in a power cut makes a run count as lost, or be reported once more. What nobody needs any more is left
out whenever the file has doubled.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from broker import logs
from broker.messages.runs import Finished, RunState
from node.errors import StorageError
from node.jobs.journal import Journal, Place, pack, unpack

log = logs.get(__name__)

KEPT = 10_000  # reports of attempts that are over, should their jobs be handed out once more
REWRITE_BYTES = 4 << 20  # a file smaller than this is left as it is

_CLAIMED, _TAKEN, _NAMED, _ENDED, _REPORTED = range(1, 6)


class Left(NamedTuple):
    """What a run has left, its log or its output: the bytes, or the name of the staged upload that has them."""

    data: bytes | None
    token: str
    size: int
    digest: bytes

    @classmethod
    def of(cls, data: bytes) -> Left:
        """These bytes."""
        return cls(data, "", len(data), hashlib.sha256(data).digest()) if data else NOTHING


NOTHING = Left(b"", "", 0, b"")


class Ended(NamedTuple):
    """How a run has ended, and what it left. Times are milliseconds since the epoch."""

    state: RunState
    reason: str
    started: int
    ended: int
    log: Left = NOTHING
    output: Left = NOTHING
    progress: tuple[float, float, str] = (0.0, 0.0, "")  # done, total, text: the last it told


@dataclass(slots=True)
class Claim:
    """A run of which the broker has no final report yet."""

    run: str
    id: int  # 0: published by hand, and not named yet
    attempt: int
    at: int
    by_hand: bool = False
    taken: bool = False  # the broker was told that the message is taken
    ended: Ended | None = None
    places: dict[int, Place] = field(default_factory=dict)  # of its records, by kind


class Claims:
    """Of one thread of the agent, but others may look at `open`."""

    def __init__(self, directory: Path) -> None:
        """Open `claims.log` in this directory, whatever the last process left there; raises `StorageError`."""
        self.open: dict[str, Claim] = {}  # by run
        self._attempts: dict[tuple[int, int], str] = {}  # (id, attempt) → run, of those
        self._past: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # the records of reports, oldest first
        self._notes: list[tuple[Claim | None, int, bytes]] = []
        self._journal = Journal(directory / "claims.log", self._replay)
        self._base = self._journal.size

    def close(self) -> None:
        """Make everything durable and close the file."""
        self.flush()
        self.sync()
        self._journal.close()

    def known(self, job: int, attempt: int) -> Claim | Finished | None:
        """The claim of an attempt at a job, or its report when that is over; None: never heard of, or long ago."""
        run = self._attempts.get((job, attempt))
        if run is not None:
            return self.open[run]
        fields = unpack(self._past.get((job, attempt), b""))
        return _finished(fields[1:]) if fields else None

    # Changes.

    def add(self, claims: Sequence[tuple[Claim, bytes]]) -> None:
        """Claim runs; each comes with its order when that was published by hand. They are durable on return.

        Raises `StorageError`, and none of them is claimed then.
        """
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

    def take(self, claim: Claim) -> None:
        """The broker was told that the message is taken."""
        claim.taken = True
        self._notes.append((claim, _TAKEN, pack(_TAKEN, claim.run)))

    def name(self, claim: Claim, job: int) -> None:
        """The job has this id."""
        self._set_id(claim, job)
        self._notes.append((claim, _NAMED, pack(_NAMED, claim.run, job)))

    def end(self, claim: Claim, ended: Ended) -> None:
        """The run has ended."""
        claim.ended = ended
        self._notes.append((claim, _ENDED, pack(_ENDED, claim.run, *ended)))

    def report(self, finished: Finished) -> None:
        """The broker has the report of a run: nothing more is to be done for it."""
        record = pack(_REPORTED, *finished)
        self._reported(finished, record)
        self._notes.append((None, _REPORTED, record))

    def drop(self, claim: Claim) -> None:
        """Nobody wants a report of this run."""
        self.report(Finished(claim.run, claim.id, claim.attempt, RunState.CANCELLED, "", claim.at, claim.at, "", ""))

    def flush(self) -> None:
        """Write what was noted. What the disk refuses is done again after the next start, so that is logged only."""
        notes, self._notes = self._notes, []
        if not notes:
            return
        try:
            places = self._journal.append([record for _, _, record in notes])
        except StorageError as error:
            log.error("what became of runs can't be written down", records=len(notes), error=error)
            return
        for (claim, kind, _), place in zip(notes, places, strict=True):
            if claim is None:
                continue
            claim.places[kind] = place
            if kind == _ENDED and claim.ended and not claim.id:
                # It may wait for its name for long: what it left stays on the disk.
                claim.ended = claim.ended._replace(log=NOTHING, output=NOTHING)
        if self._journal.size > max(REWRITE_BYTES, 2 * self._base):
            self._rewrite()

    def sync(self) -> None:
        """Make what was written durable."""
        try:
            self._journal.sync()
        except StorageError as error:
            log.error("what became of runs can't be made durable", error=error)

    def try_writing(self) -> None:
        """Raises `StorageError` as long as claims can't be written."""
        self._journal.append([pack(_TAKEN, "")])
        self._journal.sync()

    # What is only in the file.

    def order(self, claim: Claim) -> bytes:
        """The job as it was published by hand; raises `StorageError`."""
        return bytes(self._journal.read(claim.places[_CLAIMED])[5])

    def ending(self, claim: Claim) -> Ended:
        """How a run has ended, with all that it left; raises `StorageError` when that can't be read any more."""
        assert claim.ended is not None
        place = claim.places.get(_ENDED)
        return _ended(self._journal.read(place)[2:]) if place else claim.ended

    def _rewrite(self) -> None:
        """Leave out what does not count any more."""
        began, before = time.monotonic(), self._journal.size
        wanted = [(claim, kind, place) for claim in self.open.values() for kind, place in claim.places.items()]
        try:
            places = self._journal.rewrite([*self._past.values(), *(place for _, _, place in wanted)])
        except StorageError as error:
            log.error("claims.log stays as long as it is", error=error)
            self._base = before
            return
        for (claim, kind, _), place in zip(wanted, places[len(self._past) :], strict=True):
            claim.places[kind] = place
        self._base = self._journal.size
        seconds = time.monotonic() - began
        log.info("claims.log written anew", before=before, after=self._base, open=len(self.open), seconds=seconds)

    # The state.

    def _put(self, claim: Claim) -> None:
        self.open[claim.run] = claim
        if claim.id:
            self._attempts[claim.id, claim.attempt] = claim.run

    def _set_id(self, claim: Claim, job: int) -> None:
        claim.id = job
        self._attempts[job, claim.attempt] = claim.run

    def _reported(self, finished: Finished, record: bytes) -> None:
        attempt = (finished.id, finished.attempt)
        if self.open.pop(finished.run, None):
            self._attempts.pop(attempt, None)
        if finished.id:
            self._past[attempt] = record
            if len(self._past) > KEPT:
                self._past.popitem(last=False)

    def _replay(self, fields: list[Any], place: Place) -> None:
        kind, run, *rest = fields
        if kind == _REPORTED:
            self._reported(_finished(fields[1:]), pack(*fields))
            return
        if kind == _CLAIMED:
            job, attempt, at, order = rest
            self._put(Claim(run, job, attempt, at, by_hand=bool(order)))
        claim = self.open.get(run)
        if claim is None:
            return
        if kind == _TAKEN:
            claim.taken = True
        elif kind == _NAMED:
            self._set_id(claim, rest[0])
        elif kind == _ENDED:
            claim.ended = _ended(rest)._replace(log=NOTHING, output=NOTHING)
        claim.places[kind] = place


def _ended(fields: Sequence[Any]) -> Ended:
    state, reason, started, ended, log_left, output_left, progress = fields
    return Ended(RunState(state), reason, started, ended, Left(*log_left), Left(*output_left), tuple(progress))


def _finished(fields: Sequence[Any]) -> Finished:
    finished = Finished(*fields)
    done, total, text = finished.progress
    return finished._replace(state=RunState(finished.state), progress=(done, total, text))
