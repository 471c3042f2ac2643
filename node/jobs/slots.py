"""How many jobs the node takes from its queues: one for each free slot, and some ahead while runs are short."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

from broker import topology
from broker.link import Delivery, Link


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

    def open(self, wanted: bool) -> None:
        """Take jobs, or take none."""
        self._do(partial(setattr, self, "_open", wanted))

    def take_ahead(self, count: int) -> None:
        """Set how many jobs to take beyond the free slots."""
        self._do(partial(setattr, self, "_ahead", count))

    def release(self) -> None:
        """Free a slot."""
        self._do(self._release)

    def ack(self, delivery: Delivery, then: Callable[[bool], None] | None = None) -> None:
        """Acknowledge a message; `then` is called on the link's thread: whether the broker was told."""

        def ack() -> None:
            # While runs are short, there are many to acknowledge.
            told = self._puller.ack(delivery, soon=self._ahead > 0 and then is None)
            if then:
                then(told)

        self._do(ack)

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
        ahead = max(0, self._ahead + min(0, free))
        if not self._open:
            self._puller.want(0)
        elif free > 0 or ahead == 0 or ahead >= self._ahead / 2:  # else there are some, and more come together
            self._puller.want(max(0, free), ahead)

    def _do(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        self._link.wake()

    def _release(self) -> None:
        self._taken -= 1

    def _delivered(self, delivery: Delivery) -> None:
        self._taken += 1
        self._deliver(delivery)
