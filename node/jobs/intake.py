"""What comes from the queues of jobs: claimed, dropped, buried, or given back."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from broker import logs
from broker.clock import now_ms
from broker.errors import MalformedMessage
from broker.link import Delivery, Link
from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import Claimed, Finished, Returned, Withdrawn
from node.errors import StorageError
from node.jobs.catalog import Catalog
from node.jobs.claims import Claim, Claims
from node.jobs.completion import Completion, Post
from node.jobs.prefetch import HOLD_SECS
from node.jobs.reports import Report, Reporter
from node.jobs.slots import Slots
from node.jobs.withdrawals import Withdrawals

log = logs.get(__name__)

WITHDRAWN_SECS = 3.0  # after the first connection, for the master to say what shall not run any more
TRY_SECS = 2.0  # from a claim that could not be written to the next attempt


class _Fresh(NamedTuple):
    """A job that is to be claimed."""

    claim: Claim
    order: Order
    delivery: Delivery
    since: float  # monotonic


class Intake:
    """Of the thread of the node's jobs; `post` has something done on it."""

    def __init__(
        self,
        node: str,
        slots: int,
        link: Link,
        secret: bytes,
        catalog: Catalog,
        claims: Claims,
        reporter: Reporter,
        settling: Completion,
        post: Post,
    ) -> None:
        self.pulling = Slots(link, node, slots, lambda delivery: post(partial(self._deliver, delivery)))
        self._node = node
        self._link = link
        self._secret = secret
        self._catalog = catalog
        self._claims = claims
        self._reporter = reporter
        self._settling = settling
        self._post = post
        self._withdrawals = Withdrawals()
        self._fresh: list[_Fresh] = []
        self._connected = False
        self._open_at = 0.0  # when to take jobs though the master has said nothing, 0 for never
        self._try_at = 0.0  # when to try again to write claims, 0 while they can be written
        self._closed = False

    def connected(self) -> None:
        """There is a connection."""
        if not self._connected:
            self._connected = True
            self._open_at = time.monotonic() + WITHDRAWN_SECS

    def disconnected(self) -> None:
        """There is no connection any more: what was not claimed comes again, here or elsewhere."""
        for _ in self._fresh:
            self.pulling.release()
        self._fresh.clear()

    def close(self) -> None:
        """Take no more jobs; what comes goes back with the connection."""
        self._closed = True
        self.pulling.open(False)

    def tick(self) -> None:
        """Do what time brings."""
        now = time.monotonic()
        if self._open_at and now >= self._open_at:
            self._open()
        if self._try_at and now >= self._try_at:
            self._try_claims(now)

    @property
    def next_due(self) -> float:
        """When something that has come is to be given back, by the monotonic clock."""
        return self._fresh[0].since + HOLD_SECS if self._fresh else math.inf

    def claim(self, free: int) -> list[tuple[Claim, Order]]:
        """Claim durably what has come, as far as there are slots `free`, and acknowledge it: what is to be run now."""
        fresh, self._fresh = self._fresh[:free], self._fresh[free:]
        if not fresh or self._closed:
            return []
        for one in fresh:
            one.claim.at = now_ms()
        try:
            self._claims.add([(claim, _order_kept(claim, delivery)) for claim, _, delivery, _ in fresh])
        except StorageError as error:
            log.error("jobs can't be claimed; taking none", jobs=len(fresh), error=error)
            self.pulling.open(False)
            self._give_back(fresh + self._fresh)
            self._fresh = []
            self._try_at = time.monotonic() + TRY_SECS
            return []
        for claim, _, delivery, _ in fresh:
            order = _order_kept(claim, delivery)
            self._settling.say(Claimed(claim.run, claim.id, claim.attempt, claim.at, order))
            self.pulling.ack(delivery, self._acked(claim, delivery.body) if claim.by_hand else None)
        return [(claim, order) for claim, order, _, _ in fresh]

    def give_back_ahead(self) -> bool:
        """Give back what was taken ahead of free slots and has waited for one too long; whether there was any."""
        if time.monotonic() < self.next_due:
            return False
        log.info("jobs taken ahead are given back", jobs=len(self._fresh))
        self._give_back(self._fresh)
        self._fresh = []
        return True

    def withdrawn(self, message: Withdrawn) -> None:
        """What the master says of the time before this process."""
        self._withdrawals.add(message.entries)
        self._open()

    def withdraw(self, job: int, attempt: int) -> None:
        """This job is not to be run any more, up to this attempt."""
        self._withdrawals.add([(job, attempt)])
        for fresh in list(self._fresh):
            if fresh.order.id == job and fresh.order.attempt <= attempt:
                self._fresh.remove(fresh)
                self.pulling.drop(fresh.delivery)

    def expect_again(self, claim: Claim) -> None:
        """The message of a job that was published by hand may come once more, since nobody knows that it is claimed."""
        self._withdrawals.expect(self._claims.order(claim))

    def _open(self) -> None:
        self._open_at = 0.0
        self.pulling.open(not self._closed and not self._try_at)

    def _try_claims(self, now: float) -> None:
        """See whether claims can be written again."""
        try:
            self._claims.try_writing()
        except StorageError:
            self._try_at = now + TRY_SECS
            return
        log.info("jobs can be claimed again")
        self._try_at = 0.0
        self._open()

    def _deliver(self, delivery: Delivery) -> None:
        if self._closed:
            return
        try:
            order = jobs.read(delivery.body, jobs.is_sealed(self._secret, delivery.body, delivery.headers))
        except MalformedMessage as error:
            self._link.bury(delivery, str(error))
            self.pulling.drop(delivery)
            return
        if self._not_wanted(order, delivery):
            self.pulling.drop(delivery)
        elif order.options.node not in ("", self._node):
            self._return(delivery, f"it is not {order.options.node}, which the job is for")
        elif not self._catalog.has(order.job):
            self._return(delivery, f"it has no script {order.job}")
        else:
            claim = Claim(secrets.token_hex(16), order.id, order.attempt, now_ms(), by_hand=not order.id)
            self._fresh.append(_Fresh(claim, order, delivery, time.monotonic()))

    def _give_back(self, fresh: Sequence[_Fresh]) -> None:
        for one in fresh:
            self.pulling.give_back(one.delivery)

    def _not_wanted(self, order: Order, delivery: Delivery) -> bool:
        """Whether the job is withdrawn, or was claimed here before; if it is over, that is said once more."""
        if not order.id:
            again = delivery.redelivered and self._withdrawals.expected(delivery.body)
        elif self._withdrawals.covers(order.id, order.attempt):
            return True
        else:
            known = self._claims.known(order.id, order.attempt)
            again = known is not None or any(
                (fresh.order.id, fresh.order.attempt) == (order.id, order.attempt) for fresh in self._fresh
            )
            if isinstance(known, Finished):
                self._settling.say(known)
        if again:
            log.info("job was claimed already", path=order.job, job=order.id, attempt=order.attempt)
        return again

    def _return(self, delivery: Delivery, reason: str) -> None:
        log.info("job given back", reason=reason)

        def done(_reports: Sequence[Report], sent: bool) -> None:
            # Only now the job is elsewhere.
            (self.pulling.drop if sent else self.pulling.give_back)(delivery)

        self._reporter.send([Returned(delivery.body, reason, secrets.token_hex(16))], done)

    def _acked(self, claim: Claim, order: bytes) -> Callable[[bool], None]:
        """What to do when the broker was told that a message is taken, or could not be told."""
        take, expect = partial(self._claims.take, claim), partial(self._withdrawals.expect, order)
        return lambda told: self._post(take if told else expect)


def _order_kept(claim: Claim, delivery: Delivery) -> bytes:
    return delivery.body if claim.by_hand else b""
