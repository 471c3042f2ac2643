"""Schedules: rhythm, downtime, overlap, clocks that are set, zones. The clock is moved, not waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.messages.jobs import Options, Order
from broker.messages.runs import NodeCatalog, RunState
from broker.refusals import Conflict, NotFound, Unavailable
from master.index.environment import stamped
from master.jobs.capacity import Capacity, CapacityLimits
from master.jobs.ledger import Ledger
from master.jobs.model import MAX_GAPS, Gap, Rhythm, Schedule, ScheduleState
from master.jobs.rows import List
from master.jobs.timers import MOST
from master.jobs.transitions import NewJob
from tests.unit.desk import NOW, Desk, published

# Every row of a ledger at commit 327db85: table, key and value.
OLD_ROWS = (
    (
        "jobs",
        "0000000000000004",
        "dc001a04ab6578616d706c652f6a6f62a27b7d9900020aa66e6f726d616c00a0a00090a0a47265737400cf0000018bcfe568000002a00000"
        "cf0000018bcfe58f10a26e31a0cf0000018bcfe56800cf0000018bcfe56800cf0000018bcfe56ddc00a0a36c6f67a66f7574707574c293cb"
        "0000000000000000cb0000000000000000a0919801a26e31d920303030303030303030303030303030303030303030303030303030303030"
        "303101a0cf0000018bcfe56800cf0000018bcfe56ddcc2",
    ),
    (
        "schedules",
        "0000000000000001",
        "dc001001ab6578616d706c652f6a6f62a77b226e223a317d99000000a66e6f726d616c00a0a00090a0a76d696e7574657305c3cf0000018b"
        "cfe56800cf0000018bcfe9fbe0000000000000",
    ),
    (
        "schedules",
        "0000000000000002",
        "dc001002ab6578616d706c652f6a6f62a27b7d99000000a66e6f726d616c00a0a00090a0a5686f75727301c2cf0000018bcfe56800cf0000"
        "018bd01c5680000000000000",
    ),
    (
        "schedules",
        "0000000000000003",
        "dc001003ab6578616d706c652f6a6f62a27b7d99000000a66e6f726d616c00a0a00090a0a76d696e7574657301c3cf0000018bcfe56800cf"
        "0000018bcfe652600200000000cf0000018bcfe56800",
    ),
    ("lists", "530000000000000001", ""),
    ("lists", "530000000000000002", ""),
    ("lists", "530000000000000003", ""),
    ("lists", "700000000000000004", ""),
    ("lists", "730000000000000001", ""),
    ("lists", "730000000000000002", ""),
    ("due", "0000018bcfe58f100000000000000004", ""),
    ("closed", "0000018bcfe568000000000000000003", ""),
    ("meta", "62797465733a70", "0000000000000002"),
    ("meta", "62797465733a73", "0000000000000009"),
    ("meta", "636f756e743a53", "0000000000000003"),
    ("meta", "636f756e743a70", "0000000000000001"),
    ("meta", "636f756e743a72", "0000000000000000"),
    ("meta", "636f756e743a73", "0000000000000002"),
    ("meta", "6964", "0000000000000004"),
)

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
    return desk.write(lambda tables: desk.schedules.add(tables, order, rhythm, desk.now))


def row(desk: Desk, number: int) -> Schedule:
    found = desk.read(lambda tables: tables.schedule(number))
    assert found
    return found


def finish_all(desk: Desk) -> None:
    for number in desk.read(lambda tables: list(tables.listed(List.PENDINGS))):
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


@pytest.mark.parametrize(
    ("interval", "time_unit", "ms"),
    [("minutes", 5, 300_000), ("hours", 1, HOUR), ("days", 2, 48 * HOUR), ("weeks", 1, 7 * 24 * HOUR)],
)
def test_a_schedule_runs_every_period(desk: Desk, interval: str, time_unit: int, ms: int) -> None:
    assert Rhythm(interval, time_unit, True).period_ms == ms
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
    assert desk.read(lambda tables: len(list(tables.executions(List.READY, number)))) == 3


def test_repeat_0_runs_once_after_the_interval(desk: Desk) -> None:
    number = add(desk, Rhythm("minutes", 1, False))
    assert launches(desk, 10 * MINUTE) == [MINUTE]
    assert row(desk, number).state is ScheduleState.ENDED
    assert desk.read(lambda tables: list(tables.listed(List.SCHEDULED))) == []


def test_ticks_that_come_late_do_not_shift_the_rhythm(desk: Desk) -> None:
    add(desk, Rhythm("minutes", 1, True))
    assert launches(desk, 5 * MINUTE, step=7_000) == [63_000, 126_000, 182_000, 245_000]


def test_a_restart_neither_forgets_nor_repeats(desk: Desk) -> None:
    add(desk)
    times = []
    for minute in range(1, 21):
        times += launches(desk, minute * MINUTE)
        desk.restart()
    assert [time // MINUTE for time in times] == [5, 10, 15, 20]


def test_after_downtime_a_missed_execution_is_made_up_once_and_the_rhythm_goes_on(desk: Desk) -> None:
    add(desk)
    launches(desk, 6 * MINUTE)
    desk.restart()
    desk.now = NOW + 33 * MINUTE
    assert launches(desk, 45 * MINUTE) == [33 * MINUTE, 35 * MINUTE, 40 * MINUTE, 45 * MINUTE]


def test_a_once_that_was_missed_runs_once(desk: Desk) -> None:
    add(desk, Rhythm("hours", 1, False))
    desk.restart()
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
    text = desk.write(lambda tables: desk.schedules.cancel(tables, row(desk, number), desk.now))
    assert text == f"Job {number} is not scheduled any more"
    assert launches(desk, 60 * MINUTE, step=MINUTE) == []
    desk.restart()
    assert launches(desk, 80 * MINUTE, step=MINUTE) == []
    assert desk.read(lambda tables: len(list(tables.executions(List.ALL, number)))) == 1


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
    assert len(desk.keys("due")) == 500, "those that are to run once are over"


def test_more_than_a_thousand_timers_take_several_ticks_the_longest_overdue_first(desk: Desk) -> None:
    desk.tick()
    numbers = [add(desk, Rhythm("minutes", 1 + number % 2, False)) for number in range(MOST + 200)]
    desk.now += 2 * MINUTE
    first, second = published(desk.tick()), published(desk.tick())
    assert (len(first), len(second), desk.tick()) == (MOST, 200, [])
    schedules = [desk.job(job).schedule for job, _, _ in first]
    assert set(numbers[::2]) <= set(schedules)


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
    assert made.next_after(NOW) == NOW + 5 * MINUTE
    assert made.next_after(NOW + 5 * MINUTE) == NOW + 10 * MINUTE
    assert made.next_after(NOW - 7 * MINUTE) == NOW - 5 * MINUTE


def test_a_transaction_that_came_to_nothing_loses_no_execution(desk: Desk) -> None:
    number = add(desk)
    desk.tick()
    desk.now += 5 * MINUTE
    (effects,) = desk.aborted(lambda tables: desk.timers.tick(tables, desk.now))
    assert len(published(effects)) == 1
    assert len(published(desk.tick())) == 1
    assert row(desk, number).executions == 1


def test_schedules_of_a_ledger_without_their_timers_are_taken_over_at_the_start(tmp_path: Path) -> None:
    # Given a ledger as the version before wrote it: one schedule that repeats, one that does not, one cancelled, a retry
    ledger = Ledger(tmp_path / "ledger", write=True, map_size=256 << 20)
    with ledger.write() as tables:
        for table, key, value in OLD_ROWS:
            tables._put(table, bytes.fromhex(key), bytes.fromhex(value))
        tables._delete("meta", b"format")
    ledger.close()
    # When this version opens it
    desk = Desk(tmp_path)
    # Then they go on
    assert len(desk.keys("due")) == 3
    assert desk.read(lambda view: [view.count(which) for which in (List.SCHEDULED, List.SCHEDULES)]) == [2, 3]
    assert launches(desk, HOUR, step=MINUTE) == [MINUTE, *[5 * turn * MINUTE for turn in range(1, 13)], HOUR]
    assert [row(desk, number).state.name for number in (1, 2, 3)] == ["ACTIVE", "ENDED", "CANCELLED"]
    # And a timer that fits no job or schedule any more, as the version before leaves it, is dropped
    desk.write(lambda tables: [tables._put("due", stamped(NOW, number), b"") for number in (1, 2, 3, 99)])
    assert desk.tick() == []
    assert len(desk.keys("due")) == 1
    desk.ledger.close()


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


def test_a_paused_schedule_does_nothing_until_it_goes_on_in_its_rhythm(desk: Desk) -> None:
    number = add(desk)
    for _ in range(2):
        assert "paused" in desk.write(lambda tables: desk.schedules.pause(tables, row(desk, number)))
    assert row(desk, number).state is ScheduleState.PAUSED
    assert desk.keys("due") == []
    assert desk.read(lambda view: list(view.listed(List.SCHEDULED))) == [number]  # and not one to forget
    assert desk.keys("closed") == []
    desk.restart()
    assert launches(desk, 17 * MINUTE, step=MINUTE) == []
    for _ in range(2):
        desk.write(lambda tables: desk.schedules.resume(tables, row(desk, number), desk.now))
    desk.restart()
    assert launches(desk, 31 * MINUTE, step=MINUTE) == [turn * 5 * MINUTE for turn in (4, 5, 6)]
    assert (row(desk, number).missed, row(desk, number).gaps) == (0, ())


def test_a_paused_schedule_that_runs_once_runs_when_it_goes_on_after_its_time(desk: Desk) -> None:
    early, late = (add(desk, Rhythm("minutes", 10, False), number=one) for one in (1, 2))
    for number in (early, late):
        desk.write(lambda tables, number=number: desk.schedules.pause(tables, row(desk, number)))  # type: ignore[misc]
    desk.now += 3 * MINUTE
    desk.write(lambda tables: desk.schedules.resume(tables, row(desk, early), desk.now))
    assert row(desk, early).next == NOW + 10 * MINUTE
    desk.now += 30 * MINUTE
    assert len(published(desk.tick())) == 1
    desk.write(lambda tables: desk.schedules.resume(tables, row(desk, late), desk.now))
    assert len(published(desk.tick())) == 1
    assert row(desk, late).state is ScheduleState.ENDED


def run_now(desk: Desk, number: int, unique: str = "") -> NewJob:
    return desk.write(lambda tables: desk.schedules.run(tables, row(desk, number), unique, desk.now))


def test_the_token_of_an_execution_is_none_of_another_schedule_or_launch(desk: Desk) -> None:
    # Given two schedules of the same script and arguments
    desk.write(lambda tables: tables.save_catalog(NodeCatalog("n1", "d", [{"path": "example/job"}])))
    first, second = add(desk, n=1), add(desk, n=1)
    made = run_now(desk, first, "today")
    finish_all(desk)
    # Then a client that runs both with one token is told that the second one did not run
    with pytest.raises(Conflict, match=f"belongs to job {made.id}.* schedule {first} instead of schedule {second}"):
        run_now(desk, second, "today")
    with pytest.raises(Conflict, match=f"schedule {first} instead of no schedule"):
        desk.launch(Order("example/job", {"n": 1}, Options(unique="today")))
    assert run_now(desk, first, "today").id == made.id


def test_an_execution_now_is_one_more_and_happens_once_for_its_token(desk: Desk) -> None:
    desk.write(lambda tables: tables.save_catalog(NodeCatalog("n1", "d", [{"path": "example/job"}])))
    number = add(desk, n=1)
    desk.write(lambda tables: desk.schedules.pause(tables, row(desk, number)))  # it may be paused
    first = run_now(desk, number, "once")
    assert [job for job, _, _ in published(first.effects)] == [first.id]
    # A client that has got no reply asks again, also after the controller was killed
    desk.restart()
    assert run_now(desk, number, "once") == (first.id, [])
    job = desk.job(first.id)
    assert (job.schedule, job.source, job.arguments, row(desk, number).executions) == (number, "schedule", '{"n":1}', 1)
    with pytest.raises(Conflict, match=f"the last execution of schedule {number}, job {first.id}, is not over"):
        run_now(desk, number, "twice")
    finish_all(desk)
    second = run_now(desk, number, "twice")
    assert second.id != first.id
    assert row(desk, number).last == second.id
    assert desk.read(lambda view: list(view.executions(List.ALL, number))) == [second.id, first.id]


def test_an_execution_now_is_refused_without_a_node_and_without_room(desk: Desk) -> None:
    number = add(desk)
    with pytest.raises(NotFound, match="no node has the script"):
        run_now(desk, number)
    desk.write(lambda tables: tables.save_catalog(NodeCatalog("n1", "d", [{"path": "example/job"}])))
    desk.capacity = Capacity(CapacityLimits(jobs=0))
    desk.restart()
    with pytest.raises(Unavailable, match="max_pending"):
        run_now(desk, number)
    assert row(desk, number).executions == 0


def test_what_downtime_and_overlap_left_out_is_known(desk: Desk) -> None:
    number = add(desk)
    desk.now = NOW + 33 * MINUTE
    assert len(published(desk.tick())) == 1
    made = row(desk, number)
    assert (made.missed, made.gaps) == (5, ((NOW + 5 * MINUTE, 5, "missed"),))
    desk.now = NOW + 35 * MINUTE
    assert desk.tick() == []
    assert row(desk, number).gaps[1:] == ((NOW + 35 * MINUTE, 1, "overlap"),)
    for turn in range(8, 40):
        desk.now = NOW + turn * 5 * MINUTE
        desk.tick()
    made = row(desk, number)
    assert (made.missed, made.skipped, len(made.gaps)) == (5, 33, MAX_GAPS)
    assert isinstance(made.gaps[-1], Gap)


def test_cron_is_meant_in_its_zone_and_keeps_its_hour_when_clocks_are_set(desk: Desk) -> None:
    # The day before New York puts its clocks back
    desk.now = int(datetime(2023, 11, 4, tzinfo=UTC).timestamp() * 1000)
    begun = desk.now - NOW
    number = add(desk, Rhythm("cron", 0, True, "30 8 * * *", "America/New_York"))
    # 12:30 UTC, and 13:30 UTC from the next day on
    hours = [(time - begun) / HOUR for time in launches(desk, begun + 72 * HOUR, step=5 * MINUTE)]
    assert hours == [12.5, 37.5, 61.5]
    assert (row(desk, number).cron, row(desk, number).zone) == ("30 8 * * *", "America/New_York")
    # Nobody was there for two days
    desk.now = NOW + begun + 132 * HOUR
    assert len(published(desk.tick())) == 1
    assert row(desk, number).missed == 1
    # And the clock went back
    desk.now = NOW + begun + 20 * HOUR
    desk.restart()
    desk.tick()
    assert row(desk, number).next == NOW + begun + int(37.5 * HOUR)
