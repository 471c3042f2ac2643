"""What leaves through a link: asynchronous confirms, a window, and what is sent again after a reconnect."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pika
import pika.exceptions

from broker import logs
from broker.errors import Unsendable

log = logs.get(__name__)

WINDOW = 1_000  # publishes that may wait for their confirm
_TRANSIENT, _PERSISTENT = 1, 2


class Publication(NamedTuple):
    """A message on its way to the broker."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    durable: bool  # sent again until it is confirmed
    done: Callable[[bool], None] | None

    @classmethod
    def make(
        cls,
        exchange: str,
        routing_key: str,
        body: bytes,
        durable: bool,
        ttl_ms: int | None,
        headers: Mapping[str, Any] | None,
        done: Callable[[bool], None] | None,
    ) -> Publication:
        """A message with the properties that follow from how it shall travel.

        Raises `Unsendable` for one that pika can't write: on the link's thread it would cost the connection.
        """
        properties = pika.BasicProperties(
            delivery_mode=_PERSISTENT if durable else _TRANSIENT,
            expiration=None if ttl_ms is None else str(max(1, ttl_ms)),
            headers=dict(headers) if headers else None,
        )
        try:
            bytes(memoryview(body)[:0])  # text is none
            pika.spec.Basic.Publish(exchange=exchange, routing_key=routing_key).encode()
            properties.encode()
        except (TypeError, ValueError, OverflowError, struct.error, pika.exceptions.AMQPError) as error:
            raise Unsendable(f"a message for {routing_key!r:.80} can't be sent: {error!r}") from error
        return cls(exchange, routing_key, body, properties, durable, done)


class Publisher:
    """Of one link. Everything but `put` and `idle` happens on the link's thread."""

    def __init__(self) -> None:
        self._channel: Any = None  # with confirms
        self._plain: Any = None  # without, for what is sent once and asks for no answer
        self._later: Callable[[float, Callable[[], None]], None] = lambda _delay, _function: None
        self._connection = 0
        self._published = 0  # on this channel; the broker counts the same and confirms by that number
        self._waiting: deque[Publication] = deque()
        self._unconfirmed: dict[int, Publication] = {}
        self._returned: set[str] = set()

    def put(self, publication: Publication) -> None:
        """Queue a message, from any thread."""
        self._waiting.append(publication)

    @property
    def idle(self) -> bool:
        """Whether nothing waits to be sent or confirmed."""
        return not self._waiting and not self._unconfirmed

    def attach(
        self, channel: Any, plain: Any, connection: int, later: Callable[[float, Callable[[], None]], None]
    ) -> None:
        """Publish on these channels from now on; what the last one left unconfirmed goes first."""
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
        while self._waiting and len(self._unconfirmed) < WINDOW:
            publication = self._waiting.popleft()
            if not publication.durable and publication.done is None:
                self._plain.basic_publish(
                    publication.exchange, publication.routing_key, publication.body, publication.properties
                )
                continue
            self._published += 1
            self._unconfirmed[self._published] = publication
            # Who asks what became of it wants to know, too, when there is no such queue.
            mandatory = publication.done is not None and not publication.exchange
            if mandatory:
                publication.properties.message_id = f"{self._connection}.{self._published}"
            self._channel.basic_publish(
                publication.exchange, publication.routing_key, publication.body, publication.properties, mandatory
            )

    def confirmed(self, frame: Any) -> None:
        """The broker has, or refuses, one message or all up to one."""
        tag, acked = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Ack)
        tags = [each for each in self._unconfirmed if each <= tag] if frame.method.multiple else [tag]
        for each in tags:
            publication = self._unconfirmed.pop(each, None)
            if publication is None:
                continue
            returned = bool(self._returned) and publication.properties.message_id in self._returned
            self._returned.discard(publication.properties.message_id or "")
            if publication.durable and not acked:
                self._later(0.5, lambda late=publication: self._again(late))  # type: ignore[misc]
            elif publication.done:
                publication.done(acked and not returned)
        if self._waiting:
            self.drain()

    def returned(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """No queue took a message; its confirm follows."""
        log.warning("message found no queue", queue=method.routing_key)
        if properties.message_id:
            self._returned.add(properties.message_id)

    def lost(self) -> None:
        """The connection is gone: durable messages stay, whoever sent another one is told that it did not arrive."""
        lost: list[Publication] = []
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

    def _again(self, publication: Publication) -> None:
        self._waiting.append(publication)
        self.drain()
