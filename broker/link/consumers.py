"""Receives through a link: deliveries, acknowledgements, and a watch for consumers that get nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pika import BasicProperties
from pika.channel import Channel
from pika.spec import Basic

WATCH_SECS = 15.0  # a consumer that got nothing for this long is sent a ping
DEAF_SECS = 3 * WATCH_SECS
PING = "pulzar.ping"  # type of a message that a link sends to itself


class Delivery(NamedTuple):
    """A message received."""

    body: bytes
    queue: str
    tag: int  # names the message on its connection, and on no other
    connection: int  # counts the connections of a link
    headers: Mapping[str, object]
    redelivered: bool


@dataclass(slots=True, eq=False)
class _Consumer:
    queue: Callable[[], str]
    handler: Callable[[Delivery], None]
    prefetch: int
    exclusive: bool
    name: str = ""
    unacked: int = 0
    heard: float = 0.0


class Consumers:
    """The consumers of one link. Everything but `add` and `ack` happens on the link's thread."""

    def __init__(self) -> None:
        self._consumers: list[_Consumer] = []
        self._acks: deque[Delivery] = deque()
        self._channel: Channel
        self._connection = 0

    def add(
        self, queue: Callable[[], str], handler: Callable[[Delivery], None], prefetch: int, exclusive: bool
    ) -> None:
        """Add a queue to consume; before the link is started."""
        self._consumers.append(_Consumer(queue, handler, prefetch, exclusive))

    def ack(self, delivery: Delivery) -> None:
        """Put an acknowledgement into the queue, from any thread."""
        self._acks.append(delivery)

    @property
    def idle(self) -> bool:
        """Whether no acknowledgement waits to be sent."""
        return not self._acks

    def attach(self, channel: Channel, connection: int, then: Callable[[], None]) -> None:
        """Consume all queues on this channel, one after the other; then calls `then`."""
        self._channel = channel
        self._connection = connection
        self._subscribe(iter(self._consumers), then)

    def drain(self) -> None:
        """Send the acknowledgements that wait, and drop those of older connections."""
        while self._acks:
            delivery = self._acks.popleft()
            if delivery.connection != self._connection:
                continue
            for consumer in self._consumers:
                if consumer.name == delivery.queue:
                    consumer.unacked -= 1
            self._channel.basic_ack(delivery.tag)

    def lost(self) -> None:
        """Forget acknowledgements: the connection is gone, and every message not acknowledged comes again."""
        self._acks.clear()

    def silent(self) -> Iterator[tuple[str, float]]:
        """Queues that could have sent something and did not, and for how many seconds."""
        now = time.monotonic()
        for consumer in self._consumers:
            if not consumer.unacked and now - consumer.heard >= WATCH_SECS:
                yield consumer.name, now - consumer.heard

    def _subscribe(self, rest: Iterator[_Consumer], then: Callable[[], None]) -> None:
        consumer = next(rest, None)
        if consumer is None:
            then()
            return
        consumer.name = consumer.queue()
        consumer.unacked = 0
        consumer.heard = time.monotonic()
        channel, connection = self._channel, self._connection

        def deliver(_channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            consumer.heard = time.monotonic()
            if properties.type == PING:
                channel.basic_ack(method.delivery_tag)
                return
            consumer.unacked += 1
            headers = properties.headers or {}
            consumer.handler(
                Delivery(body, consumer.name, method.delivery_tag, connection, headers, method.redelivered)
            )

        channel.basic_qos(prefetch_count=consumer.prefetch)  # counts for the consumers made after it
        channel.basic_consume(
            consumer.name, deliver, exclusive=consumer.exclusive, callback=lambda _frame: self._subscribe(rest, then)
        )
