"""Schedules: jobs that are launched at times.

Times are UTC, whatever the local zone is. A rhythm keeps its phase. After downtime one missed execution is made up for,
then the schedule goes on as before.
"""

from __future__ import annotations

from broker import logs
from broker.messages.jobs import Order
from master.jobs import unique_tokens
from master.jobs.capacity import Capacity
from master.jobs.effects import Effect
from master.jobs.ledger import LedgerTables
from master.jobs.model import Rhythm, Schedule, ScheduleState, arguments_text
from master.jobs.transitions import Transitions

log = logs.get(__name__)


class Schedules:
    """Adds, executes and cancels schedules; `master.jobs.timers` says when."""

    def __init__(self, transitions: Transitions, capacity: Capacity) -> None:
        self._transitions = transitions
        self._capacity = capacity

    def add(self, tables: LedgerTables, order: Order, rhythm: Rhythm, now: int) -> int:
        """Save a schedule; its id, or that of the same one before with the same unique token.

        Raises `Conflict` when the token belongs to another one, `Unavailable` when there is no room for one more.
        """
        known = unique_tokens.known(tables, order, rhythm)
        if known:
            return known
        arguments = arguments_text(order.arguments)
        self._capacity.check_schedule(tables, arguments)
        launch = order.job, arguments, order.options, order.data
        schedule = Schedule(tables.next_id(), *launch, *rhythm, created=now, next=now + rhythm.period_ms)
        tables.save_schedule(None, schedule)
        if order.options.unique:
            tables.save_token(order.options.unique, schedule.id)
        return schedule.id

    def cancel(self, tables: LedgerTables, schedule: Schedule, now: int) -> str:
        """End an active schedule, and return the words for who asked for it. An execution that runs goes on."""
        tables.save_schedule(schedule, schedule._replace(state=ScheduleState.CANCELLED, closed=now))
        return f"Job {schedule.id} is not scheduled any more"

    def execute(self, tables: LedgerTables, schedule: Schedule, now: int) -> list[Effect]:
        """Launch the execution that is due, and set the next one."""
        new = schedule._replace(next=schedule.next_after(now))
        effects: list[Effect] = []
        last = tables.job(schedule.last)
        over = last is None or last.state.final
        # Executions that overlap can fill the ledger, others can't.
        if not over and (not schedule.options.overlap or self._capacity.full(tables)):
            log.warning("execution skipped, the last one is not over", schedule=schedule.id, job=schedule.last)
            new = new._replace(skipped=schedule.skipped + 1, skipped_at=now)
        else:
            number, effects = self._transitions.launch(
                tables, schedule.order(), "schedule", now, arguments=schedule.arguments, schedule=schedule.id
            )
            new = new._replace(executions=schedule.executions + 1, last=number)
        if not schedule.repeat:
            new = new._replace(state=ScheduleState.ENDED, closed=now)
        tables.save_schedule(schedule, new)
        return effects

    def pull_back(self, tables: LedgerTables, schedule: Schedule, now: int) -> None:
        """The clock went back: the next execution is no further ahead than one period."""
        latest = now + schedule.rhythm.period_ms
        if schedule.active and schedule.next > latest:
            log.warning("the clock went back; schedule follows", schedule=schedule.id)
            following = schedule.next_after(now) if schedule.repeat else latest
            tables.save_schedule(schedule, schedule._replace(next=following))
