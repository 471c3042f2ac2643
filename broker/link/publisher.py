"""Publishes through a link: asynchronous confirms, a window, and repetition after a reconnect."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

import pika
import pika.exceptions
from pika.channel import Channel
from pika.data import encode_table
from pika.frame import Method
from pika.spec import Basic, BasicProperties

from broker import logs
from broker.errors import Unsendable

log = logs.get(__name__)

WINDOW = 1_000  # publishes that may wait for their confirm
AGAIN_SECS = 0.5  # until a message that the broker refused is sent again
_TRANSIENT, _PERSISTENT = 1, 2

Later = Callable[[float, Callable[[], None]], object]  # calls a function after so many seconds, on the link's thread


class Publication(NamedTuple):
    """A message on its way to the broker."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    durable: bool  # sent again until it is confirmed
    done: Callable[[bool], None] | None
    until_queued: bool = False  # a durable one is sent again also when no queue takes it

    @classmethod
    def make(
        cls,
        exchange: str,
        routing_key: str,
        body: bytes,
        *,
        durable: bool,
        ttl_ms: int | None,
        headers: Mapping[str, object] | None,
        done: Callable[[bool], None] | None,
        user: str = "",
        until_queued: bool = False,
        content_type: str | None = None,
    ) -> Publication:
        """A message to publish. Raises `Unsendable` for one that pika can't write.

        On the link's thread such a message would cost the connection.
        """
        try:
            bytes(memoryview(body)[:0])  # text is none
            # Of a kind of message, all but the headers is checked once.
            properties = _checked(exchange, routing_key, durable, ttl_ms, user)
            if done is not None or headers or content_type:
                # The others share theirs: nobody writes into them.
                properties = _properties(durable, ttl_ms, user, headers)
                properties.content_type = content_type
                if headers:
                    encode_table([], properties.headers)
        except (TypeError, ValueError, OverflowError, struct.error, pika.exceptions.AMQPError) as error:
            raise Unsendable(f"a message for {routing_key!r:.80} can't be sent: {error!r}") from error
        return cls(exchange, routing_key, body, properties, durable, done, until_queued)


def _properties(
    durable: bool, ttl_ms: int | None, user: str, headers: Mapping[str, object] | None = None
) -> pika.BasicProperties:
    return pika.BasicProperties(
        delivery_mode=_PERSISTENT if durable else _TRANSIENT,
        expiration=None if ttl_ms is None else str(max(1, ttl_ms)),
        headers=dict(headers) if headers else None,
        user_id=user or None,
    )


@lru_cache(maxsize=256)
def _checked(exchange: str, routing_key: str, durable: bool, ttl_ms: int | None, user: str) -> pika.BasicProperties:
    properties = _properties(durable, ttl_ms, user)
    pika.spec.Basic.Publish(exchange=exchange, routing_key=routing_key).encode()
    properties.encode()
    return properties


class Publisher:
    """Publishes the messages of one link. Everything but `put` and `idle` happens on the link's thread."""

    def __init__(self) -> None:
        self._channel: Channel  # with confirms
        self._plain: Channel  # without confirms, for what is sent once
        self._later: Later
        self._connection = 0
        self._published = 0  # on this channel; the broker counts the same and confirms by that number
        self._waiting: deque[Publication] = deque()
        self._unconfirmed: dict[int, Publication] = {}
        self._returned: set[str] = set()
        self._refused: list[Publication] = []  # to be sent again soon

    def put(self, publication: Publication) -> None:
        """Put a message into the queue, from any thread."""
        self._waiting.append(publication)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent or confirmed."""
        return not self._waiting and not self._unconfirmed and not self._refused

    def attach(self, channel: Channel, plain: Channel, connection: int, later: Later) -> None:
        """Publish on these channels from now on. What the last ones left unconfirmed goes first."""
        self._channel = channel
        self._plain = plain
        self._connection = connection
        self._later = later
        self._published = 0
        again = [publication for _, publication in sorted(self._unconfirmed.items())]
        self._unconfirmed.clear()
        self._waiting.extendleft(reversed(again))

    def drain(self) -> None:
        """Send what waits, as far as the window allows."""
        if not self._channel.is_open:
            return
        while self._waiting and len(self._unconfirmed) < WINDOW:
            publication = self._waiting.popleft()
            exchange, routing_key, body, properties, durable, done, _ = publication
            if not durable and done is None:
                self._plain.basic_publish(exchange, routing_key, body, properties)
                continue
            self._published += 1
            self._unconfirmed[self._published] = publication
            # `done` is to be told, too, when there is no such queue.
            mandatory = done is not None
            if mandatory:
                properties.message_id = f"{self._connection}.{self._published}"
            self._channel.basic_publish(exchange, routing_key, body, properties, mandatory)

    def confirmed(self, frame: Method[Basic.Ack | Basic.Nack]) -> None:
        """Note that the broker has, or refuses, one message or all up to one."""
        tag, acked = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Ack)
        # They are there in ascending order.
        tags = [*takewhile(tag.__ge__, self._unconfirmed)] if frame.method.multiple else [tag]
        for each in tags:
            publication = self._unconfirmed.pop(each, None)
            if publication is None:
                continue
            returned = bool(self._returned) and publication.properties.message_id in self._returned
            self._returned.discard(publication.properties.message_id or "")
            if publication.durable and (not acked or (returned and publication.until_queued)):
                if not self._refused:
                    self._later(AGAIN_SECS, self._again)
                self._refused.append(publication)
            elif publication.done:
                publication.done(acked and not returned)
        if self._waiting:
            self.drain()

    def returned(self, _channel: Channel, method: Basic.Return, properties: BasicProperties, _body: bytes) -> None:
        """Note that no queue took a message; its confirm follows."""
        log.warning("message found no queue", queue=method.routing_key)
        if properties.message_id:
            self._returned.add(properties.message_id)

    def lost(self) -> None:
        """The connection is gone: durable messages stay; for the others `done` is told that they did not arrive."""
        lost: list[Publication] = []
        # The timer that sends them again ends with the connection.
        self._waiting.extend(self._refused)
        self._refused.clear()
        for _ in range(len(self._waiting)):  # in place: other threads append to it meanwhile
            publication = self._waiting.popleft()
            if publication.durable:
                self._waiting.append(publication)
            else:
                lost.append(publication)
        once = [tag for tag, publication in self._unconfirmed.items() if not publication.durable]
        lost.extend(self._unconfirmed.pop(tag) for tag in once)
        self._returned.clear()
        for publication in lost:
            if publication.done:
                publication.done(False)

    def _again(self) -> None:
        self._waiting.extend(self._refused)
        self._refused.clear()
        self.drain()
