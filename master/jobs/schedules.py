"""Schedules: jobs that are launched at times.

Times are UTC, whatever the local zone is; the fields of cron may be meant in another zone. A rhythm keeps its phase.
After downtime one missed execution is made up for, then the schedule goes on as before.
"""

from __future__ import annotations

from broker import logs
from broker.messages.jobs import Order
from broker.refusals import Conflict
from master.jobs import script_catalog, unique_tokens
from master.jobs.capacity import Capacity
from master.jobs.effects import Effect
from master.jobs.ledger import LedgerTables
from master.jobs.model import CRON, Gap, Rhythm, Schedule, ScheduleState, arguments_text
from master.jobs.transitions import NewJob, Transitions
from master.metrics import figures

log = logs.get(__name__)

_NEVER = 253_000_000_000_000  # ms, in the year 9987


class Schedules:
    """Adds, executes, pauses and cancels schedules; `master.jobs.timers` says when."""

    def __init__(self, transitions: Transitions, capacity: Capacity) -> None:
        self._transitions = transitions
        self._capacity = capacity

    def add(self, tables: LedgerTables, order: Order, rhythm: Rhythm, now: int, by: str = "") -> int:
        """Save a schedule that the token `by` makes; its id, or that of the same one before with the same unique token.

        Raises `Conflict` when the token belongs to another one, `Unavailable` when there is no room for one more.
        """
        known = unique_tokens.known(tables, order, rhythm)
        if known:
            return known
        arguments = arguments_text(order.arguments)
        self._capacity.check_schedule(tables, arguments)
        launch = order.job, arguments, order.options, order.data
        schedule = Schedule(tables.next_id(), *launch, *rhythm[:3], created=now, next=rhythm.first(now), by=by)
        schedule = schedule._replace(cron=rhythm.cron, zone=rhythm.zone)
        tables.save_schedule(None, schedule)
        if order.options.unique:
            tables.save_token(order.options.unique, schedule.id)
        return schedule.id

    def cancel(self, tables: LedgerTables, schedule: Schedule, now: int) -> str:
        """End a schedule that is not over; the words for who asked for it. An execution that runs goes on."""
        tables.save_schedule(schedule, schedule._replace(state=ScheduleState.CANCELLED, closed=now))
        return f"Job {schedule.id} is not scheduled any more"

    def execute(self, tables: LedgerTables, schedule: Schedule, now: int) -> list[Effect]:
        """Launch the execution that is due, and set the next one."""
        new = schedule._replace(next=_next(schedule, now))
        figures.LATENESS.observe((now - schedule.next) / 1000)
        if schedule.repeat and (missed := schedule.rhythm.number(schedule.created, schedule.next, now)):
            # The execution stands for the last of those that are due.
            figures.LEFT_OUT.add(figures.MISSED, missed)
            log.warning("executions missed", schedule=schedule.id, executions=missed)
            new = new._replace(missed=schedule.missed + missed).with_gap(Gap(schedule.next, missed, "missed"))
        effects: list[Effect] = []
        last = tables.job(schedule.last)
        over = last is None or last.state.final
        # Executions that overlap can fill the ledger, others can't.
        if not over and (not schedule.options.overlap or self._capacity.full(tables)):
            figures.LEFT_OUT.add(figures.OVERLAP)
            log.warning("execution skipped, the last one is not over", schedule=schedule.id, job=schedule.last)
            new = new._replace(skipped=schedule.skipped + 1, skipped_at=now).with_gap(Gap(schedule.next, 1, "overlap"))
        else:
            number, effects = self._transitions.launch(
                tables,
                schedule.order(),
                "schedule",
                now,
                arguments=schedule.arguments,
                schedule=schedule.id,
                by=schedule.by,
            )
            new = new._replace(executions=schedule.executions + 1, last=number)
        if not schedule.repeat:
            new = new._replace(state=ScheduleState.ENDED, closed=now)
        tables.save_schedule(schedule, new)
        return effects

    def pause(self, tables: LedgerTables, schedule: Schedule) -> str:
        """Have a schedule that is not over do nothing until it is resumed; the words for who asked for it."""
        if schedule.state is ScheduleState.PAUSED:
            return f"Schedule {schedule.id} is paused already"
        tables.save_schedule(schedule, schedule._replace(state=ScheduleState.PAUSED))
        return f"Schedule {schedule.id} is paused"

    def resume(self, tables: LedgerTables, schedule: Schedule, now: int) -> str:
        """Have a paused schedule go on in its rhythm; what was due meanwhile is not made up for.

        One that runs once runs now if its time has passed. Returns the words for who asked for it.
        """
        if schedule.active:
            return f"Schedule {schedule.id} is active already"
        following = _next(schedule, now) if schedule.repeat else max(schedule.next, now)
        tables.save_schedule(schedule, schedule._replace(state=ScheduleState.ACTIVE, next=following))
        return f"Schedule {schedule.id} goes on"

    def run(self, tables: LedgerTables, schedule: Schedule, unique: str, now: int) -> NewJob:
        """Launch an execution now, besides those in the rhythm, of a schedule that is not over.

        `unique`: a token of this call; the same call again is the same job. Raises `Conflict` while the last execution
        is not over, `NotFound` when no node has the script, `Unavailable` when there is no room for one more job.
        """
        order = schedule.order()
        order = order._replace(options=order.options._replace(unique=unique))
        known = unique_tokens.known(tables, order, schedule=schedule.id)
        if known:
            return NewJob(known, [])
        last = tables.job(schedule.last)
        if last and not last.state.final and not schedule.options.overlap:
            raise Conflict(
                f"the last execution of schedule {schedule.id}, job {last.id}, is not over; wait for its end or cancel "
                "it, or give the schedule overlap = 1"
            )
        script_catalog.check_known(tables, order)
        self._capacity.check_job(tables, schedule.arguments)
        launched = self._transitions.launch(
            tables, order, "schedule", now, arguments=schedule.arguments, schedule=schedule.id, by=schedule.by
        )
        new = schedule._replace(executions=schedule.executions + 1, last=launched.id)
        tables.save_schedule(schedule, new)
        return launched

    def pull_back(self, tables: LedgerTables, schedule: Schedule, now: int) -> None:
        """The clock went back: the next execution is no further ahead than one period."""
        rhythm = schedule.rhythm
        latest = _next(schedule, now) if rhythm.interval == CRON else now + rhythm.period_ms
        if schedule.active and schedule.next > latest:
            log.warning("the clock went back; schedule follows", schedule=schedule.id)
            following = _next(schedule, now) if schedule.repeat else latest
            tables.save_schedule(schedule, schedule._replace(next=following))


def _next(schedule: Schedule, now: int) -> int:
    """The next time of a schedule. It was checked that its cron has one; much later there may be none any more."""
    try:
        return schedule.next_after(now)
    except StopIteration:
        return _NEVER
