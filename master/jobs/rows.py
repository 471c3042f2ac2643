"""Keys of the ledger, and the rows that follow from a job or a schedule."""

from __future__ import annotations

import hashlib
import struct
from enum import Enum

from master.index.environment import stamped
from master.jobs.model import Job, JobState, Schedule

Rows = set[tuple[str, bytes]]  # name of a table, key


class List(Enum):
    """Lists of jobs and schedules, each newest first."""

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


def of_job(job: Job) -> Rows:
    """The rows beside a job's own one."""
    number = id_key(job.id)
    rows: Rows = {("lists", which.value + number) for which in _LISTS[job.state]}
    if job.schedule:
        outcome = _LISTS[job.state] if job.state.final else ()
        for which in (List.ALL, *outcome):
            rows |= {("executions", which.value + id_key(of) + number) for of in (0, job.schedule)}
    if job.state is JobState.PENDING and job.due:
        rows.add(("due", stamped(job.due, job.id)))
    if job.state is JobState.PENDING and job.lane:
        rows.add(("waiting", lane_key(job.lane, job.id)))
        if not job.confirmed:
            rows.add(("open", number))
    if job.state.final:
        rows.add(("closed", stamped(job.closed, job.id)))
    return rows


def of_schedule(schedule: Schedule) -> Rows:
    """The rows beside a schedule's own one."""
    rows: Rows = {("lists", List.SCHEDULES.value + id_key(schedule.id))}
    if schedule.active:
        rows.add(("lists", List.SCHEDULED.value + id_key(schedule.id)))
        rows.add(("due", stamped(schedule.next, schedule.id)))
    else:
        rows.add(("closed", stamped(schedule.closed, schedule.id)))
    return rows


def id_key(number: int) -> bytes:
    """The key of an id; it is also how counters are written."""
    return struct.pack(">Q", number)


def number_of(raw: bytes | None) -> int:
    """The number that `id_key` wrote; 0 for None."""
    return struct.unpack(">Q", raw)[0] if raw else 0


def lane_key(lane: str, number: int) -> bytes:
    """The key of a job in a queue."""
    return lane.encode() + b"\0" + id_key(number)


def token_key(token: str) -> bytes:
    """The key of a unique token, whose bytes may be more than LMDB takes as a key."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()
