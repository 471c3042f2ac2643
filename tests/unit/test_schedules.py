"""Schedules: rhythm, downtime, overlap, clocks that are set, zones. The clock is moved, not waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.messages.jobs import Options, Order
from broker.messages.runs import RunState
from master.jobs.ledger import List
from master.jobs.model import Schedule, ScheduleState
from master.jobs.schedules import Rhythm, Schedules, next_time, period_ms
from master.jobs.transitions import Transitions
from tests.unit.desk import NOW, Desk, published

MINUTE = 60_000
HOUR = 60 * MINUTE
EVERY_5_MINUTES = Rhythm("minutes", 5, True)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.ledger.close()


def add(desk: Desk, rhythm: Rhythm = EVERY_5_MINUTES, options: Options = Options(), **arguments: int) -> int:  # noqa: B008
    order = Order("example/job", arguments, options)
    return desk.write(lambda txn: desk.schedules.add(txn, order, rhythm, desk.now))


def row(desk: Desk, number: int) -> Schedule:
    found = desk.read(lambda txn: desk.ledger.schedule(txn, number))
    assert found
    return found


def finish_all(desk: Desk) -> None:
    for number in desk.read(lambda txn: list(desk.ledger.listed(txn, List.PENDINGS))):
        desk.claim(number, run=number)
        desk.finish(number, RunState.COMPLETED, run=number)


def launches(desk: Desk, until: int, step: int = 1_000) -> list[int]:
    """Times of the executions while the clock goes on to `until`, ms after the beginning; each ends at once."""
    times = []
    while desk.now <= NOW + until:
        times += [desk.now - NOW] * len(published(desk.tick()))
        finish_all(desk)
        desk.now += step
    return times


def restart(desk: Desk) -> None:
    """As a new controller has it."""
    desk.runs = Transitions(desk.ledger, desk.place)
    desk.schedules = Schedules(desk.runs, desk.room)


@pytest.mark.parametrize(
    ("interval", "time_unit", "ms"),
    [("minutes", 5, 300_000), ("hours", 1, HOUR), ("days", 2, 48 * HOUR), ("weeks", 1, 7 * 24 * HOUR)],
)
def test_a_schedule_runs_every_period(desk: Desk, interval: str, time_unit: int, ms: int) -> None:
    assert period_ms(interval, time_unit) == ms
    number = add(desk, Rhythm(interval, time_unit, True), number=5)
    for turn in (1, 2, 3):
        assert row(desk, number).next == NOW + turn * ms
        desk.now = NOW + turn * ms - 1
        assert desk.tick() == []
        desk.now += 1
        assert len(published(desk.tick())) == 1
        finish_all(desk)
    job = desk.job(row(desk, number).last)
    assert (job.schedule, job.source, job.arguments) == (number, "schedule", '{"number":5}')
    assert row(desk, number).executions == 3
    assert desk.read(lambda txn: len(list(desk.ledger.executions(txn, List.READY, number)))) == 3


def test_repeat_0_runs_once_after_the_interval(desk: Desk) -> None:
    number = add(desk, Rhythm("minutes", 1, False))
    assert launches(desk, 10 * MINUTE) == [MINUTE]
    assert row(desk, number).state is ScheduleState.ENDED
    assert desk.read(lambda txn: list(desk.ledger.listed(txn, List.SCHEDULED))) == []


def test_ticks_that_come_late_do_not_shift_the_rhythm(desk: Desk) -> None:
    add(desk, Rhythm("minutes", 1, True))
    assert launches(desk, 5 * MINUTE, step=7_000) == [63_000, 126_000, 182_000, 245_000]


def test_a_restart_neither_forgets_nor_repeats(desk: Desk) -> None:
    add(desk)
    times = []
    for minute in range(1, 21):
        times += launches(desk, minute * MINUTE)
        restart(desk)
    assert [time // MINUTE for time in times] == [5, 10, 15, 20]


def test_after_downtime_a_missed_execution_is_made_up_once_and_the_rhythm_goes_on(desk: Desk) -> None:
    add(desk)
    launches(desk, 6 * MINUTE)
    restart(desk)
    desk.now = NOW + 33 * MINUTE
    assert launches(desk, 45 * MINUTE) == [33 * MINUTE, 35 * MINUTE, 40 * MINUTE, 45 * MINUTE]


def test_a_once_that_was_missed_runs_once(desk: Desk) -> None:
    add(desk, Rhythm("hours", 1, False))
    restart(desk)
    desk.now = NOW + 50 * HOUR
    assert launches(desk, 60 * HOUR, step=MINUTE) == [50 * HOUR]


def test_an_execution_is_skipped_and_noted_while_the_last_one_runs(desk: Desk) -> None:
    number = add(desk, Rhythm("minutes", 1, True))
    desk.now += MINUTE
    ((job, _, _),) = published(desk.tick())
    desk.claim(job)
    desk.now += MINUTE
    assert desk.tick() == []
    assert (row(desk, number).skipped, row(desk, number).skipped_at) == (1, desk.now)
    desk.finish(job, RunState.FAILED)
    desk.now += MINUTE
    assert len(published(desk.tick())) == 1
    assert row(desk, number).executions == 2


def test_executions_overlap_when_that_is_asked_for(desk: Desk) -> None:
    add(desk, Rhythm("minutes", 1, True), Options(overlap=1))
    for _ in range(3):
        desk.now += MINUTE
        assert len(published(desk.tick())) == 1


def test_a_cancelled_schedule_runs_no_more_and_its_history_stays(desk: Desk) -> None:
    number = add(desk)
    launches(desk, 6 * MINUTE)
    text = desk.write(lambda txn: desk.schedules.cancel(txn, row(desk, number), desk.now))
    assert text == f"Job {number} is not scheduled any more"
    assert launches(desk, 60 * MINUTE, step=MINUTE) == []
    restart(desk)
    assert launches(desk, 80 * MINUTE, step=MINUTE) == []
    assert desk.read(lambda txn: len(list(desk.ledger.executions(txn, List.ALL, number)))) == 1


def test_a_unique_token_belongs_to_the_schedule_not_to_its_executions(desk: Desk) -> None:
    number = add(desk, Rhythm("minutes", 1, True), Options(unique="nightly"))
    assert add(desk, Rhythm("minutes", 1, True), Options(unique="nightly")) == number
    assert launches(desk, 3 * MINUTE) == [MINUTE, 2 * MINUTE, 3 * MINUTE]


def test_a_thousand_schedules_due_in_one_minute_launch_in_one_tick(desk: Desk) -> None:
    desk.tick()
    for number in range(1_000):
        add(desk, Rhythm("minutes", 1, number % 2 == 0))
    desk.now += MINUTE
    begun = time.perf_counter()
    assert len(published(desk.tick())) == 1_000
    assert time.perf_counter() - begun < 20  # one after the other, each in a transaction of its own, would take minutes
    assert desk.tick() == []


def test_a_clock_an_hour_ahead_and_back_neither_floods_nor_starves(desk: Desk) -> None:
    number = add(desk, Rhythm("minutes", 1, True))
    once = add(desk, Rhythm("hours", 3, False))
    assert launches(desk, 2 * MINUTE) == [MINUTE, 2 * MINUTE]
    desk.now += HOUR
    assert len(launches(desk, HOUR + 3 * MINUTE)) == 1 + 1  # the missed one once, then the rhythm
    ahead = add(desk, Rhythm("hours", 2, False))
    back = desk.now = NOW + 3 * MINUTE + 20_000
    assert launches(desk, 5 * MINUTE) == [4 * MINUTE, 5 * MINUTE]
    assert row(desk, number).next == NOW + 6 * MINUTE
    assert row(desk, once).next == NOW + 3 * HOUR
    assert row(desk, ahead).next == back + 2 * HOUR


def test_next_time_is_in_the_rhythm_also_before_the_schedule_was_made(desk: Desk) -> None:
    made = row(desk, add(desk))
    assert next_time(made, NOW) == NOW + 5 * MINUTE
    assert next_time(made, NOW + 5 * MINUTE) == NOW + 10 * MINUTE
    assert next_time(made, NOW - 7 * MINUTE) == NOW - 5 * MINUTE


def test_a_transaction_that_came_to_nothing_loses_no_execution(desk: Desk) -> None:
    number = add(desk)
    desk.tick()
    desk.now += 5 * MINUTE
    txn = desk.ledger.begin(write=True)
    assert len(published(desk.schedules.tick(txn, desk.now))) == 1
    txn.abort()
    desk.schedules.forget_timers()
    assert len(published(desk.tick())) == 1
    assert row(desk, number).executions == 1


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/New_York", "Pacific/Kiritimati"])
def test_the_zone_of_the_machine_does_not_matter(desk: Desk, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The day on which New York puts its clocks back: an hour comes twice there.
    desk.now = int(datetime(2023, 11, 5, tzinfo=UTC).timestamp() * 1000)
    begun = desk.now - NOW
    try:
        with monkeypatch.context() as environment:
            environment.setenv("TZ", zone)
            time.tzset()
            add(desk, Rhythm("minutes", 30, True))
            times = launches(desk, begun + 24 * HOUR, step=MINUTE)
    finally:
        time.tzset()
    assert times == [begun + half * 30 * MINUTE for half in range(1, 49)]
