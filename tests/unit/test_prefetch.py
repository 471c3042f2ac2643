"""How many jobs a node takes ahead of its free slots."""

from __future__ import annotations

import pytest

from node.jobs.prefetch import AHEAD_SECS, MOST, Prefetch


def runs(pace: Prefetch, count: int, seconds: float) -> None:
    for _ in range(count):
        pace.ran(seconds)


def test_nothing_is_taken_ahead_before_many_runs_were_short() -> None:
    pace = Prefetch(2)
    assert pace.ahead == 0
    runs(pace, 20, 0.002)
    assert pace.ahead == 0
    runs(pace, 100, 0.002)
    assert pace.ahead == MOST * 2


@pytest.mark.parametrize(("seconds", "ahead"), [(0.0, 64), (0.01, 19), (0.04, 4), (0.21, 0), (5.0, 0)])
def test_no_more_is_taken_ahead_than_runs_in_a_moment(seconds: float, ahead: int) -> None:
    pace = Prefetch(2)
    runs(pace, 500, seconds)
    assert pace.ahead == ahead
    assert ahead * seconds <= 2 * AHEAD_SECS


def test_one_long_run_ends_it_and_so_does_giving_back() -> None:
    pace = Prefetch(4)
    runs(pace, 200, 0.002)
    assert pace.ahead == MOST * 4
    pace.ran(1.0)
    assert pace.ahead == 0
    runs(pace, 200, 0.002)
    assert pace.ahead == MOST * 4
    pace.gave_back()
    assert pace.ahead == 0
