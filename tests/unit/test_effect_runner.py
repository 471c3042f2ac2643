"""What the controller publishes, and what it says to who launched a job, before and after RabbitMQ has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from broker.messages import jobs
from broker.messages.jobs import Order
from master.jobs import effect_runner as module
from master.jobs.effect_runner import EffectRunner
from master.jobs.effects import Publish
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

    def publish(self, queue: str, body: bytes, *, headers: dict[str, Any], done: Any, **_: Any) -> None:
        self.sent.append((queue, body, headers))
        self.done.append(done)


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
    return EffectRunner(link, SECRET, False, lambda: None)  # type: ignore[arg-type]


def test_a_job_is_published_with_the_masters_seal(link: FakeLink, runner: EffectRunner) -> None:
    runner.carry_out([Publish(ORDER, ROUTE)])
    ((_, body, headers),) = link.sent
    assert jobs.is_sealed(SECRET, body, headers)
    assert jobs.read(body, sealed=True) == ORDER


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
