"""Takes messages from several queues one at a time, as many as are wanted: how jobs reach free slots.

A consumer with a prefetch would be handed more than its node has slots for, and keep those from a node that is
idle. So a busy node asks its queues in turn (`basic.get`), the first one first; when all are empty it subscribes to
all of them, and ends that as soon as nothing more is wanted. A message that arrives just then is kept for a moment
and given back when it still isn't wanted.

Everything here happens on the link's thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pika

from broker.link.consumers import Delivery

HOLD_SECS = 0.1  # how long a message that came too late to be wanted is kept
EMPTY_SECS = 0.05  # how long a queue that was found empty is passed over, while others are not


class Puller:
    """Of one link. `handler` gets each message; it acknowledges them as those of any consumer."""

    def __init__(self, queues: Sequence[str], handler: Callable[[Delivery], None]) -> None:
        self._queues = queues
        self._handler = handler
        self._wanted = 0
        self._channel: Any = None
        self._connection = 0
        self._later: Callable[[float, Callable[[], None]], Any] = lambda _secs, _function: None
        self._asking = ""  # the queue that was asked and has not answered
        self._rest: deque[str] = deque()  # queues still to be asked in this round
        self._empty: dict[str, float] = {}  # queue → when it was found empty
        self._tags: dict[str, str] = {}  # queue → its subscription
        self._held: deque[Delivery] = deque()  # arrived and not wanted yet

    def want(self, count: int) -> None:
        """So many messages are wanted from now on, not counting those that were handed over."""
        self._wanted = count
        self._work()

    @property
    def subscribed(self) -> bool:
        """Whether all queues were found empty, and messages are handed over as they come."""
        return bool(self._tags)

    def attach(self, channel: Any, connection: int, later: Callable[[float, Callable[[], None]], Any]) -> None:
        """Take messages through this channel from now on."""
        self.lost()
        self._channel = channel
        self._connection = connection
        self._later = later
        channel.basic_qos(prefetch_count=1)  # for each subscription
        channel.add_callback(lambda _frame: self._found_empty(), [pika.spec.Basic.GetEmpty], one_shot=False)
        self._work()

    def lost(self) -> None:
        """The connection is gone, and what was not acknowledged comes again."""
        self._channel = None
        self._asking = ""
        self._rest.clear()
        self._empty.clear()
        self._tags.clear()
        self._held.clear()

    def ack(self, delivery: Delivery) -> bool:
        """The message is taken for good. False: its connection is gone, and it comes again, here or elsewhere."""
        if self._channel is None or delivery.connection != self._connection:
            return False
        self._channel.basic_ack(delivery.tag)
        return True

    def give_back(self, delivery: Delivery) -> None:
        """Somebody else shall have the message."""
        if self._channel is not None and delivery.connection == self._connection:
            self._channel.basic_nack(delivery.tag, requeue=True)

    def _work(self) -> None:
        while self._held and self._wanted > 0:
            self._hand_over(self._held.popleft())
        if self._channel is None:
            return
        if self._wanted <= 0:
            self._unsubscribe()
        elif not self._tags and not self._asking:
            self._begin_round()

    # Asking one queue after the other.

    def _begin_round(self) -> None:
        now = time.monotonic()
        fresh = [queue for queue in self._queues if now - self._empty.get(queue, 0.0) > EMPTY_SECS]
        self._rest = deque(fresh or self._queues)
        self._ask()

    def _ask(self) -> None:
        if self._wanted <= 0:
            return
        if not self._rest:
            self._round_ended()
            return
        self._asking = self._rest.popleft()
        self._channel.basic_get(self._asking, self._got)

    def _got(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        queue, self._asking = self._asking, ""
        self._empty.pop(queue, None)
        self._arrived(queue, method, properties, body)
        if self._wanted > 0 and not self._asking and self._channel is not None:
            self._begin_round()  # a queue before this one may have got something meanwhile

    def _found_empty(self) -> None:
        self._empty[self._asking] = time.monotonic()
        self._asking = ""
        self._ask()

    def _round_ended(self) -> None:
        now = time.monotonic()
        if all(now - self._empty.get(queue, 0.0) <= EMPTY_SECS for queue in self._queues):
            for queue in self._queues:
                self._subscribe(queue)
        else:
            self._begin_round()

    # Subscribed to all of them.

    def _subscribe(self, queue: str) -> None:
        def deliver(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            self._arrived(queue, method, properties, body)

        self._tags[queue] = self._channel.basic_consume(queue, deliver)

    def _unsubscribe(self) -> None:
        for tag in self._tags.values():
            # Sent before the acknowledgement of what took the last slot, so that no message follows it.
            self._channel.basic_cancel(tag, lambda _frame: None)
        self._tags.clear()

    def _arrived(self, queue: str, method: Any, properties: Any, body: bytes) -> None:
        headers = properties.headers or {}
        delivery = Delivery(body, queue, method.delivery_tag, self._connection, headers, method.redelivered)
        if self._wanted > 0:
            self._hand_over(delivery)
        else:
            self._held.append(delivery)
            self._later(HOLD_SECS, lambda: self._let_go(delivery))

    def _hand_over(self, delivery: Delivery) -> None:
        self._wanted -= 1
        if self._wanted <= 0:
            self._unsubscribe()
        self._handler(delivery)

    def _let_go(self, delivery: Delivery) -> None:
        if delivery in self._held:
            self._held.remove(delivery)
            self.give_back(delivery)
