"""How many jobs the node takes from its queues: one for each free slot, and some ahead while runs are short."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial

from broker import topology
from broker.link import Delivery, Link

SETTLE_SECS = 0.01


class Slots:
    """The places for jobs of a node. Thread-safe, but for `work`, which belongs to the link's thread."""

    def __init__(self, link: Link, node: str, count: int, deliver: Callable[[Delivery], None]) -> None:
        """`count`: runs at once. `deliver` gets each message on the link's thread; it takes a slot until `release`."""
        self._link = link
        self._count = count
        self._deliver = deliver
        self._puller = link.pull(topology.job_queues(node), self._delivered)
        self._commands: deque[Callable[[], None]] = deque()
        self._taken = 0
        self._ahead = 0
        self._open = False
        self._settled = 0.0  # when commands were last handed over at `settle`, by the monotonic clock

    def open(self, wanted: bool) -> None:
        """Take jobs, or take none."""
        self._do(partial(setattr, self, "_open", wanted))

    def take_ahead(self, count: int) -> None:
        """Set how many jobs to take beyond the free slots."""
        if count != self._ahead:
            self._do(partial(setattr, self, "_ahead", count))

    def release(self) -> None:
        """Free a slot."""
        self._do(self._release, soon=True)

    def ack(self, delivery: Delivery, then: Callable[[bool], None] | None = None) -> None:
        """Acknowledge a message; `then` is called on the link's thread: whether the broker was told."""

        def ack() -> None:
            # While runs are short, there are many to acknowledge.
            told = self._puller.ack(delivery, soon=self._ahead > 0 and then is None)
            if then:
                then(told)

        self._do(ack, soon=then is None)

    def drop(self, delivery: Delivery) -> None:
        """Acknowledge a message that is done with, and free its slot."""
        self.ack(delivery, lambda _told: self._release())

    def give_back(self, delivery: Delivery) -> None:
        """Give a message back to its queue, for this node or another, and free its slot."""

        def give_back() -> None:
            self._puller.give_back(delivery)
            self._release()

        self._do(give_back)

    def work(self) -> None:
        """Do what other threads have asked for."""
        if not self._commands:
            return
        while self._commands:
            self._commands.popleft()()
        free = self._count - self._taken
        if self._open:
            self._puller.want(max(0, free), max(0, self._ahead + min(0, free)), self._ahead)
        else:
            self._puller.want(0)

    def settle(self, more: bool) -> None:
        """Have done what was asked for; it may wait a moment when there are `more` jobs here. On the jobs thread."""
        if self._commands and (not more or time.monotonic() - self._settled >= SETTLE_SECS):
            self._settled = time.monotonic()
            self._link.wake()

    def _do(self, command: Callable[[], None], soon: bool = False) -> None:
        """Have the link's thread do this; with `soon` together with others, at `settle`, while runs are short."""
        self._commands.append(command)
        if not soon or not self._ahead:
            self._link.wake()

    def _release(self) -> None:
        self._taken -= 1

    def _delivered(self, delivery: Delivery) -> None:
        self._taken += 1
        self._deliver(delivery)
