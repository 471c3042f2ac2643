"""Acknowledgements: together, soon, and none for what is still being handled."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from pika import BasicProperties

from broker.link.consumers import ACK_MESSAGES, PING, Consumers, Delivery


class Channel:
    """Takes the place of pika's."""

    is_open = True

    def __init__(self) -> None:
        self.acks: list[tuple[int, bool]] = []
        self.deliver: Callable[..., None]

    def basic_qos(self, prefetch_count: int) -> None:
        pass

    def basic_consume(self, _queue: str, deliver: Callable[..., None], exclusive: bool, callback: Any) -> None:
        self.deliver = deliver
        callback(None)

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.acks.append((tag, multiple))


class Desk:
    """Consumers of one queue, on a channel."""

    def __init__(self) -> None:
        self.received: list[Delivery] = []
        self.timers: list[Callable[[], None]] = []
        self.consumers = Consumers()
        self.consumers.add(lambda: "q", self.received.append, 32, False)
        self.connect(1)

    def connect(self, number: int) -> None:
        self.channel = Channel()
        self.consumers.attach(self.channel, number, lambda _secs, call: self.timers.append(call), lambda: None)  # type: ignore[arg-type]

    def deliver(self, *tags: int, kind: str = "") -> list[Delivery]:
        before = len(self.received)
        for tag in tags:
            method = SimpleNamespace(delivery_tag=tag, redelivered=False)
            self.channel.deliver(self.channel, method, BasicProperties(type=kind or None), b"body")
        return self.received[before:]

    def ack(self, *deliveries: Delivery) -> None:
        for delivery in deliveries:
            self.consumers.ack(delivery)
        self.consumers.drain()

    def tick(self) -> None:
        timers, self.timers[:] = list(self.timers), []
        for timer in timers:
            timer()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_acknowledgements_are_sent_together_after_a_moment(desk: Desk) -> None:
    deliveries = desk.deliver(1, 2, 3)
    desk.ack(deliveries[0])
    desk.ack(*deliveries[1:])
    assert desk.channel.acks == []
    assert not desk.consumers.idle
    assert len(desk.timers) == 1
    desk.tick()
    assert desk.channel.acks == [(3, True)]
    assert desk.consumers.idle


def test_many_are_sent_at_once(desk: Desk) -> None:
    desk.ack(*desk.deliver(*range(1, ACK_MESSAGES + 1)))
    assert desk.channel.acks == [(ACK_MESSAGES, True)]
    desk.tick()
    assert len(desk.channel.acks) == 1


def test_a_message_that_is_still_being_handled_is_not_acknowledged_by_a_later_one(desk: Desk) -> None:
    first, second, third, fourth = desk.deliver(1, 2, 3, 4)
    desk.ack(first, fourth, third)
    desk.tick()
    assert desk.channel.acks == [(1, True), (3, False), (4, False)]
    desk.ack(second)
    desk.ack(*desk.deliver(5))
    desk.tick()
    assert desk.channel.acks[3:] == [(5, True)]


def test_a_ping_is_acknowledged_at_once_and_nothing_with_it(desk: Desk) -> None:
    (first,) = desk.deliver(1)
    desk.deliver(2, kind=PING)
    assert desk.channel.acks == [(2, False)]
    desk.ack(first)
    desk.tick()
    assert desk.channel.acks[1:] == [(1, True)]


def test_nothing_of_a_lost_connection_is_acknowledged_on_the_next_one(desk: Desk) -> None:
    first, second = desk.deliver(1, 2)
    desk.ack(first)
    desk.consumers.lost()
    desk.connect(2)
    desk.tick()
    desk.ack(second)
    (again,) = desk.deliver(1)
    desk.tick()
    assert desk.channel.acks == []
    desk.ack(again)
    desk.tick()
    assert desk.channel.acks == [(1, True)]


def test_a_channel_that_is_closed_is_left_alone(desk: Desk) -> None:
    desk.ack(*desk.deliver(1))
    desk.channel.is_open = False
    desk.tick()
    assert desk.channel.acks == []
