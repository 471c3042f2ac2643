"""Jobs that wait for the broker, for their retry, in an emptied queue; and those that are forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.clock import DAY_MS
from broker.messages.jobs import Options, Order
from broker.messages.runs import RunState
from master.jobs.model import JobState
from master.jobs.requeue import SETTLE_MS
from master.jobs.transitions import MAX_PUBLISHED
from tests.unit.desk import NOW, Desk, published


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, retention_days=2)
    yield desk
    desk.ledger.close()


def forget(desk: Desk) -> int:
    old = desk.read(lambda view: desk.requeue.forgettable(view, desk.now))
    desk.write(lambda tables: [tables.remove(number) for number in old])
    return len(old)


def unconfirmed(desk: Desk, *under_way: tuple[int, int]) -> list[tuple[int, int, str]]:
    return published(desk.write(lambda tables: desk.requeue.unconfirmed(tables, under_way)))


def test_what_was_committed_and_not_confirmed_is_published_again_as_it_was(desk: Desk) -> None:
    desk.launch(Order("a/b", {}), Order("a/b", {}, Options(node="n2")), Order("a/b", {}))
    desk.confirm(3)
    assert unconfirmed(desk) == [(1, 1, ""), (2, 1, "n2")]
    assert unconfirmed(desk, (1, 1)) == [(2, 1, "n2")]
    desk.claim(1)
    desk.confirm(2)
    assert unconfirmed(desk) == []


def test_a_purged_queue_is_filled_again_after_a_while(desk: Desk) -> None:
    number = desk.launched()
    desk.now += SETTLE_MS - 1
    assert desk.emptied(":normal") == []
    desk.now += 1
    assert desk.emptied(":low", ":high", "n1:") == []
    assert published(desk.emptied(":normal")) == [(number, 1, "")]
    assert desk.emptied(":normal") == [], "it is on its way, not confirmed yet"
    desk.confirm(number)
    desk.now += SETTLE_MS
    assert published(desk.emptied(":normal")) == [(number, 1, "")]


def test_a_clock_that_was_set_back_does_not_keep_a_lost_message_waiting(desk: Desk) -> None:
    number = desk.launched()
    desk.now -= 3_600_000
    assert published(desk.emptied(":normal")) == [(number, 1, "")]


def test_a_job_whose_message_is_lost_again_and_again_fails_and_says_why(desk: Desk) -> None:
    number = desk.launched()
    for _ in range(MAX_PUBLISHED - 1):
        desk.now += SETTLE_MS
        assert published(desk.emptied(":normal")) == [(number, 1, "")]
        desk.confirm(number)
    desk.now += SETTLE_MS
    assert desk.emptied(":normal") == []
    assert desk.ends(number) == ["job.failed"]
    assert (
        desk.job(number).reason
        == "given up: 10 messages with it came to nothing; its queue was purged or deleted, perhaps"
    )


def test_a_message_that_moved_on_from_a_nodes_queue_is_not_taken_for_lost(desk: Desk) -> None:
    desk.shared = False
    desk.nodes = ["n1"]
    desk.launch(Order("example/job", {}, data="key"))
    desk.confirm(1)
    bound = desk.launched()
    pinned = desk.launched(Options(node="n1"))
    desk.now += SETTLE_MS
    assert [number for number, _, _ in published(desk.emptied("n1:"))] == [bound, pinned]
    for number in (bound, pinned):
        desk.confirm(number)
    desk.now += SETTLE_MS
    assert {number for number, _, _ in published(desk.emptied("n1:", ":normal"))} == {1, bound, pinned}


def test_a_withdrawn_message_is_remembered_until_its_queue_is_empty(desk: Desk) -> None:
    first, second = desk.launched(), desk.launched(Options(priority="low"))
    desk.cancel(first)
    desk.cancel(second)
    assert desk.withdrawn("n1") == [(first, 1), (second, 1)]
    desk.now += SETTLE_MS
    desk.emptied(":low")
    assert desk.withdrawn("n1") == [(first, 1)]


def test_jobs_in_the_queue_of_a_node_that_is_gone_run_elsewhere_and_not_there_when_it_is_back(desk: Desk) -> None:
    desk.shared = False
    number, pinned = desk.launched(), desk.launched(Options(node="n1"))
    assert desk.write(lambda tables: desk.requeue.stranded(tables, "n2", desk.now)) == []
    actions = desk.write(lambda tables: desk.requeue.stranded(tables, "n1", desk.now))
    assert published(actions) == [(number, 1, "n2")]
    assert desk.withdrawn("n1") == [(number, 1)]
    assert desk.withdrawn("n2") == []
    assert desk.job(pinned).lane == "n1:"


def test_a_job_that_only_a_node_that_is_gone_can_run_waits_for_it(desk: Desk) -> None:
    desk.shared, desk.nodes = False, ["n1"]
    number = desk.launched()
    assert desk.write(lambda tables: desk.requeue.stranded(tables, "n1", desk.now)) == []
    assert desk.job(number).state is JobState.PENDING


def test_retries_set_while_the_clock_was_ahead_are_not_starved_when_it_goes_back(desk: Desk) -> None:
    desk.tick()
    number = desk.launched(Options(attempts=2, retry_delay=10))
    desk.now += 3_600_000
    desk.tick()
    desk.claim(number)
    desk.finish(number, RunState.FAILED)
    assert desk.job(number).due == NOW + 3_610_000
    desk.now = NOW
    assert desk.tick() == []
    assert desk.job(number).due == NOW + 10_000
    desk.now += 10_000
    assert published(desk.tick()) == [(number, 2, "")]


def test_retries_far_ahead_are_pulled_back_at_a_start(desk: Desk) -> None:
    number = desk.launched(Options(attempts=3, retry_delay=10))
    desk.claim(number)
    desk.finish(number, RunState.FAILED)
    desk.now -= 3_600_000
    desk.tick()
    assert desk.job(number).due == desk.now + 10_000


def test_a_retry_that_no_node_can_run_fails(desk: Desk) -> None:
    number = desk.launched(Options(attempts=2, retry_delay=1))
    desk.claim(number)
    desk.finish(number, RunState.FAILED)
    desk.nodes = []
    desk.now += 1_000
    desk.tick()
    assert (desk.job(number).state, desk.job(number).reason) == (JobState.FAILED, "no node has the script example/job")


def test_jobs_are_forgotten_days_after_their_end_and_not_before(desk: Desk) -> None:
    done, young, pending = desk.launched(), desk.launched(), desk.launched()
    desk.claim(done)
    desk.finish(done, RunState.COMPLETED)
    desk.now += DAY_MS
    desk.claim(young, run=2)
    desk.finish(young, RunState.FAILED, run=2)
    desk.now = NOW + 2 * DAY_MS
    assert forget(desk) == 0
    desk.now += 1
    assert forget(desk) == 1
    assert desk.read(lambda tables: [job.id for job in tables.jobs()]) == [pending, young]
