"""Carries out effects: publishes messages, and tells who waits what became of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Delivery, Link
from broker.messages import jobs
from broker.messages.codec import encode
from broker.messages.runs import RunMessage, Withdraw
from master.channel import ControllerCall
from master.jobs.effects import Bury, Effect, NodeMessage, Publish
from master.jobs.model import AttemptId

log = logs.get(__name__)

CONFIRM_SECS = 5.0  # a launch gets its reply after this time, even if the job is only in the ledger
_BY_HAND = Delivery(b"", topology.JOBS, tag=0, connection=0, headers={}, redelivered=False)
_MESSAGE_MS = 10_000  # a message to nodes is of no use later


class _Launch(NamedTuple):
    """A launch whose reply waits for the broker."""

    call: ControllerCall
    since: float  # s, the monotonic clock


class EffectRunner:
    """Carries out effects on the controller's thread. Only `_done` is called on the link's thread."""

    def __init__(self, link: Link, secret: bytes, wake: Callable[[], None]) -> None:
        """`secret` seals messages, `wake` is called after a confirm."""
        self._link = link
        self._secret = secret
        self._wake = wake
        self.under_way: set[AttemptId] = set()  # handed to the link and not confirmed yet
        self._landed: deque[tuple[AttemptId, bool]] = deque()  # and whether it reached a queue
        self._woken = False  # since `confirmed` was called
        self._launches: dict[AttemptId, list[_Launch]] = {}

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Do all of it. The rules ask again for what can't be done now."""
        for effect in effects:
            match effect:
                case Publish():
                    self._publish(effect)
                case Withdraw():
                    self._send("", effect, topology.CONTROL)
                case NodeMessage():
                    self.tell(effect.node, effect.message)
                case Bury():
                    self._link.bury(_BY_HAND._replace(body=effect.order), effect.reason)

    def tell(self, node: str, message: RunMessage) -> None:
        """Send a message to one node."""
        self._send(topology.node_queue(node), message, "")

    def reply_when_confirmed(self, attempt: AttemptId, call: ControllerCall) -> None:
        """Reply to a launch with the job's id, once the broker has confirmed its message or after `CONFIRM_SECS`."""
        self._launches.setdefault(attempt, []).append(_Launch(call, time.monotonic()))

    def confirmed(self) -> list[AttemptId]:
        """Attempts confirmed since the last call; launches that waited for them get their reply."""
        safe: list[AttemptId] = []
        self._woken = False
        while self._landed:
            attempt, sent = self._landed.popleft()
            self.under_way.discard(attempt)
            if not sent:
                log.warning("job found no queue; it is published again", job=attempt.job, attempt=attempt.attempt)
                continue
            safe.append(attempt)
            for launch in self._launches.pop(attempt, ()):
                launch.call.reply((attempt.job, True))
        return safe

    def tick(self) -> None:
        """Reply to launches that have waited long enough."""
        now = time.monotonic()
        for attempt, launches in list(self._launches.items()):
            late = [launch for launch in launches if now - launch.since > CONFIRM_SECS]
            for launch in late:
                log.warning("job not confirmed yet", job=attempt.job)
                launch.call.reply((attempt.job, False))
            self._launches[attempt] = launches[len(late) :]
            if not self._launches[attempt]:
                del self._launches[attempt]

    def _publish(self, publish: Publish) -> None:
        order, route = publish.order, publish.route
        attempt = AttemptId(order.id, order.attempt)
        body = jobs.numbered(publish.packed, order.id) if publish.packed else jobs.write(order)
        headers, done = jobs.seal(self._secret, body), partial(self._done, attempt)
        self.under_way.add(attempt)
        self._link.publish(route.queue, body, durable=True, ttl_ms=route.ttl_ms, headers=headers, done=done)

    def _done(self, attempt: AttemptId, sent: bool) -> None:
        self._landed.append((attempt, sent))
        if not self._woken:
            self._woken = True
            self._wake()

    def _send(self, queue: str, message: RunMessage, exchange: str) -> None:
        try:
            self._link.publish(queue, encode(message), exchange=exchange, ttl_ms=_MESSAGE_MS)
        except LinkDown as error:
            log.debug("nodes not told", message=type(message).__name__, reason=error)
