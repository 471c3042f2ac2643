"""What comes from the queues of jobs: it is claimed, dropped, buried, or given back."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from broker import logs
from broker.clock import now_ms
from broker.errors import MalformedMessage
from broker.link import Delivery
from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import Finished, Returned, Withdrawn
from node.errors import StorageError
from node.jobs.catalog import Catalog
from node.jobs.claims import Claim
from node.jobs.context import JobContext
from node.jobs.prefetch import HOLD_SECS
from node.jobs.reports import Report
from node.jobs.slots import Slots
from node.jobs.withdrawals import Withdrawals

log = logs.get(__name__)

WITHDRAWN_SECS = 3.0  # after the first connection, for the master to say which jobs must not run any more
TRY_SECS = 2.0  # from a claim that could not be written to the next attempt


class _Candidate(NamedTuple):
    """A job that has come and is not claimed yet."""

    claim: Claim
    order: Order
    delivery: Delivery
    since: float  # monotonic clock, seconds

    def kept_order(self) -> bytes:
        """The bytes of the order that its claim keeps: those of a job without an id."""
        return self.delivery.body if self.claim.by_hand else b""


class Intake:
    """Takes jobs from the queues and claims them. Used on the jobs thread."""

    def __init__(self, context: JobContext, catalog: Catalog) -> None:
        self._context = context
        self._claims = context.claims
        self._events = context.events
        self._secrets = context.config.secrets()
        self._catalog = catalog
        self.slots = Slots(context.link, context.node, context.slot_count, self._delivered)
        self._withdrawals = Withdrawals()
        self._candidates: list[_Candidate] = []  # oldest first
        self._connected = False
        self._open_at = math.inf  # when to take jobs though the master has not said which are withdrawn
        self._try_at = math.inf  # when to try again to write claims; inf while they can be written
        self._closed = False

    def link_up(self) -> None:
        """Note that there is a connection; after the first one, the master has a moment to withdraw jobs."""
        if not self._connected:
            self._connected = True
            self._open_at = time.monotonic() + WITHDRAWN_SECS

    def link_down(self) -> None:
        """Forget what was not claimed: it comes again, here or elsewhere."""
        for _ in self._candidates:
            self.slots.release()
        self._candidates.clear()

    def close(self) -> None:
        """Take no more jobs; what comes goes back with the connection."""
        self._closed = True
        self.slots.open(False)

    def tick(self) -> None:
        """Begin to take jobs, or try again to write claims, when it is time for that."""
        now = time.monotonic()
        if now >= self._open_at:
            self._open()
        if now >= self._try_at:
            self._try_claims(now)

    @property
    def waiting(self) -> bool:
        """Whether jobs are here that no slot is free for."""
        return bool(self._candidates)

    @property
    def next_due(self) -> float:
        """When the oldest candidate is to be given back, by the monotonic clock."""
        return self._candidates[0].since + HOLD_SECS if self._candidates else math.inf

    def claim(self, free: int) -> list[tuple[Claim, Order]]:
        """Claim candidates durably, at most one for each of `free` slots, and acknowledge them: the runs to begin."""
        chosen, self._candidates = self._candidates[:free], self._candidates[free:]
        if not chosen or self._closed:
            return []
        for candidate in chosen:
            candidate.claim.at = now_ms()
        try:
            self._claims.add([(candidate.claim, candidate.kept_order()) for candidate in chosen])
        except StorageError as error:
            log.error("jobs can't be claimed; taking none", jobs=len(chosen), error=error)
            self.slots.open(False)
            self._give_back(chosen + self._candidates)
            self._try_at = time.monotonic() + TRY_SECS
            return []
        for candidate in chosen:
            claim = candidate.claim
            self._context.reports.add(claim.report(candidate.kept_order()))
            self.slots.ack(candidate.delivery, partial(self._acknowledged, candidate) if claim.by_hand else None)
        return [(candidate.claim, candidate.order) for candidate in chosen]

    def give_back_ahead(self) -> bool:
        """Give back the jobs beyond the free slots when the oldest has waited too long; whether there were any."""
        if time.monotonic() < self.next_due:
            return False
        log.info("jobs taken ahead are given back", jobs=len(self._candidates))
        self._give_back(self._candidates)
        return True

    def withdrawn(self, message: Withdrawn) -> None:
        """Note which jobs the master withdrew before this process began, and take jobs from now on."""
        self._withdrawals.add(message.entries)
        self._open()

    def withdraw(self, job: int, attempt: int) -> None:
        """Never run this job, up to this attempt."""
        self._withdrawals.add([(job, attempt)])
        for candidate in list(self._candidates):
            if candidate.order.id == job and candidate.order.attempt <= attempt:
                self._candidates.remove(candidate)
                self.slots.drop(candidate.delivery)

    def expect_again(self, claim: Claim) -> None:
        """Expect the message of a job without an id again, and drop it then: it is claimed. Raises `StorageError`."""
        self._withdrawals.expect(self._claims.order(claim))

    def _open(self) -> None:
        self._open_at = math.inf
        self.slots.open(not self._closed and self._try_at == math.inf)

    def _try_claims(self, now: float) -> None:
        """Take jobs again if claims can be written again."""
        try:
            self._claims.try_writing()
        except StorageError as error:
            log.debug("jobs still can't be claimed", error=error)
            self._try_at = now + TRY_SECS
            return
        log.info("jobs can be claimed again")
        self._try_at = math.inf
        self._open()

    def _delivered(self, delivery: Delivery) -> None:
        self._events.put(self._deliver, delivery)

    def _deliver(self, delivery: Delivery) -> None:
        if self._closed:
            return
        try:
            sealed = jobs.is_sealed(self._secrets, delivery.body, delivery.headers)
            order = jobs.unseal(delivery.body) if sealed else jobs.read(delivery.body)
        except MalformedMessage as error:
            self._context.link.bury(delivery, str(error), partial(self.slots.drop, delivery))
            return
        if self._is_unwanted(order, delivery):
            self.slots.drop(delivery)
        elif order.options.node not in ("", self._context.node):
            self._return(delivery, f"it is not {order.options.node}, which the job is for")
        elif not self._catalog.has(order.job):
            self._return(delivery, f"it has no script {order.job}")
        else:
            claim = Claim(secrets.token_hex(16), order.id, order.attempt, now_ms(), by_hand=not order.id)
            self._candidates.append(_Candidate(claim, order, delivery, time.monotonic()))

    def _give_back(self, candidates: Sequence[_Candidate]) -> None:
        """Give back candidates, among them all that are left."""
        for candidate in candidates:
            self.slots.give_back(candidate.delivery)
        self._candidates = []

    def _is_unwanted(self, order: Order, delivery: Delivery) -> bool:
        """Whether the job is withdrawn or was claimed here before; the report of one that is over is sent again."""
        if not order.id:
            again = delivery.redelivered and self._withdrawals.expected(delivery.body)
        elif self._withdrawals.covers(order.id, order.attempt):
            return True
        else:
            known = self._claims.known(order.id, order.attempt)
            attempt = (order.id, order.attempt)
            again = known is not None or attempt in [
                (other.order.id, other.order.attempt) for other in self._candidates
            ]
            if isinstance(known, Finished):
                self._context.reports.add(known)
        if again:
            log.info("job was claimed already", path=order.job, job=order.id, attempt=order.attempt)
        return again

    def _return(self, delivery: Delivery, reason: str) -> None:
        """Report that this node can't run a job; its message is acknowledged when the master has the report."""
        log.info("job given back", reason=reason)

        def done(_reports: Sequence[Report], sent: bool) -> None:
            (self.slots.drop if sent else self.slots.give_back)(delivery)

        self._context.reporter.send([Returned(delivery.body, reason, secrets.token_hex(16))], done)

    def _acknowledged(self, candidate: _Candidate, told: bool) -> None:
        """Note whether the broker was told that a job without an id is taken; else its message comes again."""
        if told:
            self._events.put(self._claims.acknowledge, candidate.claim)
        else:
            self._events.put(self._withdrawals.expect, candidate.kept_order())
