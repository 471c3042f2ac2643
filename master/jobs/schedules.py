"""Schedules: jobs that are launched at times.

The library `schedule` keeps the timers and says which are due; the next execution of each is stored in the
ledger. What differs from the library: times are UTC whatever the local zone is, the clock is handed in, and
a rhythm keeps its phase: after downtime a missed execution is made up for once, then it goes on as before.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, NamedTuple

import schedule

from broker import logs
from broker.clock import now_ms
from broker.messages.jobs import Order
from master.jobs import unique_tokens
from master.jobs.capacity import Capacity
from master.jobs.effects import Action
from master.jobs.ledger import Ledger, List
from master.jobs.model import Schedule, ScheduleState, arguments_text
from master.jobs.transitions import Transitions

log = logs.get(__name__)

INTERVALS = ("minutes", "hours", "days", "weeks")
CLOCK_STEP_MS = 1_000  # a clock that goes back by less is only being tuned


class Rhythm(NamedTuple):
    """When a job is to be run: every `time_unit` `interval`, or once after that."""

    interval: str
    time_unit: int
    repeat: bool


def period_ms(interval: str, time_unit: int) -> int:
    """The time between two executions."""
    return int(timedelta(**{interval: time_unit}).total_seconds() * 1000)


def next_time(row: Schedule, now: int) -> int:
    """The first time after `now` that is in the rhythm of a schedule, ms since the epoch."""
    period = period_ms(row.interval, row.time_unit)
    return row.created + ((now - row.created) // period + 1) * period


class Schedules:
    """Of the controller; used on its thread alone."""

    def __init__(self, runs: Transitions, room: Capacity) -> None:
        self._runs = runs
        self._room = room
        self._ledger: Ledger = runs.ledger
        self._timers = _Timers()
        self._loaded = False
        self._seen = 0  # ms, the clock at the last tick

    def add(self, txn: Any, order: Order, rhythm: Rhythm, now: int) -> int:
        """Keep a schedule; its id, or that of the same one before with the same unique token.

        Raises `Conflict` when the token is another one's, `Unavailable` when there is no room for one more.
        """
        known = unique_tokens.known(self._ledger, txn, order, rhythm)
        if known:
            return known
        self._room.check_schedule(txn, order)
        token = order.options.unique
        number = self._ledger.next_id(txn)
        row = Schedule(
            number,
            order.job,
            arguments_text(order.arguments),
            order.options,
            order.data,
            *rhythm,
            created=now,
            next=now + period_ms(rhythm.interval, rhythm.time_unit),
        )
        self._ledger.save_schedule(txn, None, row)
        if token:
            self._ledger.keep_token(txn, token, number)
        if self._loaded:
            self._timers.add(row)
        return number

    def cancel(self, txn: Any, row: Schedule, now: int) -> str:
        """End an active schedule; an execution that runs goes on. What to answer."""
        self._ledger.save_schedule(txn, row, row._replace(state=ScheduleState.CANCELLED, closed=now))
        self._timers.drop(row.id)
        return f"Job {row.id} is not scheduled any more"

    def tick(self, txn: Any, now: int) -> list[Action]:
        """Launch what is due."""
        if not self._loaded:
            self._load(txn)
        if now < self._seen - CLOCK_STEP_MS or not self._seen:
            self._pull_back(txn, now)
        self._seen = now
        return self._timers.run(now, partial(self._execute, txn, now))

    def forget_timers(self) -> None:
        """The last transaction came to nothing: the timers are made again from the ledger."""
        self._loaded = False

    def _load(self, txn: Any) -> None:
        self._timers = _Timers()
        for number in self._ledger.listed(txn, List.SCHEDULED):
            row = self._ledger.schedule(txn, number)
            if row:
                self._timers.add(row)
        self._loaded = True

    def _pull_back(self, txn: Any, now: int) -> None:
        """The clock went back, or may have: nothing is further ahead than one period."""
        for number in list(self._ledger.listed(txn, List.SCHEDULED)):
            row = self._ledger.schedule(txn, number)
            if row is None or row.next <= now + period_ms(row.interval, row.time_unit):
                continue
            when = next_time(row, now) if row.repeat else now + period_ms(row.interval, row.time_unit)
            log.warning("the clock went back; schedule follows", schedule=row.id)
            self._timers.move(self._ledger.save_schedule(txn, row, row._replace(next=when)))

    def _execute(self, txn: Any, now: int, number: int) -> tuple[int | None, list[Action]]:
        """Launch one execution: when the next one is (None: never), and what is to be done."""
        row = self._ledger.schedule(txn, number)
        if row is None or row.state is not ScheduleState.ACTIVE:
            return None, []
        actions: list[Action] = []
        new = row._replace(next=next_time(row, now))
        last = self._ledger.job(txn, row.last)
        over = last is None or last.state.final
        # One at a time can't fill the ledger; those that overlap can.
        if not over and (not row.options.overlap or self._room.full(txn)):
            log.warning("execution skipped, the last one is not over", schedule=row.id, job=row.last)
            new = new._replace(skipped=row.skipped + 1, skipped_at=now)
        else:
            (job,), actions = self._runs.launch(txn, [row.order()], "schedule", now, schedule=row.id)
            new = new._replace(executions=row.executions + 1, last=job)
        if not row.repeat:
            new = new._replace(state=ScheduleState.ENDED, closed=now)
        self._ledger.save_schedule(txn, row, new)
        return (new.next if row.repeat else None), actions


class _Timers:
    """The library's scheduler, with a clock that is handed in."""

    def __init__(self) -> None:
        self._scheduler = schedule.Scheduler()
        self._by_id: dict[int, _Timer] = {}
        self._now = now_ms()
        self._execute: Any = None
        self._actions: list[Action] = []

    def add(self, row: Schedule) -> None:
        """Set a timer for a schedule."""
        timer = _Timer(self, row)
        self._by_id[row.id] = timer
        timer.do(self._due, row.id)

    def move(self, row: Schedule) -> None:
        """Set the timer of a schedule anew."""
        self._by_id[row.id].next = row.next
        self._by_id[row.id].set()

    def drop(self, number: int) -> None:
        """Remove the timer of a schedule, if there is one."""
        timer = self._by_id.pop(number, None)
        if timer:
            self._scheduler.cancel_job(timer)

    def run(self, now: int, execute: Any) -> list[Action]:
        """Call `execute(id)` for everything that is due; it returns the next time, or None, and actions."""
        self._now, self._execute, self._actions = now, execute, []
        self._scheduler.run_pending()
        return self._actions

    def is_due(self, when: datetime) -> bool:
        """Whether a time has come."""
        return when <= _utc(self._now)

    @property
    def scheduler(self) -> schedule.Scheduler:
        """The library's."""
        return self._scheduler

    def _due(self, number: int) -> Any:
        following, actions = self._execute(number)
        self._actions += actions
        if following is None:
            del self._by_id[number]
            return schedule.CancelJob
        self._by_id[number].next = following
        return None


class _Timer(schedule.Job):
    """One schedule for the library. Its times are UTC, without a zone, as the library has them."""

    def __init__(self, timers: _Timers, row: Schedule) -> None:
        super().__init__(row.time_unit, timers.scheduler)
        self.unit = row.interval
        self.next = row.next  # ms
        self._timers = timers

    @property
    def should_run(self) -> bool:
        """Whether it is due."""
        return self._timers.is_due(_utc(self.next))

    def set(self) -> None:
        """Have the library know the next time."""
        self.next_run = _utc(self.next)

    def _schedule_next_run(self) -> None:
        self.set()


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=None)
