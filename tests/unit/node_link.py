"""A link for tests of a node's parts: it remembers what is published, and hands over what a test wants delivered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker import topology
from broker.errors import LinkDown
from broker.link import Delivery
from broker.messages.codec import decode_any, encode
from broker.messages.store import Results
from tests.support import wait_for


class NodeLink:
    """Takes what is published while it is `ready`, and confirms it at once."""

    def __init__(self, *_: object, **__: object) -> None:
        self.ready = True
        self.sent: list[tuple[str, Any]] = []  # queue and message
        self.options: list[dict[str, Any]] = []  # of the messages in `sent`
        self.acked: list[Delivery] = []
        self.buried: list[tuple[Any, str]] = []  # message and reason
        self.handlers: list[Callable[[Delivery], None]] = []
        self.on_up: list[Callable[[], None]] = []
        self.on_down: list[Callable[[], None]] = []
        self.on_wake: list[Callable[[], None]] = []

    def consume(self, _queue: object, handler: Callable[[Delivery], None], *_: object, **__: object) -> None:
        self.handlers.append(handler)

    def pull(self, *_: object) -> None:
        """Nothing is ever pulled."""

    def wake(self) -> None:
        """Tests call `on_wake` themselves."""

    def publish(self, queue: str, body: bytes, done: Callable[[bool], None] | None = None, **options: Any) -> None:
        if not self.ready:
            raise LinkDown("no connection to RabbitMQ: it is a test")
        self.sent.append((queue, decode_any(body)))
        self.options.append(options | {"done": done})
        if done:
            done(True)

    def ack(self, delivery: Delivery) -> None:
        self.acked.append(delivery)

    def bury(self, delivery: Delivery, reason: str) -> None:
        self.buried.append((decode_any(delivery.body), reason))

    def results(self) -> list[Results]:
        """The results that were published."""
        return [message for queue, message in self.sent if queue == topology.RESULTS]

    def wait_sent(self, count: int) -> list[Any]:
        """The first messages, when so many are there."""
        wait_for(lambda: len(self.sent) >= count, what=f"{count} messages")
        return [message for _, message in self.sent[:count]]


def delivery(message: Any, tag: int = 1) -> Delivery:
    """A message as it comes from the node's own queue."""
    return Delivery(encode(message), "pulzar.node.n1", tag, 1, {}, False)
