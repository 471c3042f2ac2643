"""A look into a queue: its messages are taken out one by one, and put back at the end, each in its place.

AMQP has no way to read a queue without taking from it. What is not acknowledged goes back when the channel is closed,
also when the process or the connection ends. Classic queues keep the order. Meanwhile others find these messages
neither here nor there, so a look is short.

Messages come by subscriptions, each of which ends by its prefetch: `basic.get` took 1.5 to 4 ms a message beside other
load, this 0.05. How many come at once follows from their size.

A window belongs to one thread that is not the link's. What it publishes is confirmed on the same channel.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from pika import BasicProperties, SelectConnection
from pika.channel import Channel
from pika.exceptions import ChannelClosedByClient
from pika.frame import Method
from pika.spec import Basic, Queue

from broker.errors import LinkDown
from broker.link import expiry
from broker.link.burials import AT, ID

WAIT_SECS = 20.0  # for RabbitMQ, in each step
SILENT_SECS = 2.0  # without a message: somebody else has the rest
_FIRST, _MOST = 16, 128  # messages at once
_BYTES = 8 << 20  # at once, as far as the last ones tell
_PERSISTENT = 2
_BY_QUEUES = ("x-delivery-count", "x-acquired-count")  # headers that change while a message waits


class Held(NamedTuple):
    """A message that is taken out."""

    tag: int
    body: bytes
    headers: Mapping[str, object]
    user: str  # of RabbitMQ, who published it; "" when it does not say
    properties: BasicProperties  # all of them

    @property
    def at(self) -> float | None:
        """When it came, in seconds since the epoch; None when it does not say."""
        return expiry.time_of(self.properties)

    def fingerprint(self) -> str:
        """Names the message by its body and properties: those of the same name are the same."""
        named = self.properties
        # A burial has an id of its own. When it is published twice, the link's number of it and its time may differ.
        buried = ID in self.headers
        number = None if buried else named.message_id
        left_out = (*_BY_QUEUES, AT) if buried else _BY_QUEUES
        kept = {name: value for name, value in self.headers.items() if name not in left_out}
        rest = [named.content_type, number, named.user_id, named.timestamp, named.type, named.correlation_id]
        digest = hashlib.sha256(repr((sorted(kept.items()), rest)).encode("utf-8", "backslashreplace"))
        digest.update(self.body)
        return digest.hexdigest()[:32]

    @property
    def content_type(self) -> str:
        """As its publisher gave it."""
        return self.properties.content_type or ""


class Copy(NamedTuple):
    """A message to publish in the place of one that is held."""

    like: Held  # has the properties
    queue: str
    body: bytes
    headers: Mapping[str, object]


class Window:
    """One look into a queue. Use it with `with`. All methods raise `LinkDown` when RabbitMQ is not there any more."""

    def __init__(
        self,
        queue: str,
        user: str,
        call: Callable[[Callable[[SelectConnection], None]], None],
    ) -> None:
        """`user` signs what is published, "" when nothing is signed. `call` has a function called on the I/O thread."""
        self._queue = queue
        self._user = user
        self._call = call
        self._channel: Channel | None = None
        self._closed = threading.Event()
        self._done = threading.Event()  # the step that is under way
        self._reason = ""
        self._more: Callable[[Held], bool] | None = None
        self._watching = False
        self._taken = 0  # messages, in all
        self._wanted = 0  # of this subscription that are still to come
        self._bytes = self._count = 0  # of this subscription
        self._published = 0
        self._open: dict[int, int] = {}  # number of a publication → its place among the copies
        self._returned: set[str] = set()
        self._there: list[bool] = []
        self.ready = 0  # messages that waited when it was opened

    def __enter__(self) -> Window:
        self._step(self._open_channel)
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def take(self, more: Callable[[Held], bool]) -> None:
        """Take messages out, the oldest first, as long as `more` says so. It is called on the I/O thread.

        Some may be held behind the last one that it was given.
        """

        def begin(connection: SelectConnection) -> None:
            self._more = more
            self._subscribe(connection, _FIRST)

        self._step(begin)

    def publish(self, copies: Sequence[Copy]) -> list[bool]:
        """Publish messages; of each, whether a queue has it for good."""
        if not copies:
            return []
        self._step(lambda _connection: self._send(copies))
        return self._there

    def ack(self, tags: Iterable[int]) -> None:
        """Remove messages from the queue. That has happened when `close` returns True."""
        given = list(tags)

        def send(_connection: SelectConnection) -> None:
            if self._channel is not None and self._channel.is_open:
                for tag in given:
                    self._channel.basic_ack(tag)
            self._done.set()

        self._step(send)

    def close(self) -> bool:
        """Put back what was not acknowledged. False: the connection went before RabbitMQ had said so."""
        if not self._closed.is_set():
            self._call(lambda _connection: self._close())
            self._closed.wait(WAIT_SECS)
        return self._reason == "closed"

    # On the caller's thread.

    def _step(self, function: Callable[[SelectConnection], None]) -> None:
        """Have something begun on the I/O thread, and wait until it is done."""
        self._done.clear()
        self._call(function)
        deadline = time.monotonic() + WAIT_SECS
        while not self._closed.is_set() and time.monotonic() < deadline:
            if self._done.wait(1.0):
                break
        if self._closed.is_set():
            raise LinkDown(f"RabbitMQ closed the look into {self._queue}: {self._reason}")
        if not self._done.is_set():
            self.close()
            raise LinkDown(f"RabbitMQ did not answer a look into {self._queue} within {WAIT_SECS:g} s")

    # On the I/O thread.

    def _open_channel(self, connection: SelectConnection) -> None:
        if connection.is_open:
            connection.channel(on_open_callback=self._opened)
        else:
            self._lost("the connection is being closed")

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        channel.add_on_close_callback(self._gone)
        channel.add_on_return_callback(self._note_return)

        def counted(frame: Method[Queue.DeclareOk]) -> None:
            self.ready = frame.method.message_count
            self._done.set()

        def count(_frame: object) -> None:
            if channel.is_open:
                channel.queue_declare(self._queue, passive=True, callback=counted)

        channel.confirm_delivery(self._confirmed, callback=count)

    def _subscribe(self, connection: SelectConnection, most: int) -> None:
        """Take the next messages, up to `most`."""
        channel = self._channel
        if channel is None or not channel.is_open:
            return
        self._wanted = min(most, self.ready - self._taken)
        if self._wanted <= 0:
            self._taken_all()
            return
        self._bytes = self._count = 0
        channel.basic_qos(prefetch_count=self._wanted)  # of the subscription that follows

        def deliver(_channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            self._deliver(connection, Held(method.delivery_tag, body, *_of(properties)))

        channel.basic_consume(self._queue, deliver)
        if not self._watching:
            self._watch(connection, -1)

    def _deliver(self, connection: SelectConnection, held: Held) -> None:
        self._taken += 1
        self._wanted -= 1
        self._count += 1
        self._bytes += len(held.body)
        if self._more is not None and not self._more(held):
            self._taken_all()
        elif self._more is not None and not self._wanted:
            self._subscribe(connection, max(1, min(_MOST, _BYTES * self._count // max(1, self._bytes))))

    def _watch(self, connection: SelectConnection, before: int) -> None:
        """End when nothing comes any more, though it should."""
        now = self._taken
        self._watching = self._more is not None and not self._closed.is_set() and now != before
        if self._watching:
            connection.ioloop.call_later(SILENT_SECS, lambda: self._watch(connection, now))
        elif self._more is not None:
            self._taken_all()

    def _taken_all(self) -> None:
        self._more = None
        self._done.set()

    def _send(self, copies: Sequence[Copy]) -> None:
        channel = self._channel
        if channel is None or not channel.is_open:
            return
        self._there = [False] * len(copies)
        for place, copy in enumerate(copies):
            self._published += 1
            self._open[self._published] = place
            channel.basic_publish("", copy.queue, copy.body, self._properties(copy), mandatory=True)

    def _properties(self, copy: Copy) -> BasicProperties:
        old = copy.like.properties
        return BasicProperties(
            content_type=old.content_type,
            content_encoding=old.content_encoding,
            headers=dict(copy.headers) or None,
            delivery_mode=_PERSISTENT,
            priority=old.priority,
            correlation_id=old.correlation_id,
            reply_to=old.reply_to,
            message_id=str(self._published),
            type=old.type,
            user_id=self._user or None,
            app_id=old.app_id,
        )

    def _note_return(self, _channel: Channel, _method: Basic.Return, properties: BasicProperties, _body: bytes) -> None:
        self._returned.add(properties.message_id or "")

    def _confirmed(self, frame: Method[Basic.Ack | Basic.Nack]) -> None:
        tag, acked = frame.method.delivery_tag, isinstance(frame.method, Basic.Ack)
        for each in [number for number in self._open if number <= tag] if frame.method.multiple else [tag]:
            place = self._open.pop(each, None)
            if place is not None:
                self._there[place] = acked and str(each) not in self._returned
        if not self._open:
            self._done.set()

    def _close(self) -> None:
        if self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _gone(self, _channel: Channel, reason: Exception) -> None:
        self._lost("closed" if isinstance(reason, ChannelClosedByClient) else str(reason))

    def _lost(self, reason: str) -> None:
        self._reason = reason
        self._closed.set()


def _of(properties: BasicProperties) -> tuple[Mapping[str, object], str, BasicProperties]:
    return properties.headers or {}, properties.user_id or "", properties
