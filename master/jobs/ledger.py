"""The ledger: every job and schedule, durable, in LMDB. The controller alone writes it; the web workers read it.

| database   | key                                     | value                                                     |
| ---------- | --------------------------------------- | --------------------------------------------------------- |
| jobs       | id (8 bytes)                            | `Job`                                                     |
| schedules  | id                                      | `Schedule`                                                |
| lists      | `List` (1 byte) + id                    | nothing                                                   |
| executions | `List` + schedule (8 bytes, 0: all) + id | nothing: jobs that schedules made                        |
| due        | time (ms) + id                          | nothing: retries that wait                                |
| open       | id                                      | nothing: its message is not known to be safe with the broker |
| waiting    | lane + 0 + id                           | nothing: pending jobs by the queue their message is in    |
| closed     | time (ms) + id                          | nothing: jobs and schedules that have ended               |
| tokens     | unique token                            | id                                                        |
| direct     | run                                     | id of the job that was published by hand                  |
| withdrawn  | lane + 0 + id                           | attempt, time: cancelled while their message was in a queue |
| live       | id                                      | `JobProgress`: progress and end of the log of a running job      |
| catalogs   | node                                    | digest of the scripts it has                              |
| scripts    | path + 0 + node, helpers: 0 before that | a row of the catalog                                      |
| meta       | `id`, `count:<list>`, `lane:<node>:`    | the last id given; how many there are                     |
| meta       | `bytes:p`, `bytes:s`                    | bytes of the arguments of pending jobs, active schedules  |

What a job or schedule has in `lists`, `executions`, `due`, `open`, `waiting` and `closed` follows from its
row (`_job_rows`, `_schedule_rows`), so that they can't come apart.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgpack

from master.index.environment import Contents, Environment, pack, stamped
from master.jobs.model import (
    Job,
    JobProgress,
    JobState,
    Schedule,
    ScheduleState,
    lane,
    unpack_job,
    unpack_live,
    unpack_schedule,
)

MAP_BYTES = 64 << 30  # address space, neither disk nor memory
_LAST = (1 << 64) - 1
_PENDING, _SCHEDULED = b"bytes:p", b"bytes:s"
_DATABASES = (
    "jobs",
    "schedules",
    "lists",
    "executions",
    "due",
    "open",
    "waiting",
    "closed",
    "tokens",
    "direct",
    "withdrawn",
    "live",
    "catalogs",
    "scripts",
    "meta",
)

_ADVICE = "put back a copy of that directory, or remove it: the jobs it knows are forgotten then"
_CONTENTS = Contents("ledger", "[jobs] ledger_map", _ADVICE, _DATABASES, durable=True)

Rows = set[tuple[str, bytes]]


class List(Enum):
    """Lists of jobs, each newest first."""

    PENDINGS = b"p"  # pending and running
    RUNNING = b"r"
    READY = b"c"  # completed
    FAILED = b"f"  # failed and cancelled
    SCHEDULED = b"s"  # active schedules
    SCHEDULES = b"S"  # all schedules that are kept
    ALL = b"a"  # of executions


_LISTS = {
    JobState.PENDING: (List.PENDINGS,),
    JobState.RUNNING: (List.PENDINGS, List.RUNNING),
    JobState.COMPLETED: (List.READY,),
    JobState.FAILED: (List.FAILED,),
    JobState.CANCELLED: (List.FAILED,),
}


class Ledger:
    """The LMDB environment. One per process and path; never used across a fork."""

    def __init__(self, directory: Path, write: bool = False, map_size: int = MAP_BYTES) -> None:
        environment = Environment(directory, map_size, _CONTENTS, write)
        self.env, self.db = environment.env, environment.databases
        if write:
            self._weigh()

    def close(self) -> None:
        """Close the files."""
        self.env.close()

    def begin(self, write: bool = False) -> Any:
        """A transaction; a context manager that commits, or aborts when something is raised."""
        return self.env.begin(write=write)

    # Jobs and schedules.

    def next_id(self, txn: Any) -> int:
        """An id that no job and no schedule had."""
        return self._add(txn, b"id", 1)

    def job(self, txn: Any, number: int) -> Job | None:
        """The job with this id."""
        raw = txn.get(_id(number), db=self.db["jobs"])
        return None if raw is None else unpack_job(raw)

    def schedule(self, txn: Any, number: int) -> Schedule | None:
        """The schedule with this id."""
        raw = txn.get(_id(number), db=self.db["schedules"])
        return None if raw is None else unpack_schedule(raw)

    def save(self, txn: Any, old: Job | None, new: Job) -> Job:
        """Write a job, whose row was `old`, and return it; raises `ValueError` for a state that may not follow."""
        if old is not None and new.state != old.state and not old.state.may_become(new.state):
            raise ValueError(f"job {new.id} is {old.state.name}, it can't become {new.state.name}")
        txn.put(_id(new.id), pack(new), db=self.db["jobs"])
        if old is None or old.state != new.state:
            self._add(txn, _PENDING, _weight(new) - _weight(old))
        self._move(txn, _job_rows(old) if old else set(), _job_rows(new))
        return new

    def save_schedule(self, txn: Any, old: Schedule | None, new: Schedule) -> Schedule:
        """Write a schedule, whose row was `old`, and return it."""
        txn.put(_id(new.id), pack(new), db=self.db["schedules"])
        if old is None or old.state != new.state:
            self._add(txn, _SCHEDULED, _weight(new) - _weight(old))
        self._move(txn, _schedule_rows(old) if old else set(), _schedule_rows(new))
        return new

    def remove(self, txn: Any, number: int) -> None:
        """Forget a job or schedule and all that belongs to it."""
        job, schedule = self.job(txn, number), self.schedule(txn, number)
        row = job or schedule
        if row is None:
            return
        self._move(txn, _job_rows(job) if job else _schedule_rows(schedule) if schedule else set(), set())
        txn.delete(_id(number), db=self.db["jobs" if job else "schedules"])
        self._add(txn, _PENDING if job else _SCHEDULED, -_weight(row))
        if row.options.unique and self.by_token(txn, row.options.unique) == number:
            txn.delete(_token(row.options.unique), db=self.db["tokens"])
        if job:
            txn.delete(_id(number), db=self.db["live"])
            for run in {job.run, *(attempt.run for attempt in job.attempts)} - {""}:
                txn.delete(run.encode(), db=self.db["direct"])
            for where in (lane("", job.options.priority), lane(job.options.node, "")):
                self.drop_withdrawn(txn, where, number)

    def _move(self, txn: Any, old: Rows, new: Rows) -> None:
        for name, key in old - new:
            if txn.delete(key, db=self.db[name]):
                self._count(txn, name, key, -1)
        for name, key in new - old:
            if txn.put(key, b"", db=self.db[name], overwrite=False):
                self._count(txn, name, key, 1)

    def _count(self, txn: Any, name: str, key: bytes, change: int) -> None:
        if name == "lists":
            self._add(txn, b"count:" + key[:1], change)
        elif name == "waiting" and key[:1] != b":":  # only those of nodes are ever asked for
            self._add(txn, b"lane:" + key[:-9], change)

    def _weigh(self) -> None:
        """Count the bytes of the arguments once, in a ledger of a version that did not count them."""
        with self.begin(write=True) as txn:
            if txn.get(_PENDING, db=self.db["meta"]) is None:
                waiting = list(self.listed(txn, List.PENDINGS))
                self._add(txn, _PENDING, sum(_weight(self.job(txn, number)) for number in waiting))
            if txn.get(_SCHEDULED, db=self.db["meta"]) is None:
                active = list(self.listed(txn, List.SCHEDULED))
                self._add(txn, _SCHEDULED, sum(_weight(self.schedule(txn, number)) for number in active))

    def _add(self, txn: Any, counter: bytes, change: int) -> int:
        number = _number(txn.get(counter, db=self.db["meta"])) + change
        txn.put(counter, _id(max(0, number)), db=self.db["meta"])
        return number

    # Lists.

    def count(self, txn: Any, which: List) -> int:
        """How many jobs or schedules a list has."""
        return _number(txn.get(b"count:" + which.value, db=self.db["meta"]))

    def pending(self, txn: Any) -> tuple[int, int]:
        """How many jobs are pending, and the bytes of their arguments."""
        number = self.count(txn, List.PENDINGS) - self.count(txn, List.RUNNING)
        return number, _number(txn.get(_PENDING, db=self.db["meta"]))

    def scheduled(self, txn: Any) -> tuple[int, int]:
        """How many schedules are active, and the bytes of their arguments."""
        return self.count(txn, List.SCHEDULED), _number(txn.get(_SCHEDULED, db=self.db["meta"]))

    def waiting_on(self, txn: Any, node: str) -> int:
        """How many jobs wait in a node's own queue."""
        return _number(txn.get(b"lane:" + node.encode() + b":", db=self.db["meta"]))

    def jobs(self, txn: Any, before: int = 0) -> Iterator[Job]:
        """Every job, newest first, or those before an id."""
        return (unpack_job(raw) for _, raw in self._down(txn, "jobs", b"", before))

    def listed(self, txn: Any, which: List, before: int = 0) -> Iterator[int]:
        """Ids of a list, newest first, or those before an id."""
        return (_number(key[-8:]) for key, _ in self._down(txn, "lists", which.value, before))

    def executions(self, txn: Any, which: List, schedule: int = 0, before: int = 0) -> Iterator[int]:
        """Ids of the jobs that a schedule made (0: all schedules), newest first: ALL, READY or FAILED ones."""
        return (_number(key[-8:]) for key, _ in self._down(txn, "executions", which.value + _id(schedule), before))

    def up(self, txn: Any, name: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Keys, without the prefix, and values of a database, in order; it must not be written meanwhile."""
        with txn.cursor(db=self.db[name]) as cursor:
            found = cursor.set_range(prefix) if prefix else cursor.first()
            while found and cursor.key().startswith(prefix):
                yield cursor.key()[len(prefix) :], cursor.value()
                found = cursor.next()

    def _down(self, txn: Any, name: str, prefix: bytes, before: int) -> Iterator[tuple[bytes, bytes]]:
        end = prefix + _id(min(before, _LAST) or _LAST)
        with txn.cursor(db=self.db[name]) as cursor:
            found = cursor.prev() if cursor.set_range(end) else cursor.last()
            while found and cursor.key().startswith(prefix):
                yield cursor.item()
                found = cursor.prev()

    # What belongs to jobs.

    def by_token(self, txn: Any, token: str) -> int:
        """Id of the job or schedule with this unique token, 0 when there is none."""
        return _number(txn.get(_token(token), db=self.db["tokens"]))

    def keep_token(self, txn: Any, token: str, number: int) -> None:
        """Note the unique token of a job or schedule."""
        txn.put(_token(token), _id(number), db=self.db["tokens"])

    def by_run(self, txn: Any, run: str) -> int:
        """Id of the job that was published by hand and claimed with this run, 0 when there is none."""
        return _number(txn.get(run.encode(), db=self.db["direct"]))

    def keep_run(self, txn: Any, run: str, number: int) -> None:
        """Note the run of a job that was published by hand."""
        txn.put(run.encode(), _id(number), db=self.db["direct"])

    def live(self, txn: Any, number: int) -> JobProgress | None:
        """How far a running job is; None when it has not said anything."""
        raw = txn.get(_id(number), db=self.db["live"])
        return None if raw is None else unpack_live(raw)

    def save_live(self, txn: Any, number: int, live: JobProgress | None) -> None:
        """Note how far a running job is; None when it does not run any more."""
        if live is None:
            txn.delete(_id(number), db=self.db["live"])
        else:
            txn.put(_id(number), pack(live), db=self.db["live"])

    def withdraw(self, txn: Any, job: Job, now: int) -> None:
        """Note that the message of a job, which is still in some queue, is to be dropped."""
        txn.put(lane_key(job.lane, job.id), pack((job.attempt, now)), db=self.db["withdrawn"])

    def withdrawn(self, txn: Any, where: str) -> Iterator[tuple[int, int, int]]:
        """Id, attempt and time (ms) of the jobs whose message in this queue is to be dropped."""
        for key, raw in self.up(txn, "withdrawn", where.encode() + b"\0"):
            attempt, at = msgpack.unpackb(raw)
            yield _number(key[-8:]), attempt, at

    def drop_withdrawn(self, txn: Any, where: str, number: int) -> None:
        """The message is gone."""
        txn.delete(lane_key(where, number), db=self.db["withdrawn"])


def lane_key(where: str, number: int) -> bytes:
    """A job in a queue."""
    return where.encode() + b"\0" + _id(number)


def number_of(key: bytes) -> int:
    """The id at the end of a key."""
    return _number(key[-8:])


def _weight(row: Job | Schedule | None) -> int:
    return row.weight() if row else 0


def _job_rows(job: Job) -> Rows:
    number = _id(job.id)
    rows: Rows = {("lists", which.value + number) for which in _LISTS[job.state]}
    if job.schedule:
        outcome = _LISTS[job.state] if job.state.final else ()
        for which in (List.ALL, *outcome):
            rows |= {("executions", which.value + _id(of) + number) for of in (0, job.schedule)}
    if job.state is JobState.PENDING and job.due:
        rows.add(("due", stamped(job.due, job.id)))
    if job.state is JobState.PENDING and job.lane:
        rows.add(("waiting", lane_key(job.lane, job.id)))
        if not job.confirmed:
            rows.add(("open", number))
    if job.state.final:
        rows.add(("closed", stamped(job.closed, job.id)))
    return rows


def _schedule_rows(schedule: Schedule) -> Rows:
    rows: Rows = {("lists", List.SCHEDULES.value + _id(schedule.id))}
    if schedule.state is ScheduleState.ACTIVE:
        rows.add(("lists", List.SCHEDULED.value + _id(schedule.id)))
    else:
        rows.add(("closed", stamped(schedule.closed, schedule.id)))
    return rows


def _id(number: int) -> bytes:
    return struct.pack(">Q", number)


def _number(raw: bytes | None) -> int:
    return struct.unpack(">Q", raw)[0] if raw else 0


def _token(token: str) -> bytes:
    # Its length in bytes may be more than LMDB takes as a key.
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
