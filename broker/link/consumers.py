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
ACK_SECS = 0.01  # acknowledgements that come within this time are sent together
ACK_MESSAGES = 8  # so many are sent at once
PING = "pulzar.ping"  # type of a message that a link sends to itself

Later = Callable[[float, Callable[[], None]], object]  # calls a function after so many seconds, on the link's thread


class Delivery(NamedTuple):
    """A message received."""

    body: bytes
    queue: str
    tag: int  # names the message on its connection, and on no other
    connection: int  # counts the connections of a link
    headers: Mapping[str, object]
    redelivered: bool
    user: str = ""  # of RabbitMQ, who published it; "" when it does not say


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
        self._open: deque[int] = deque()  # tags that RabbitMQ waits for, ascending
        self._done: set[int] = set()  # those of them that may be acknowledged
        self._timed = False  # `_send_acks` will be called soon
        self._channel: Channel
        self._connection = 0
        self._later: Later

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
        return not self._acks and not self._done

    def attach(self, channel: Channel, connection: int, later: Later, then: Callable[[], None]) -> None:
        """Consume all queues on this channel, one after the other; then calls `then`."""
        self._channel = channel
        self._connection = connection
        self._later = later
        self._subscribe(iter(self._consumers), then)

    def drain(self) -> None:
        """Take the acknowledgements that wait, and drop those of older connections. They are sent soon, together."""
        while self._acks:
            delivery = self._acks.popleft()
            if delivery.connection != self._connection:
                continue
            for consumer in self._consumers:
                if consumer.name == delivery.queue:
                    consumer.unacked -= 1
            self._done.add(delivery.tag)
        if len(self._done) >= ACK_MESSAGES:
            self._send_acks()
        elif self._done and not self._timed:
            self._timed = True
            connection = self._connection
            self._later(ACK_SECS, lambda: self._send_timed(connection))

    def _send_timed(self, connection: int) -> None:
        if connection == self._connection:
            self._timed = False
            self._send_acks()

    def _send_acks(self) -> None:
        """One acknowledgement for all that came before the first message that is still being handled, then the rest."""
        if not self._channel.is_open:
            return  # everything comes again
        opened, done = self._open, self._done
        last = 0
        while opened and opened[0] in done:
            last = opened.popleft()
            done.remove(last)
        if last:
            self._channel.basic_ack(last, multiple=True)
        for tag in sorted(done):
            self._channel.basic_ack(tag)
            opened.remove(tag)
        done.clear()

    def lost(self) -> None:
        """Forget acknowledgements: the connection is gone, and every message not acknowledged comes again."""
        self._acks.clear()
        self._open.clear()
        self._done.clear()
        self._timed = False
        self._connection = 0

    def silent(self) -> Iterator[tuple[str, float]]:
        """Queues that could have sent something and did not, and for how many seconds."""
        now = time.monotonic()
        for consumer in self._consumers:
            if not consumer.unacked and now - consumer.heard >= WATCH_SECS:
                yield consumer.name, now - consumer.heard

    def _subscribe(self, rest: Iterator[_Consumer], then: Callable[[], None]) -> None:
        if not self._channel.is_open:
            return
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
            self._open.append(method.delivery_tag)
            if properties.type == PING:
                self._done.add(method.delivery_tag)
                self._send_acks()
                return
            consumer.unacked += 1
            headers, user = properties.headers or {}, properties.user_id or ""
            consumer.handler(
                Delivery(body, consumer.name, method.delivery_tag, connection, headers, method.redelivered, user)
            )

        channel.basic_qos(prefetch_count=consumer.prefetch)  # counts for the consumers made after it
        channel.basic_consume(
            consumer.name, deliver, exclusive=consumer.exclusive, callback=lambda _frame: self._subscribe(rest, then)
        )
