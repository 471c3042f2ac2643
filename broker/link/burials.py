"""Messages on their way to `pulzar.dead`, and acknowledgements that wait until RabbitMQ has them there.

A message that can't be used is published there, and then acknowledged where it came from. Were it acknowledged at once,
it would be lost with the process, the connection or RabbitMQ. Killed in between, it is there twice.
"""

from __future__ import annotations

import secrets
import struct
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

import pika
import pika.exceptions

from broker.link.consumers import Delivery
from broker.link.publisher import Publication
from broker.topology import DEAD

AT = "at"  # header: when a message was buried, in seconds since the epoch
ID, REASON, QUEUE, BY, USER, HEADERS = "id", "reason", "queue", "by", "user", "headers"
MOST_HEADER_BYTES = 16_384  # of a message; one with more is buried without them
_REASON_CHARACTERS = 1000
_BY_RABBITMQ = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count")


class Burials:
    """The burials of one link. Any thread may use it."""

    def __init__(self, release: Callable[[Delivery], None]) -> None:
        """`release` acknowledges a delivery that has waited."""
        self._release = release
        self._guard = threading.Lock()
        self._open: dict[int, Callable[[], None] | None] = {}
        self._count = 0
        self._held: list[Delivery] = []

    @property
    def idle(self) -> bool:
        """Whether all that was buried is in `pulzar.dead`, and nothing waits for it."""
        return not self._open and not self._held

    def begin(self, then: Callable[[], None] | None) -> Callable[[bool], None]:
        """Note a burial; the function returned ends it, and calls `then`."""
        with self._guard:
            self._count += 1
            self._open[self._count] = then
            return partial(self._end, self._count)

    def hold(self, delivery: Delivery) -> bool:
        """Whether an acknowledgement must wait; it is sent when all burials before it have ended."""
        if not self._open:
            return False
        with self._guard:
            if self._open:
                self._held.append(delivery)
            return bool(self._open)

    def _end(self, number: int, _there: bool) -> None:
        held: list[Delivery] = []
        with self._guard:
            then = self._open.pop(number)
            if not self._open:
                held, self._held = self._held, held
        for delivery in held:
            self._release(delivery)
        if then is not None:
            then()


def publication(
    delivery: Delivery, reason: str, by: str, *, exchange: str, user: str, done: Callable[[bool], None]
) -> Publication:
    """The message that buries another one. `by`: the name of the link; `user`: its own in RabbitMQ."""
    headers: dict[str, object] = {
        ID: secrets.token_hex(8),
        REASON: reason[:_REASON_CHARACTERS].encode("utf-8", "backslashreplace").decode(),
        QUEUE: delivery.queue,
        BY: by,
        AT: int(time.time()),
    }
    if delivery.user:
        headers[USER] = delivery.user
    if kept := _sendable(delivery.headers):
        headers[HEADERS] = kept
    return Publication.make(
        *(exchange, DEAD, delivery.body),
        durable=True,
        ttl_ms=None,
        headers=headers,
        done=done,
        user=user,
        until_queued=True,
    )


def own_headers(headers: Mapping[str, object]) -> dict[str, object]:
    """The headers of a message without those that RabbitMQ gave it on its way."""
    return {name: value for name, value in headers.items() if not name.startswith(_BY_RABBITMQ)}


def _sendable(headers: Mapping[str, object]) -> dict[str, object]:
    kept = own_headers(headers)
    if not kept:
        return kept
    try:
        size = sum(map(len, pika.BasicProperties(headers=kept).encode()))
    except (TypeError, ValueError, OverflowError, struct.error, pika.exceptions.AMQPError):
        return {}  # pika reads some kinds of values that it can't write
    return kept if size <= MOST_HEADER_BYTES else {}
