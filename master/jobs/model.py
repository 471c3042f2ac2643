"""Rows of the ledger for jobs and schedules, their states, and which state may follow which.

Times are milliseconds since the epoch, UTC; 0 means not yet.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgpack
from cronsim import CronSim

from broker.messages.jobs import Options, Order
from broker.messages.runs import RunEnd, RunState
from master.index.events import OF_JOBS, Event

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


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
    # A run that was short is told when it is over: claim and end in one report.
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
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
    PAUSED = 3  # nothing is due until it is resumed


INTERVALS = ("minutes", "hours", "days", "weeks")
CRON = "cron"  # the interval of a rhythm that has the five fields of cron
MAX_GAPS = 20  # that are kept of a schedule
_MOST_TIMES = 200  # of cron, which are counted one by one


class Rhythm(NamedTuple):
    """When a job runs: every `time_unit` intervals, or once after that time; or at the times of cron."""

    interval: str  # one of `INTERVALS`, or `CRON`
    time_unit: int  # 0 with cron
    repeat: bool
    cron: str = ""  # five fields
    zone: str = ""  # that cron's fields are meant in, "" for UTC

    @property
    def period_ms(self) -> int:
        """The time between two executions; not of cron."""
        return timedelta(**{self.interval: self.time_unit}) // timedelta(milliseconds=1)

    def first(self, now: int) -> int:
        """The first execution of a schedule that is made now, in ms like all times here."""
        return self.after(now, now)

    def after(self, created: int, now: int) -> int:
        """The first time after `now`, for a schedule that was made at `created`."""
        return next(self.times(created, now))

    def times(self, created: int, after: int) -> Iterator[int]:
        """All times after one, in order; with cron they may end, some decades from now."""
        if self.interval == CRON:
            zone = ZoneInfo(self.zone) if self.zone else UTC
            for moment in CronSim(self.cron, datetime.fromtimestamp(after // 1000, zone)):
                if (found := int(moment.timestamp()) * 1000) > after:
                    yield found
            return
        period = self.period_ms
        yield from itertools.count(created + ((after - created) // period + 1) * period, period)

    def number(self, created: int, after: int, until: int) -> int:
        """How many times there are after one, up to another; of cron, up to some hundred."""
        if self.interval == CRON:
            times = itertools.islice(self.times(created, after), _MOST_TIMES)
            return sum(1 for _ in itertools.takewhile(lambda time: time <= until, times))
        return max(0, (until - created) // self.period_ms - (after - created) // self.period_ms)

    def __str__(self) -> str:
        if self.interval == CRON:
            return f"{'at' if self.repeat else 'once at'} {self.cron} {self.zone or 'UTC'}"
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
    by: str = ""  # name of the token that launched it, or made its schedule; "" for none

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


def event_of(job: Job, now: int) -> Event:
    """The event that a job has got its state; `now` is in ms since the epoch."""
    told = {
        "job_id": job.id,
        "job_path": job.path,
        "state": job.state.name.lower(),
        "attempt": job.attempt,
        "node": job.node or None,
        "reason": job.reason or None,
        "schedule": job.schedule or None,
    }
    return Event(OF_JOBS[job.state], now, str(job.id), told, job.by)


class Gap(NamedTuple):
    """Executions of a schedule that were left out, one after the other."""

    due: int  # the first of them
    number: int
    cause: str  # `missed`: the master did not run; `overlap`: the last execution was not over


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
    by: str = ""  # name of the token that made it, "" for none
    cron: str = ""  # this and the next are of its `Rhythm`, too
    zone: str = ""
    missed: int = 0  # executions left out because the master did not run at their time
    gaps: tuple[Gap, ...] = ()  # the last ones, oldest first

    @property
    def active(self) -> bool:
        """Whether an execution follows by itself."""
        return self.state is ScheduleState.ACTIVE

    @property
    def over(self) -> bool:
        """Whether no execution will follow."""
        return self.state in (ScheduleState.ENDED, ScheduleState.CANCELLED)

    @property
    def rhythm(self) -> Rhythm:
        """When its job is launched."""
        return Rhythm(self.interval, self.time_unit, self.repeat, self.cron, self.zone)

    def next_after(self, now: int) -> int:
        """The first time (ms) after `now` that is in the rhythm."""
        return self.rhythm.after(self.created, now)

    def with_gap(self, gap: Gap) -> Schedule:
        """The schedule with one more gap, and without the oldest when there are many."""
        return self._replace(gaps=(*self.gaps, gap)[-MAX_GAPS:])

    def order(self) -> Order:
        """The order for one execution; the unique token is the schedule's own."""
        options = self.options._replace(unique="")
        return Order(self.path, json.loads(self.arguments), options, self.data)

    def weight(self) -> int:
        """Bytes of its arguments until it is over, then 0."""
        return 0 if self.over else arguments_bytes(self.arguments)


class JobProgress(NamedTuple):
    """How far a running job is."""

    run: str
    progress: tuple[float, float, str]  # done, total, text
    log: bytes  # the end of its log
    end: int  # bytes it has written to its log


_STATES = tuple(JobState)  # by number: a call of the enum takes longer
_PATH_AT, _OPTIONS_AT, _SOURCE_AT, _STATE_AT, _NODE_AT, _ATTEMPTS_AT = map(
    Job._fields.index, ("path", "options", "source", "state", "node", "attempts")
)


def lane(node: str, priority: str) -> str:
    """Name of a queue in the ledger: `node:` for a node's own one, `:priority` for one that all nodes pull from."""
    return f"{node}:" if node else f":{priority}"


def arguments_text(arguments: dict[str, object]) -> str:
    """Arguments as the JSON text that the ledger keeps."""
    return _ENCODER.encode(arguments)


def arguments_bytes(text: str) -> int:
    """The size of such a text in bytes."""
    return len(text) if text.isascii() else len(text.encode())


def unpack_job(raw: bytes) -> Job:
    """The job in a packed row; fields that an older version did not write have their defaults."""
    fields = list(msgpack.unpackb(raw, use_list=False))
    fields[_OPTIONS_AT] = Options(*fields[_OPTIONS_AT])
    if len(fields) > _STATE_AT:
        fields[_STATE_AT] = _STATES[fields[_STATE_AT]]
    if len(fields) > _ATTEMPTS_AT:
        fields[_ATTEMPTS_AT] = tuple(map(_unpack_attempt, fields[_ATTEMPTS_AT]))
    return Job(*fields)


def history_fields(raw: bytes) -> tuple[str, str, str]:
    """Script, source and node in the packed row of a job."""
    fields = msgpack.unpackb(raw, use_list=False)
    return fields[_PATH_AT], fields[_SOURCE_AT], fields[_NODE_AT] if len(fields) > _NODE_AT else ""


def _unpack_attempt(fields: tuple[Any, ...]) -> Attempt:
    """An attempt of a job's row; those of ledgers from before `RunEnd` have its fields between the others."""
    number, node, run, *end, late = fields
    return Attempt(number, node, run, RunEnd.unpacked(*(end if len(end) > 1 else end[0])), late)


def unpack_schedule(raw: bytes) -> Schedule:
    """The schedule in a packed row."""
    schedule = Schedule(*msgpack.unpackb(raw, use_list=False))
    gaps = tuple(Gap(*gap) for gap in schedule.gaps)
    return schedule._replace(options=Options(*schedule.options), state=ScheduleState(schedule.state), gaps=gaps)


def unpack_progress(raw: bytes) -> JobProgress:
    """How far a job is, from a packed row."""
    return JobProgress(*msgpack.unpackb(raw, use_list=False))
