"""What the ledger says of a job and of a schedule: the rows, their states, and which state may follow which.

Times are milliseconds since the epoch, UTC; 0 means not yet.
"""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from broker.messages.jobs import Options, Order
from broker.messages.runs import RunEnd, RunState


class JobState(IntEnum):
    """Where a job is."""

    PENDING = 0  # in a queue, or waiting for its retry or for a node
    RUNNING = 1  # a node has claimed it
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return not MAY_FOLLOW[self]

    def may_become(self, state: JobState) -> bool:
        """Whether a job may go from this state to that one."""
        return state in MAY_FOLLOW[self]

    @classmethod
    def after(cls, state: RunState) -> JobState:
        """The state of a job whose last run has ended like this."""
        return cls.FAILED if state is RunState.LOST else cls[state.name]


MAY_FOLLOW: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.PENDING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
    JobState.COMPLETED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}


class ScheduleState(IntEnum):
    """Where a schedule is."""

    ACTIVE = 0
    ENDED = 1  # it was to run once, and has
    CANCELLED = 2


class Attempt(NamedTuple):
    """A run that is over."""

    attempt: int
    node: str
    run: str
    end: RunEnd
    late: bool  # its report came when the attempt had been given up; it changed nothing


class Job(NamedTuple):
    """A job as the ledger has it."""

    id: int
    path: str
    arguments: str  # a JSON object
    options: Options
    data: str  # the key it works on, "" for none
    source: str  # rest, queue or schedule
    schedule: int  # that it is an execution of, 0 for none
    created: int
    state: JobState = JobState.PENDING
    attempt: int = 1
    lane: str = ""  # where the message of this attempt is, "" when there is none; see `lane`
    published: int = 0  # how often that message was sent
    confirmed: int = 0  # when the broker had it safe
    due: int = 0  # when the retry is to be published
    node: str = ""
    run: str = ""  # the one that was claimed first for this attempt
    claimed: int = 0
    started: int = 0  # by the node's clock
    ended: int = 0  # by the node's clock
    closed: int = 0  # when it got its final state, by the master's clock
    reason: str = ""
    log_key: str = ""
    output_key: str = ""
    cancelling: bool = False
    progress: tuple[float, float, str] = (0.0, 0.0, "")  # done, total, text
    attempts: tuple[Attempt, ...] = ()  # oldest first

    def order(self) -> Order:
        """The message for this attempt."""
        return Order(self.path, json.loads(self.arguments), self.options, self.data, self.id, self.attempt)

    def weight(self) -> int:
        """Bytes of its arguments while it is pending, else 0."""
        return arguments_bytes(self.arguments) if self.state is JobState.PENDING else 0


class Schedule(NamedTuple):
    """A job that is to be run at times."""

    id: int  # of the same counter as those of jobs
    path: str
    arguments: str  # a JSON object
    options: Options
    data: str
    interval: str  # minutes, hours, days or weeks
    time_unit: int  # how many of them
    repeat: bool
    created: int
    next: int
    state: ScheduleState = ScheduleState.ACTIVE
    executions: int = 0
    last: int = 0  # id of the last execution's job
    skipped: int = 0  # executions that were left out because the last one still ran
    skipped_at: int = 0
    closed: int = 0

    def order(self) -> Order:
        """The order for one execution; the unique token is the schedule's own."""
        options = self.options._replace(unique="")
        return Order(self.path, json.loads(self.arguments), options, self.data)

    def weight(self) -> int:
        """Bytes of its arguments while it is active, else 0."""
        return arguments_bytes(self.arguments) if self.state is ScheduleState.ACTIVE else 0


class JobProgress(NamedTuple):
    """How far a running job is."""

    run: str
    progress: tuple[float, float, str]  # done, total, text
    log: bytes  # the end of what it has written
    end: int  # bytes that it has written


def lane(node: str, priority: str) -> str:
    """Name of the queue that a message waits in: `node:` for a node's own one, else `:priority`."""
    return f"{node}:" if node else f":{priority}"


def arguments_text(arguments: dict[str, Any]) -> str:
    """The arguments as the JSON text that the ledger keeps."""
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


def arguments_bytes(text: str) -> int:
    """The size of that text in bytes."""
    return len(text) if text.isascii() else len(text.encode())


def unpack_job(raw: bytes) -> Job:
    """The job that `index.pack` made; a row of an older version has the later fields' defaults."""
    job = Job(*msgpack.unpackb(raw, use_list=False))
    return job._replace(
        options=Options(*job.options),
        state=JobState(job.state),
        attempts=tuple(map(_unpack_attempt, job.attempts)),
    )


def _unpack_attempt(fields: tuple[Any, ...]) -> Attempt:
    """An attempt of a job's row; those of ledgers from before `RunEnd` have its fields between the others."""
    number, node, run, *end, late = fields
    return Attempt(number, node, run, RunEnd.unpacked(*(end if len(end) > 1 else end[0])), late)


def unpack_schedule(raw: bytes) -> Schedule:
    """The schedule that `index.pack` made."""
    schedule = Schedule(*msgpack.unpackb(raw, use_list=False))
    return schedule._replace(options=Options(*schedule.options), state=ScheduleState(schedule.state))


def unpack_live(raw: bytes) -> JobProgress:
    """How far a job is, as `index.pack` made it."""
    return JobProgress(*msgpack.unpackb(raw, use_list=False))
