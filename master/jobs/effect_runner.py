"""Carries out what the rules about jobs want done: messages to queues, and what became of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Delivery, Link
from broker.messages import jobs
from broker.messages.codec import encode
from broker.messages.jobs import Order
from broker.messages.runs import RunMessage, Withdraw
from master.channel import ControllerCall
from master.jobs.effects import Action, Bury, JobEvent, Publish, Tell

log = logs.get(__name__)

CONFIRM_SECS = 5.0  # who launched a job is told after this time that it is in the ledger, and there alone as yet
_TELL_MS = 10_000  # what a node is told is of no use to it later

Attempt = tuple[int, int]  # id of a job, attempt


class EffectRunner:
    """Of the controller; on its thread, but for `_done`, which is called on the link's."""

    def __init__(
        self,
        link: Link,
        secret: bytes,
        data_wait: float,
        events: bool,
        may_move: Callable[[Order], bool],
        wake: Callable[[], None],
    ) -> None:
        self._link = link
        self._secret = secret
        self._may_move = may_move
        self._data_wait_ms = int(data_wait * 1000)
        self._events = events
        self._wake = wake
        self.under_way: set[Attempt] = set()  # handed to the link and not confirmed yet
        self._landed: deque[tuple[Attempt, bool]] = deque()
        self._launched: dict[
            Attempt, list[tuple[ControllerCall, float]]
        ] = {}  # who waits for the confirm, and since when

    def carry_out(self, actions: Iterable[Action]) -> None:
        """Do all of it; what can't be done just now is done again by the rules."""
        for action in actions:
            match action:
                case Publish():
                    self._publish(action)
                case Withdraw():
                    self._say("", action, topology.CONTROL)
                case Tell():
                    self.tell(action.node, action.message)
                case Bury():
                    self._link.bury(Delivery(action.order, topology.JOBS, 0, 0, {}, False), action.reason)
                case JobEvent() if self._events:
                    self._event(action)

    def tell(self, node: str, message: RunMessage) -> None:
        """Send a message to one node."""
        self._say(topology.node_queue(node), message, "")

    def reply_when_confirmed(self, attempt: Attempt, call: ControllerCall) -> None:
        """The job's launch is answered when the broker has its message safe: its id, and whether it is."""
        self._launched.setdefault(attempt, []).append((call, time.monotonic()))

    def confirmed(self) -> list[Attempt]:
        """Attempts whose message the broker has safe by now; whoever waited for that is told."""
        safe: list[Attempt] = []
        while self._landed:
            attempt, sent = self._landed.popleft()
            self.under_way.discard(attempt)
            if not sent:
                log.warning("job found no queue; it is published again", job=attempt[0], attempt=attempt[1])
                continue
            safe.append(attempt)
            for call, _ in self._launched.pop(attempt, ()):
                call.reply((attempt[0], True))
        return safe

    def tick(self) -> None:
        """Answer those who have waited long enough."""
        now = time.monotonic()
        for attempt, waiting in list(self._launched.items()):
            late = [call for call, since in waiting if now - since > CONFIRM_SECS]
            for call in late:
                log.warning("job not confirmed yet", job=attempt[0])
                call.reply((attempt[0], False))
            self._launched[attempt] = waiting[len(late) :]
            if not self._launched[attempt]:
                del self._launched[attempt]

    def _publish(self, action: Publish) -> None:
        order = action.order
        attempt = order.id, order.attempt
        ttl = None
        if not action.node:
            queue = topology.jobs_queue(order.options.priority)
        elif self._may_move(order):
            # RabbitMQ moves it on to the queue of all when its time is over.
            queue, ttl = topology.node_data_queue(action.node), self._data_wait_ms
        else:
            queue = topology.node_jobs_queue(action.node)
        self.under_way.add(attempt)
        body, done = jobs.write(order), partial(self._done, attempt)
        self._link.publish(queue, body, durable=True, ttl_ms=ttl, headers=jobs.seal(self._secret, body), done=done)

    def _done(self, attempt: Attempt, sent: bool) -> None:
        self._landed.append((attempt, sent))
        self._wake()

    def _say(self, queue: str, message: RunMessage, exchange: str) -> None:
        try:
            self._link.publish(queue, encode(message), exchange=exchange, ttl_ms=_TELL_MS)
        except LinkDown as error:
            log.debug("nodes not told", message=type(message).__name__, reason=error)

    def _event(self, event: Any) -> None:
        # Once more rather than not at all: whoever waits for the end of a job would wait for ever.
        self._link.publish(event.routing_key(), event.body(), exchange=topology.EVENTS, durable=True)
