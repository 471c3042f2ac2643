"""What the controller publishes, and what it says to who launched a job, before and after RabbitMQ has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from broker import topology
from broker.errors import LinkDown
from broker.link import Delivery
from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import Named, Withdraw
from master.jobs import effect_runner as module
from master.jobs.effect_runner import EffectRunner
from master.jobs.effects import Bury, NodeMessage, Publish
from master.jobs.model import AttemptId
from master.jobs.routing import Route
from master.web.jobs.launch_request import launch_outcome

SECRET = b"s" * 32
ROUTE = Route(":normal", "queue")
ORDER = Order("example/job", {"number": 5}, id=7, attempt=1)


class FakeLink:
    """Takes what is published; a test says when it is confirmed."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, dict[str, Any]]] = []
        self.done: list[Callable[[bool], None]] = []
        self.ttls: list[int | None] = []
        self.told: list[tuple[str, str]] = []
        self.buried: list[tuple[bytes, str, str]] = []
        self.down = False

    def publish(self, queue: str, body: bytes, *, exchange: str = "", done: Any = None, **more: Any) -> None:
        if self.down:
            raise LinkDown("gone")
        if done is None:
            self.told.append((queue, exchange))
        else:
            self.sent.append((queue, body, more["headers"]))
            self.ttls.append(more["ttl_ms"])
            self.done.append(done)

    def bury(self, delivery: Delivery, reason: str) -> None:
        self.buried.append((delivery.body, delivery.queue, reason))


class FakeCall:
    """Who launched a job."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def reply(self, data: Any) -> None:
        self.told.append(data)


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def runner(link: FakeLink) -> EffectRunner:
    return EffectRunner(link, SECRET, lambda: None)  # type: ignore[arg-type]


def test_a_job_is_published_with_the_masters_seal(link: FakeLink, runner: EffectRunner) -> None:
    runner.carry_out([Publish(ORDER, ROUTE)])
    ((_, body, headers),) = link.sent
    assert jobs.is_sealed((SECRET,), body, headers)
    assert jobs.read(body, sealed=True) == ORDER


def test_a_message_goes_to_the_queue_that_the_rules_have_chosen_for_as_long_as_they_say(
    link: FakeLink, runner: EffectRunner
) -> None:
    runner.carry_out([Publish(ORDER, Route("n1:", "its own", 2_500)), Publish(ORDER, ROUTE)])
    assert [queue for queue, _, _ in link.sent] == ["its own", "queue"]
    assert link.ttls == [2_500, None]


def test_what_a_worker_has_packed_is_published_with_its_id_and_the_seal(link: FakeLink, runner: EffectRunner) -> None:
    packed = jobs.write(ORDER._replace(id=0))
    runner.carry_out([Publish(ORDER, ROUTE, packed)])
    ((_, body, headers),) = link.sent
    assert jobs.is_sealed((SECRET,), body, headers)
    assert jobs.read(body, sealed=True) == ORDER


def test_a_job_that_found_no_queue_is_not_confirmed_and_not_under_way_any_more(
    link: FakeLink, runner: EffectRunner
) -> None:
    runner.carry_out([Publish(ORDER, ROUTE)])
    assert runner.under_way == {(7, 1)}
    link.done[0](False)
    assert (runner.confirmed(), runner.under_way) == ([], set())


def test_what_nodes_cannot_be_told_is_left_to_the_rules(link: FakeLink, runner: EffectRunner) -> None:
    message = NodeMessage("n1", Named("0" * 32, 7))
    runner.carry_out([Withdraw(7, 1, "", "cancelled"), message])
    assert link.told == [("", topology.CONTROL), (topology.node_queue("n1"), "")]
    link.down = True
    runner.carry_out([Withdraw(7, 1, "", "cancelled"), message])
    assert len(link.told) == 2


def test_a_job_by_hand_that_no_node_can_run_is_buried(link: FakeLink, runner: EffectRunner) -> None:
    runner.carry_out([Bury(b"order", "no script")])
    assert link.buried == [(b"order", topology.JOBS, "no script")]


def test_everybody_who_waits_for_a_confirm_is_told_once(link: FakeLink, runner: EffectRunner) -> None:
    first, second = FakeCall(), FakeCall()
    runner.carry_out([Publish(ORDER, ROUTE)])
    for call in (first, second):  # a launch again with the same unique token
        runner.reply_when_confirmed(AttemptId(7, 1), call)  # type: ignore[arg-type]
    runner.confirmed()
    assert not first.told
    link.done[0](True)
    assert runner.confirmed() == [(7, 1)]
    assert first.told == second.told == [(7, True)]
    runner.tick()
    assert first.told == second.told == [(7, True)]


def test_who_has_waited_long_enough_is_told_that_it_is_in_the_ledger_alone(
    link: FakeLink, runner: EffectRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = FakeCall(), FakeCall()
    runner.carry_out([Publish(ORDER, ROUTE)])
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    runner.reply_when_confirmed(AttemptId(7, 1), early)  # type: ignore[arg-type]
    now += 3
    runner.reply_when_confirmed(AttemptId(7, 1), late)  # type: ignore[arg-type]
    now += 3
    runner.tick()
    assert (early.told, late.told) == ([(7, False)], [])
    link.done[0](True)
    runner.confirmed()
    assert (early.told, late.told) == ([(7, False)], [(7, True)])


def test_a_launch_is_202_as_long_as_rabbitmq_has_not_confirmed_it() -> None:
    assert launch_outcome(7, True, []) == (200, {"job_id": 7}, "Job added with id 7")
    status, data, message = launch_outcome(7, False, [])
    assert (status, data) == (202, {"job_id": 7})
    assert "7 is in the ledger" in message
    assert "RabbitMQ" in message
