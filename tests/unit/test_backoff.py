"""Pauses between attempts that fail one after the other."""

from __future__ import annotations

from broker.backoff import FIRST_SECS, MOST_SECS, Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(steady=10)
    pauses = [backoff.pause(0) for _ in range(8)]
    assert pauses[:3] == [FIRST_SECS, 2 * FIRST_SECS, 4 * FIRST_SECS]
    assert pauses[-2:] == [MOST_SECS, MOST_SECS]


def test_after_an_attempt_that_lasted_the_pauses_begin_anew() -> None:
    backoff = Backoff(steady=10)
    assert [backoff.pause(lasted) for lasted in (0, 0, 10, 10.1, 0)] == [0.1, 0.2, 0.4, 0.1, 0.2]
