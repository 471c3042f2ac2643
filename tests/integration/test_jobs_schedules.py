"""Schedules on a real cluster whose wall clock is moved instead of being waited for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ops.cluster import Rabbit
from tests.integration.jobs_tools import Clock, Desk, Gate, make, marks, seconds_of
from tests.support import Clusters, get, put, unique, wait_for

MINUTE, HOUR, DAY = 60, 3600, 86_400
EVERY_5_MINUTES = ("minutes", 5, 1)
SOON = 6.0  # seconds: what "at once" is for what happens at a tick of the controller, which comes each second
MANY = 1000


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def desk(clock: Clock, rabbit: Rabbit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    clusters = Clusters(tmp_path_factory.mktemp("schedules"), lambda: rabbit)
    env = clock.env | {"PULZAR_GENERAL_RETENTION_POLICY": "3", "PULZAR_JOBS_LEASE": "5"}
    try:
        yield make(clusters, tmp_path_factory.mktemp("jobs-scripts"), (2, 2), env)
    finally:
        clusters.close()


@pytest.fixture(autouse=True)
def _idle(desk: Desk) -> Iterator[None]:
    """No test leaves schedules or jobs to the next one."""
    yield
    lists = desk.read("/admin/jobs?limit=1000")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: desk.cancel(row["job_id"]), lists["scheduled"] + lists["pendings"]))

    def nothing() -> bool:
        lists = desk.read("/admin/jobs")
        return not lists["scheduled"] and not lists["pendings"]

    wait_for(nothing, what="the end of every job and schedule")


def detail(desk: Desk, schedule: int) -> dict[str, Any]:
    found: dict[str, Any] = desk.read(f"/admin/scheduled_jobs/{schedule}")
    return found


def executed(desk: Desk, schedule: int, times: int, timeout: float = 30.0) -> dict[str, Any]:
    """Wait until a schedule has had so many executions; it must not have had more."""
    found = wait_for(
        lambda: (now := detail(desk, schedule))["executions"] >= times and now,
        timeout,
        f"execution {times} of {schedule}",
    )
    assert found
    assert found["executions"] == times
    return found


def a_tick(desk: Desk) -> None:
    """Wait until the controller has launched whatever is due."""
    # A retry is looked for at each tick, after the schedules.
    desk.done(desk.launch("test/fail", {"times": 1}, attempts=2, retry_delay=0.001))


def outcomes(desk: Desk, schedule: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = detail(desk, schedule)["last_executions"]
    return rows


def test_a_schedule_is_listed_runs_when_it_is_due_and_keeps_its_history(desk: Desk, clock: Clock) -> None:
    before = clock.now()
    answer = desk.try_launch(
        "test/echo", {"number": 5, "scheduled": {"interval": "minutes", "time_unit": 5, "repeat": 1}}
    )
    after = clock.now()
    number = answer.data["job_id"]
    assert answer.msg == f"Job added with id {number}"
    # It is listed as it has been asked for
    row = desk.row("scheduled", number)
    assert row is not None
    assert {name: row[name] for name in ("job_id", "job_name", "parameters", "interval", "time_unit", "repeat")} == {
        "job_id": number,
        "job_name": "echo",
        "parameters": '{"number":5}',
        "interval": "minutes",
        "time_unit": "5",
        "repeat": 1,
    }
    assert type(row["repeat"]) is int
    created = seconds_of(row["creation_time"])
    assert before - 0.01 <= created <= after
    assert seconds_of(row["next_execution"]) == pytest.approx(created + 5 * MINUTE, abs=0.002)
    assert desk.job(number)["status"] == "pending"
    a_tick(desk)
    assert detail(desk, number)["executions"] == 0
    # Then it is due
    clock.move(5 * MINUTE)
    found = executed(desk, number, 1, SOON)
    assert seconds_of(found["next_execution"]) == pytest.approx(created + 10 * MINUTE, abs=0.002)
    job = desk.done(found["last_job"])
    assert (job["source"], job["schedule"], job["job_path"]) == ("schedule", number, "test/echo")
    assert job["output"] == {"number": 5}
    # and once more
    clock.move(5 * MINUTE)
    found = executed(desk, number, 2, SOON)
    desk.done(found["last_job"])
    history = outcomes(desk, number)
    assert [row["exec_id"] for row in history] == [found["last_job"], job["job_id"]], "newest first"
    for row in history:
        assert (row["job_id"], row["state"], row["log"], row["output"]) == (number, "ok", "echo 1\n", {"number": 5})
        assert abs(seconds_of(row["datetime"]) - clock.now()) < 6 * MINUTE
    assert [row["exec_id"] for row in desk.read(f"/admin/scheduled_jobs/ok/{number}")] == [
        r["exec_id"] for r in history
    ]
    assert desk.read(f"/admin/scheduled_jobs/ok/{number}?limit=1") == desk.read("/admin/scheduled_jobs/ok?limit=1")
    assert desk.read(f"/admin/scheduled_jobs/failed/{number}") == []
    newest = desk.read("/admin/scheduled_jobs?limit=1")[0]
    assert (newest["job_id"], newest["exec_id"], newest["log"]) == (number, found["last_job"], "echo 1\n")


def test_executions_that_fail_are_listed_among_failed_and_the_rhythm_goes_on(desk: Desk, clock: Clock) -> None:
    number = desk.schedule("test/fail", ("hours", 1, 1))
    for times in (1, 2):
        clock.move(HOUR)
        desk.until(executed(desk, number, times, SOON)["last_job"], "failed")
    rows = desk.read(f"/admin/scheduled_jobs/failed/{number}")
    assert [row["state"] for row in rows] == ["failed"] * 2
    assert "ValueError" in rows[0]["log"]
    assert desk.read(f"/admin/scheduled_jobs/ok/{number}") == []
    assert desk.row("scheduled", number)
    assert desk.ask("GET", "/admin/scheduled_jobs/failed/999999999").status == 404


def test_what_is_to_run_once_runs_once(desk: Desk, clock: Clock) -> None:
    number = desk.schedule("test/noop", ("days", 1, 0))
    clock.move(DAY)
    job = executed(desk, number, 1, SOON)["last_job"]
    desk.done(job)
    assert not desk.row("scheduled", number)
    assert number in [row["job_id"] for row in desk.read("/admin/scheduled_jobs?limit=10")]
    clock.move(DAY)
    a_tick(desk)
    found = detail(desk, number)
    assert (found["executions"], found["state"], found["next_execution"]) == (1, "ended", None)
    assert desk.cancel(number).status == 409


def test_a_cancelled_schedule_never_runs_again_and_its_history_stays(desk: Desk, clock: Clock) -> None:
    number = desk.schedule("test/noop", EVERY_5_MINUTES)
    clock.move(5 * MINUTE)
    desk.done(executed(desk, number, 1, SOON)["last_job"])
    answer = desk.cancel(number)
    assert answer.status == 200
    assert str(number) in answer.msg
    clock.move(HOUR)
    a_tick(desk)
    found = detail(desk, number)
    assert (found["executions"], found["next_execution"]) == (1, None)
    assert len(found["last_executions"]) == 1
    assert not desk.row("scheduled", number)
    assert desk.cancel(number).status == 409


def test_options_and_data_go_with_every_execution_and_a_token_makes_one_schedule(desk: Desk, clock: Clock) -> None:
    key, token = unique("data"), unique("token")
    # Just after a jump of the clock no node seems to have been heard from lately.
    wait_for(lambda: put(desk.cluster, key, b"value").status == 201, what="a value to be stored")
    node = desk.cluster.nodes[1].id
    ids = {
        desk.schedule("test/data", EVERY_5_MINUTES, {"pulzar_data": key}, node=node, unique=token, timeout=60)
        for _ in range(3)
    }
    assert len(ids) == 1
    number = ids.pop()
    for times in (1, 2):
        clock.move(5 * MINUTE)
        job = desk.done(executed(desk, number, times, SOON)["last_job"])
        assert (job["node"], job["output"][0], job["options"]["timeout"]) == (node, key, 60)


def test_after_downtime_a_missed_execution_runs_once_and_the_rhythm_goes_on(
    desk: Desk, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "marks"
    number = desk.schedule("test/mark", EVERY_5_MINUTES, {"file": str(file)})
    once = desk.schedule("test/mark", ("minutes", 7, 0), {"file": str(file), "name": "once"})
    created = seconds_of(detail(desk, number)["creation_time"])
    desk.cluster.stop_master()
    clock.move(23 * MINUTE)
    desk.cluster.start_master()
    desk.cluster.wait_healthy()
    desk.done(executed(desk, number, 1)["last_job"])
    desk.done(executed(desk, once, 1)["last_job"])
    assert seconds_of(detail(desk, number)["next_execution"]) == pytest.approx(created + 25 * MINUTE, abs=0.002)
    # A restart repeats nothing.
    desk.cluster.kill_master()
    desk.cluster.start_master()
    desk.cluster.wait_healthy()
    a_tick(desk)
    assert sorted(name for name, *_ in marks(file)) == ["", "once"]
    clock.move(2 * MINUTE)
    desk.done(executed(desk, number, 2, SOON)["last_job"])
    assert sorted(name for name, *_ in marks(file)) == ["", "", "once"]


def test_two_executions_of_a_schedule_never_run_at_once_unless_that_is_allowed(
    desk: Desk, clock: Clock, tmp_path: Path
) -> None:
    gate, overlapping = Gate(tmp_path / "gate"), Gate(tmp_path / "other")
    alone = desk.schedule("test/gate", EVERY_5_MINUTES, {"gate": str(gate.path)})
    together = desk.schedule("test/gate", EVERY_5_MINUTES, {"gate": str(overlapping.path)}, overlap=1)
    clock.move(5 * MINUTE)
    first = executed(desk, alone, 1, SOON)["last_job"]
    desk.until(first, "running")
    desk.until(executed(desk, together, 1, SOON)["last_job"], "running")
    clock.move(5 * MINUTE)
    desk.until(executed(desk, together, 2, SOON)["last_job"], "running")
    found = detail(desk, alone)
    assert (found["executions"], found["skipped"], found["last_job"]) == (1, 1, first)
    gate.open()
    overlapping.open()
    desk.done(first)
    clock.move(5 * MINUTE)
    desk.done(executed(desk, alone, 2, SOON)["last_job"])


def test_a_thousand_schedules_of_one_minute_all_launch_within_seconds(desk: Desk, clock: Clock) -> None:
    # All of one minute by the clock, though it takes longer than that to ask for them.
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: desk.schedule("test/noop", ("hours", 1, 1)), range(MANY)))
    assert len(ids) == MANY
    lists = [row["job_id"] for row in desk.read("/admin/jobs?list=scheduled&limit=1000")["scheduled"]]
    assert set(lists) == ids
    last = max(
        seconds_of(row["next_execution"]) for row in desk.read("/admin/jobs?list=scheduled&limit=1000")["scheduled"]
    )
    clock.move(last - clock.now() + 0.5)
    due = time.monotonic()

    def launched() -> bool:
        return sum(row["executions"] for row in desk.read(f"/admin/scheduled_jobs?limit={MANY}")) >= MANY

    wait_for(launched, 60, "the launch of all of them", pause=0.2)
    assert time.monotonic() - due < 8
    wait_for(lambda: not desk.read("/admin/jobs?list=pendings")["pendings"], 30, "the end of all of them", pause=0.2)
    rows = desk.read(f"/admin/scheduled_jobs?limit={MANY}")
    assert {row["job_id"] for row in rows} == ids
    assert {row["executions"] for row in rows} == {1}
    executions = desk.read("/admin/scheduled_jobs/ok?limit=1000")
    assert {row["job_id"] for row in executions} == ids


def test_a_clock_that_jumps_an_hour_ahead_and_back_neither_floods_nor_starves(
    desk: Desk, clock: Clock, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    running = desk.launch("test/gate", {"gate": str(gate.path)})
    desk.until(running, "running")
    each_minute = desk.schedule("test/noop", ("minutes", 1, 1))
    each_day = desk.schedule("test/noop", ("days", 1, 1))
    retry = desk.launch("test/fail", {"times": 1}, attempts=2, retry_delay=40 * MINUTE)
    wait_for(lambda: desk.job(retry)["retry_at"], what="a retry that waits")
    key = unique()
    # An hour ahead
    clock.move(HOUR)
    desk.done(executed(desk, each_minute, 1, SOON)["last_job"])
    desk.done(retry)
    a_tick(desk)
    assert detail(desk, each_minute)["executions"] == 1, "what was missed runs once"
    late = desk.launch("test/fail", {"times": 1}, attempts=2, retry_delay=10 * MINUTE)
    wait_for(lambda: desk.job(late)["retry_at"], what="a retry that waits")
    assert put(desk.cluster, key, b"ahead").status == 201
    # and back
    clock.move(-HOUR)
    a_tick(desk)
    found = detail(desk, each_minute)
    assert found["executions"] == 1
    assert -1 <= seconds_of(found["next_execution"]) - clock.now() <= MINUTE
    clock.move(MINUTE)
    desk.done(executed(desk, each_minute, 2, SOON)["last_job"])
    assert desk.job(late)["state"] == "pending"
    clock.move(9 * MINUTE + 5)
    desk.done(late)
    executed(desk, each_minute, 3, SOON)
    # Nothing else was harmed by it
    assert detail(desk, each_day)["executions"] == 0
    assert get(desk.cluster, key).body == b"ahead"
    assert put(desk.cluster, key, b"back", "overwrite=1").status == 201
    assert get(desk.cluster, key).body == b"back"
    job = desk.job(running)
    assert (job["state"], job["attempt"], job["attempts"]) == ("running", 1, [])
    assert all(row["synch"] for row in desk.read("/admin/network"))
    gate.open()
    desk.done(running)


def test_jobs_and_what_they_left_are_forgotten_when_their_days_are_over(desk: Desk, clock: Clock) -> None:
    number = desk.launch("test/echo", {"n": 1})
    desk.done(number)
    clock.move(2.9 * DAY)
    a_tick(desk)
    assert desk.job(number)["output"] == {"n": 1}
    clock.move(0.2 * DAY)
    # Those of the tests before go first, 200 a second.
    wait_for(lambda: desk.ask("GET", f"/admin/jobs/{number}").status == 404, 60, "the job to be forgotten")
    assert get(desk.cluster, f"jobs/{number}/1/output.json").status == 404
    assert number not in [row["job_id"] for row in desk.read("/admin/all_jobs?limit=1000")]
