"""Durable messages are sent until RabbitMQ has them, whatever happens to their connection."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from pika.spec import Basic

from broker.link.publisher import Publication, Publisher


class Desk:
    """A publisher with channels that note what is published."""

    def __init__(self) -> None:
        self.publisher = Publisher()
        self.timers: list[Callable[[], None]] = []
        self.connect(1)

    def connect(self, number: int) -> None:
        self.sent: list[bytes] = []
        self.timers.clear()  # they end with their connection
        channel: Any = SimpleNamespace(
            is_open=True, basic_publish=lambda _exchange, _key, body, *_: self.sent.append(body)
        )
        self.publisher.attach(channel, channel, number, lambda _secs, call: self.timers.append(call))
        self.publisher.drain()

    def put(self, done: Callable[[bool], None] | None = None, until_queued: bool = False) -> Publication:
        made = Publication.make(
            *("", "queue", b"body"), durable=True, ttl_ms=None, headers=None, done=done, until_queued=until_queued
        )
        self.publisher.put(made)
        self.publisher.drain()
        return made

    def answer(self, tag: int, kind: type[Basic.Ack] | type[Basic.Nack]) -> None:
        frame: Any = SimpleNamespace(method=kind(delivery_tag=tag))
        self.publisher.confirmed(frame)


def test_a_message_that_was_refused_is_sent_again_soon() -> None:
    desk = Desk()
    desk.put()
    desk.answer(1, Basic.Nack)
    assert not desk.publisher.idle
    desk.timers.pop()()
    assert desk.sent == [b"body", b"body"]
    desk.answer(2, Basic.Ack)
    assert desk.publisher.idle


def test_a_message_that_was_refused_outlives_its_connection() -> None:
    # Given a durable message that RabbitMQ has refused
    desk = Desk()
    desk.put()
    desk.answer(1, Basic.Nack)
    # When the connection goes before it is sent again
    desk.publisher.lost()
    desk.connect(2)
    # Then the next one sends it
    assert desk.sent == [b"body"]
    desk.answer(1, Basic.Ack)
    assert desk.publisher.idle


def test_a_message_that_needs_a_queue_waits_for_one() -> None:
    told: list[bool] = []
    desk = Desk()
    for until_queued in (False, True):
        made = desk.put(told.append, until_queued)
        desk.publisher.returned(None, SimpleNamespace(routing_key="queue"), made.properties, b"")  # type: ignore[arg-type]
    desk.answer(1, Basic.Ack)
    desk.answer(2, Basic.Ack)
    assert told == [False]
    desk.timers.pop()()
    desk.answer(3, Basic.Ack)
    assert told == [False, True]
