"""Keys of the ledger, and the rows that follow from a job or a schedule."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import NamedTuple

from master.index.environment import stamped
from master.jobs.model import Job, JobState, Schedule

Rows = set[tuple[str, bytes]]  # name of a table, key


class List(Enum):
    """Lists of jobs and schedules, each newest first."""

    PENDINGS = b"p"  # pending and running
    RUNNING = b"r"
    READY = b"c"  # completed
    FAILED = b"f"  # failed and cancelled
    BROKEN = b"b"  # failed alone; like the next one, only in the list of all
    CANCELLED = b"k"
    SCHEDULED = b"s"  # schedules that are not over: active and paused
    SCHEDULES = b"S"  # all schedules that are kept
    ALL = b"a"  # of executions


_LISTS = {
    JobState.PENDING: (List.PENDINGS,),
    JobState.RUNNING: (List.PENDINGS, List.RUNNING),
    JobState.COMPLETED: (List.READY,),
    JobState.FAILED: (List.FAILED,),
    JobState.CANCELLED: (List.FAILED,),
}
_APART = {JobState.FAILED: List.BROKEN, JobState.CANCELLED: List.CANCELLED}
# Every change of every job looks these up, and to ask an enum for its value takes a while.
_PREFIXES = {
    state: tuple(which.value for which in (*lists, *([_APART[state]] if state in _APART else ())))
    for state, lists in _LISTS.items()
}
_FINAL = frozenset(state for state in JobState if state.final)
SCHEDULED = "schedule"  # the source of jobs that have their list among `executions`


class Ids(NamedTuple):
    """A list of ids: the keys of a table with this beginning, and an id behind it."""

    table: str
    beginning: bytes

    @classmethod
    def of_all(cls) -> Ids:
        """Every job."""
        return cls("jobs", b"")

    @classmethod
    def of_list(cls, which: List) -> Ids:
        """A list of all jobs."""
        return cls("lists", which.value)

    @classmethod
    def of_script(cls, path: str) -> Ids:
        """The jobs of a script."""
        return cls("history", b"s" + path.encode() + b"\0")

    @classmethod
    def of_node(cls, node: str) -> Ids:
        """The jobs whose last run is, or was, on a node."""
        return cls("history", b"n" + node.encode() + b"\0")

    @classmethod
    def of_source(cls, source: str) -> Ids:
        """The jobs that came from rest, queue or schedule."""
        return cls.of_schedule(0) if source == SCHEDULED else cls("history", b"o" + source.encode() + b"\0")

    @classmethod
    def of_schedule(cls, schedule: int) -> Ids:
        """The jobs that a schedule made, 0: any of them."""
        return cls("executions", List.ALL.value + id_key(schedule))

    @classmethod
    def of_owner(cls, by: str) -> Ids:
        """The jobs that a token has launched."""
        return cls("owned", owner_key(by, List.ALL))


def of_job(job: Job, history: bool = True) -> Rows:
    """The rows beside a job's own one; those of the table `history` may be left out."""
    number, state = id_key(job.id), job.state
    rows: Rows = {("lists", prefix + number) for prefix in _PREFIXES[state]}
    if history:
        rows |= {("history", beginning + number) for beginning in history_of(job.path, job.source, job.node)}
    if job.schedule:
        outcome = _LISTS[job.state] if job.state.final else ()
        for which in (List.ALL, *outcome):
            rows |= {("executions", which.value + id_key(of) + number) for of in (0, job.schedule)}
    if job.by:
        rows |= {("owned", owner_key(job.by, which) + number) for which in (*_LISTS[job.state], List.ALL)}
        if job.schedule:
            rows |= {("owned", owner_key(job.by, which, executions=True) + number) for which in outcome}
    if state is JobState.PENDING:
        if job.due:
            rows.add(("due", stamped(job.due, job.id)))
        if job.lane:
            rows.add(("waiting", lane_key(job.lane, job.id)))
            if not job.confirmed:
                rows.add(("open", number))
    elif state in _FINAL:
        rows.add(("closed", stamped(job.closed, job.id)))
    return rows


def history_of(path: str, source: str, node: str) -> list[bytes]:
    """The beginnings of the keys that a job has in the table `history`."""
    found = [b"s" + path.encode() + b"\0"]
    if source != SCHEDULED:
        found.append(b"o" + source.encode() + b"\0")
    if node:
        found.append(b"n" + node.encode() + b"\0")
    return found


def of_schedule(schedule: Schedule) -> Rows:
    """The rows beside a schedule's own one."""
    number = id_key(schedule.id)
    lists = (List.SCHEDULES,) if schedule.over else (List.SCHEDULES, List.SCHEDULED)
    rows: Rows = {("lists", which.value + number) for which in lists}
    if schedule.by:
        rows |= {("owned", owner_key(schedule.by, which) + number) for which in lists}
    if schedule.active:
        rows.add(("due", stamped(schedule.next, schedule.id)))
    elif schedule.over:
        rows.add(("closed", stamped(schedule.closed, schedule.id)))
    return rows


def owner_key(by: str, which: List, *, executions: bool = False) -> bytes:
    """The beginning of the key of a row in a list, or among executions, that the token `by` has launched."""
    return by.encode() + b"\0" + (b"x" if executions else b"") + which.value


def id_key(number: int) -> bytes:
    """The key of an id; it is also how counters are written."""
    return number.to_bytes(8, "big")


def number_of(raw: bytes | None) -> int:
    """The number that `id_key` wrote; 0 for None."""
    return int.from_bytes(raw, "big") if raw else 0


def lane_key(lane: str, number: int) -> bytes:
    """The key of a job in a queue."""
    return lane.encode() + b"\0" + id_key(number)


def token_key(token: str) -> bytes:
    """The key of a unique token, whose bytes may be more than LMDB takes as a key."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
