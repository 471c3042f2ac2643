"""Leases: which runs are lost, and which go on although they do not count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.messages.jobs import Options
from broker.messages.runs import RunState
from master.jobs.leases import LastHeartbeat
from master.jobs.model import JobState
from tests.unit.desk import START, Desk, published, token, withdrawn

LEASE = 30.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, lease_secs=LEASE)
    yield desk
    desk.ledger.close()


def running(desk: Desk) -> int:
    number = desk.launched()
    desk.claim(number)
    return number


def names(number: int, run: int = 1, attempt: int = 1) -> list[tuple[str, int, int]]:
    return [(token(run), number, attempt)]


def test_a_run_that_heartbeats_name_is_never_lost(desk: Desk) -> None:
    number = running(desk)
    for beat in range(100):
        clock = START + 5 * beat
        assert desk.check(clock + 1, n1=LastHeartbeat(names(number), clock)) == []
    assert desk.job(number).state is JobState.RUNNING


def test_the_runs_of_a_node_that_falls_silent_are_lost_when_the_lease_is_over(desk: Desk) -> None:
    number = running(desk)
    heard = LastHeartbeat(names(number), START + 10)
    assert desk.check(START + 10, n1=heard) == []
    assert desk.check(START + 10 + LEASE, n1=heard) == []
    actions = desk.check(START + 10.1 + LEASE, n1=heard)
    assert published(actions) == [(number, 2, "")]
    assert withdrawn(actions) == [(number, 1, "")]
    assert desk.job(number).attempts[0].end.reason == "node n1 was not heard of for 30 s"


def test_after_a_start_a_node_has_a_whole_lease_to_be_heard_of(desk: Desk) -> None:
    number = running(desk)
    old = LastHeartbeat(names(number), START - 1000)
    assert desk.check(START + 1, n1=old) == []
    assert published(desk.check(START + LEASE, n1=old)) == []
    assert published(desk.check(START + LEASE + 2, n1=old)) == [(number, 2, "")]


def test_a_run_of_a_node_that_nobody_knows_is_lost_too(desk: Desk) -> None:
    number = running(desk)
    desk.check(START)
    assert published(desk.check(START + LEASE + 1)) == [(number, 2, "")]


def test_a_run_that_two_heartbeats_do_not_name_is_lost(desk: Desk) -> None:
    number = running(desk)
    assert desk.check(START, n1=LastHeartbeat([], START)) == []
    assert desk.check(START + 5, n1=LastHeartbeat([], START + 5)) == [], "it may have been sent before the claim"
    first, second = LastHeartbeat([], START + 15), LastHeartbeat([], START + 20)
    for _ in range(5):
        assert desk.check(START + 16, n1=first) == [], "the same heartbeat again"
    actions = desk.check(START + 20, n1=second)
    assert published(actions) == [(number, 2, "")]
    assert desk.job(number).attempts[0].end.reason == "node n1 does not run it"


def test_a_heartbeat_that_names_it_again_takes_back_the_doubt(desk: Desk) -> None:
    number = running(desk)
    desk.check(START)
    for beat, named in enumerate([False, True] * 5):
        clock = START + 15 + 5 * beat
        assert desk.check(clock, n1=LastHeartbeat(names(number) if named else [], clock)) == []


def test_a_clock_that_is_set_ends_no_lease(desk: Desk) -> None:
    number = running(desk)
    desk.now += 3_600_000
    assert desk.check(START + 1, n1=LastHeartbeat(names(number), START + 1)) == []


def test_a_frozen_nodes_run_is_ended_when_it_is_heard_of_again(desk: Desk) -> None:
    number = running(desk)
    desk.check(START)
    desk.check(START + LEASE + 1)
    desk.confirm(number, 2)
    desk.claim(number, attempt=2, run=2, node="n2")
    awake = LastHeartbeat(names(number), START + 60)
    other = LastHeartbeat(names(number, run=2, attempt=2), START + 60)
    assert withdrawn(desk.check(START + 60, n1=awake, n2=other)) == [(number, 1, token(1))]
    assert desk.check(START + 61, n1=awake, n2=other) == [], "once for each heartbeat"
    assert desk.finish(number, RunState.COMPLETED, run=1) == []
    desk.finish(number, RunState.COMPLETED, attempt=2, run=2, node="n2")
    assert [attempt.late for attempt in desk.job(number).attempts] == [False, True, False]


def test_a_frozen_nodes_run_is_ended_also_when_no_attempt_followed(desk: Desk) -> None:
    number = desk.launched(Options(attempts=1))
    desk.claim(number)
    desk.check(START)
    desk.check(START + LEASE + 1)
    assert desk.ends(number) == ["job.failed"]
    assert withdrawn(desk.check(START + 60, n1=LastHeartbeat(names(number), START + 60))) == [(number, 1, token(1))]


def test_a_run_whose_claim_is_behind_its_heartbeat_is_left_alone(desk: Desk) -> None:
    number = desk.launched()
    assert desk.check(START + 20, n1=LastHeartbeat(names(number), START + 20)) == []


def test_the_run_of_a_job_that_has_ended_well_is_left_alone_and_others_of_it_are_not(desk: Desk) -> None:
    number = running(desk)
    desk.finish(number, RunState.COMPLETED)
    heard = LastHeartbeat(names(number) + names(number, run=2) + [(token(3), 0, 1)], START + 20)
    assert withdrawn(desk.check(START + 20, n1=heard)) == [(number, 1, token(2))]


def test_a_cancel_that_did_not_arrive_is_said_again(desk: Desk) -> None:
    number = running(desk)
    desk.cancel(number)
    assert withdrawn(desk.check(START + 20, n1=LastHeartbeat(names(number), START + 20))) == [(number, 1, token(1))]


def test_a_job_that_is_being_cancelled_on_a_lost_node_is_cancelled(desk: Desk) -> None:
    number = running(desk)
    desk.cancel(number)
    desk.check(START)
    assert published(desk.check(START + LEASE + 1)) == []
    assert desk.ends(number) == ["job.cancelled"]


def test_while_nobody_can_be_heard_no_lease_ends(desk: Desk) -> None:
    number = running(desk)
    heard = LastHeartbeat(names(number), START + 10)
    # Given an outage of the broker that takes longer than a lease
    desk.leases.begin_anew(START + 100)
    # Then silence counts from its end
    assert desk.check(START + 100, n1=heard) == []
    assert desk.check(START + 100 + LEASE, n1=heard) == []
    assert not desk.leases.silent(heard, START + 100 + LEASE)
    assert desk.leases.silent(heard, START + 101 + LEASE)
    assert published(desk.check(START + 101 + LEASE, n1=heard)) == [(number, 2, "")]
