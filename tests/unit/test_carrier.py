"""What the controller publishes, and what it says to who launched a job, before and after RabbitMQ has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from broker.messages import jobs
from broker.messages.jobs import Order
from master.jobs import effect_runner as carrier_module
from master.jobs.effect_runner import EffectRunner
from master.jobs.effects import Publish
from master.web.jobs.launch_request import what_became

SECRET = b"s" * 32
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
def carrier(link: FakeLink) -> EffectRunner:
    return EffectRunner(link, SECRET, 10.0, False, lambda _: False, lambda: None)  # type: ignore[arg-type]


def test_a_job_is_published_with_the_masters_seal(link: FakeLink, carrier: EffectRunner) -> None:
    carrier.carry_out([Publish(ORDER, "")])
    ((_, body, headers),) = link.sent
    assert jobs.is_sealed(SECRET, body, headers)
    assert jobs.read(body, sealed=True) == ORDER


def test_everybody_who_waits_for_a_confirm_is_told_once(link: FakeLink, carrier: EffectRunner) -> None:
    first, second = FakeCall(), FakeCall()
    carrier.carry_out([Publish(ORDER, "")])
    for call in (first, second):  # a launch again with the same unique token
        carrier.reply_when_confirmed((7, 1), call)  # type: ignore[arg-type]
    carrier.confirmed()
    assert not first.told
    link.done[0](True)
    assert carrier.confirmed() == [(7, 1)]
    assert first.told == second.told == [(7, True)]
    carrier.tick()
    assert first.told == second.told == [(7, True)]


def test_who_has_waited_long_enough_is_told_that_it_is_in_the_ledger_alone(
    link: FakeLink, carrier: EffectRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = FakeCall(), FakeCall()
    carrier.carry_out([Publish(ORDER, "")])
    now = time.monotonic()
    monkeypatch.setattr(carrier_module.time, "monotonic", lambda: now)
    carrier.reply_when_confirmed((7, 1), early)  # type: ignore[arg-type]
    now += 3
    carrier.reply_when_confirmed((7, 1), late)  # type: ignore[arg-type]
    now += 3
    carrier.tick()
    assert (early.told, late.told) == ([(7, False)], [])
    link.done[0](True)
    carrier.confirmed()
    assert (early.told, late.told) == ([(7, False)], [(7, True)])


def test_a_launch_is_202_as_long_as_rabbitmq_has_not_confirmed_it() -> None:
    assert what_became(7, True, []) == (200, {"job_id": 7}, "Job added with id 7")
    status, data, message = what_became(7, False, [])
    assert (status, data) == (202, {"job_id": 7})
    assert "7 is in the ledger" in message
    assert "RabbitMQ" in message
