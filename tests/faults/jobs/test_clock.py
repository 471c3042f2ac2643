"""The master's clock is set an hour ahead and back, while those of the nodes go on as they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.jobs_tools import SLOTS, Field, Launching, unexpected
from tests.faults.tools import tracebacks
from tests.integration.jobs_tools import Clock
from tests.support import Clusters, wait_for

HOUR_SECS = 3600.0
DELAY_SECS = 3.0  # of a retry


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def field(clock: Clock, make_cluster: Clusters, tmp_path: Path, mode: str) -> Field:
    field = Field(make_cluster, tmp_path / "field", mode=mode, start=False)
    field.cluster.master.environment |= clock.env
    field.cluster.start()
    field.wait_mode()
    return field


def test_a_clock_that_jumps_ahead_and_back_costs_no_job_and_no_run(field: Field, clock: Clock) -> None:
    cluster = field.cluster
    retried = {"attempts": 2, "retry_delay": DELAY_SECS}
    with field.finals() as finals:
        # Given runs that go on for all the time, jobs that come, and such as wait for their retry
        steady = field.launch_many(SLOTS, "steady", gate="steady-gate")
        field.wait_begun(steady)
        retries: list[int] = []
        with Launching(field, "clock", threads=2, pause=0.05) as launching:
            # When the clock is set ahead, and back
            for number, seconds in enumerate((HOUR_SECS, -HOUR_SECS)):
                jobs = field.launch_many(2, f"retry {number}", good=2, options=retried)
                wait_for(lambda jobs=jobs: waits_for_retry(field, jobs), 30, "jobs that wait for their retry")  # type: ignore[misc]
                clock.move(seconds)
                retries += jobs
                assert moved(field, clock), "the clock did not move; this tests nothing"
                # Then these need not wait for an hour
                field.wait_ended(jobs)
                launching.wait_accepted(5)
        # And nothing else was tried again
        field.check_running(steady)
        field.open("steady-gate")
        field.check(steady, faults=0, attempts=1)
        new = launching.check()
        field.check(new, faults=0, attempts=1)
        field.check(retries, faults=1, attempts=2)
        finals.check([*new, *steady, *retries])
    assert not tracebacks(cluster)
    assert not unexpected(cluster)


def waits_for_retry(field: Field, jobs: list[int]) -> bool:
    """Whether the second attempts at these jobs are still to come, and known to."""
    rows = field.rows()
    return all((rows[number]["attempt"], rows[number]["state"]) == (2, "pending") for number in jobs)


def moved(field: Field, clock: Clock) -> bool:
    """Whether the master has the time of the clock."""
    created: float = field.job(field.launch("what time is it"))["creation_time"]
    return abs(created - clock.now()) < HOUR_SECS / 4
