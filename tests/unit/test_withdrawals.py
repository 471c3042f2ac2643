"""Which jobs a node must not run: withdrawn by the master, or claimed already."""

from __future__ import annotations

import pytest

from node.jobs.withdrawals import Withdrawals


def test_a_job_is_withdrawn_up_to_an_attempt() -> None:
    withdrawals = Withdrawals()
    withdrawals.add([(1, 2), (2, 1), (1, 1)])
    assert withdrawals.covers(1, 1)
    assert withdrawals.covers(1, 2)
    assert not withdrawals.covers(1, 3)
    assert not withdrawals.covers(3, 1)


def test_the_oldest_withdrawals_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.jobs.withdrawals.KEPT", 3)
    withdrawals = Withdrawals()
    withdrawals.add([(number, 1) for number in range(5)])
    assert [withdrawals.covers(number, 1) for number in range(5)] == [False, False, True, True, True]


def test_a_message_that_comes_again_is_expected_as_often_as_it_was_claimed() -> None:
    withdrawals = Withdrawals()
    withdrawals.expect(b"a")
    withdrawals.expect(b"a")
    assert [withdrawals.expected(b"a") for _ in range(3)] == [True, True, False]
    assert not withdrawals.expected(b"b")
