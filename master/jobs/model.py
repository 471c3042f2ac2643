"""Rows of the ledger for jobs and schedules, their states, and which state may follow which.

Times are milliseconds since the epoch, UTC; 0 means not yet.
"""

from __future__ import annotations

import json
from datetime import timedelta
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from broker.messages.jobs import Options, Order
from broker.messages.runs import RunEnd, RunState


class JobState(IntEnum):
    """Where a job is."""

    PENDING = 0  # in a queue, or it waits for its retry or for a node
    RUNNING = 1  # a node has claimed it
    COMPLETED = 2
    FAILED = 3
    CANCELLED = 4

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return not MAY_FOLLOW[self]

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
    ENDED = 1  # it ran once, as asked
    CANCELLED = 2


INTERVALS = ("minutes", "hours", "days", "weeks")


class Rhythm(NamedTuple):
    """When a job runs: every `time_unit` intervals, or once after that time."""

    interval: str  # one of `INTERVALS`
    time_unit: int
    repeat: bool

    @property
    def period_ms(self) -> int:
        """The time between two executions."""
        return timedelta(**{self.interval: self.time_unit}) // timedelta(milliseconds=1)

    def __str__(self) -> str:
        return f"{'every' if self.repeat else 'once in'} {self.time_unit} {self.interval}"


class Attempt(NamedTuple):
    """A run that is over."""

    attempt: int
    node: str
    run: str
    end: RunEnd
    late: bool  # its report came when the attempt had been given up; it changed nothing


class AttemptId(NamedTuple):
    """One attempt at a job."""

    job: int
    attempt: int


class Job(NamedTuple):
    """A job, whose message is one attempt at it."""

    id: int
    path: str
    arguments: str  # a JSON object
    options: Options
    data: str  # the key it works on, "" for none
    source: str  # rest, queue or schedule
    schedule: int  # the schedule that launched it, 0 for none
    created: int
    state: JobState = JobState.PENDING
    attempt: int = 1
    lane: str = ""  # the queue with the message of this attempt, "" when there is none; see `lane`
    published: int = 0  # how often that message was sent
    confirmed: int = 0  # when the broker confirmed it
    due: int = 0  # when the retry is published
    node: str = ""
    run: str = ""  # the first one claimed for this attempt
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

    @property
    def attempt_id(self) -> AttemptId:
        """The current attempt."""
        return AttemptId(self.id, self.attempt)

    def order(self) -> Order:
        """The message for this attempt."""
        return Order(self.path, json.loads(self.arguments), self.options, self.data, self.id, self.attempt)

    def weight(self) -> int:
        """Bytes of its arguments while it is pending, else 0."""
        return arguments_bytes(self.arguments) if self.state is JobState.PENDING else 0


class Schedule(NamedTuple):
    """When a job is launched again and again, or once later."""

    id: int  # from the same counter as ids of jobs
    path: str
    arguments: str  # a JSON object
    options: Options
    data: str
    interval: str  # this and the next two are its `Rhythm`
    time_unit: int
    repeat: bool
    created: int
    next: int  # when the next execution is due
    state: ScheduleState = ScheduleState.ACTIVE
    executions: int = 0
    last: int = 0  # id of the last execution's job
    skipped: int = 0  # executions left out because the last one still ran
    skipped_at: int = 0
    closed: int = 0

    @property
    def active(self) -> bool:
        """Whether an execution follows."""
        return self.state is ScheduleState.ACTIVE

    @property
    def rhythm(self) -> Rhythm:
        """When its job is launched."""
        return Rhythm(self.interval, self.time_unit, self.repeat)

    def next_after(self, now: int) -> int:
        """The first time (ms) after `now` that is in the rhythm."""
        period = self.rhythm.period_ms
        return self.created + ((now - self.created) // period + 1) * period

    def order(self) -> Order:
        """The order for one execution; the unique token is the schedule's own."""
        options = self.options._replace(unique="")
        return Order(self.path, json.loads(self.arguments), options, self.data)

    def weight(self) -> int:
        """Bytes of its arguments while it is active, else 0."""
        return arguments_bytes(self.arguments) if self.active else 0


class JobProgress(NamedTuple):
    """How far a running job is."""

    run: str
    progress: tuple[float, float, str]  # done, total, text
    log: bytes  # the end of its log
    end: int  # bytes it has written to its log


def lane(node: str, priority: str) -> str:
    """Name of a queue in the ledger: `node:` for a node's own one, `:priority` for one that all nodes pull from."""
    return f"{node}:" if node else f":{priority}"


def arguments_text(arguments: dict[str, object]) -> str:
    """Arguments as the JSON text that the ledger keeps."""
    return json.dumps(arguments, ensure_ascii=False, separators=(",", ":"))


def arguments_bytes(text: str) -> int:
    """The size of such a text in bytes."""
    return len(text) if text.isascii() else len(text.encode())


def unpack_job(raw: bytes) -> Job:
    """The job in a packed row; fields that an older version did not write have their defaults."""
    job = Job(*msgpack.unpackb(raw, use_list=False))
    attempts = tuple(map(_unpack_attempt, job.attempts))
    return job._replace(options=Options(*job.options), state=JobState(job.state), attempts=attempts)


def _unpack_attempt(fields: tuple[Any, ...]) -> Attempt:
    """An attempt of a job's row; those of ledgers from before `RunEnd` have its fields between the others."""
    number, node, run, *end, late = fields
    return Attempt(number, node, run, RunEnd.unpacked(*(end if len(end) > 1 else end[0])), late)


def unpack_schedule(raw: bytes) -> Schedule:
    """The schedule in a packed row."""
    schedule = Schedule(*msgpack.unpackb(raw, use_list=False))
    return schedule._replace(options=Options(*schedule.options), state=ScheduleState(schedule.state))


def unpack_progress(raw: bytes) -> JobProgress:
    """How far a job is, from a packed row."""
    return JobProgress(*msgpack.unpackb(raw, use_list=False))
