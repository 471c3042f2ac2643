"""How many jobs the node takes from its queues: one for each slot that is free, and some ahead while runs are short."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from broker import topology
from broker.link import Delivery, Link


class Slots:
    """Of the agent. Any thread may call it, but for `work`, which is for the link's."""

    def __init__(self, link: Link, node: str, slots: int, deliver: Callable[[Delivery], None]) -> None:
        """`deliver` gets each message, on the link's thread; its slot is taken until `release` is called."""
        self._link = link
        self._slots = slots
        self._deliver = deliver
        self._puller = link.pull(topology.job_queues(node), self._delivered)
        self._todo: deque[Callable[[], None]] = deque()
        self._taken = 0
        self._ahead = 0
        self._open = False

    def open(self, wanted: bool) -> None:
        """Whether jobs are wanted at all."""
        self._do(lambda: self._set_open(wanted))

    def take_ahead(self, count: int) -> None:
        """So many jobs are to be taken beyond those that slots are free for."""
        self._do(lambda: self._set_ahead(count))

    def release(self) -> None:
        """A slot is free again."""
        self._do(self._release)

    def ack(self, delivery: Delivery, then: Callable[[bool], None] | None = None) -> None:
        """The message is taken for good; `then` is called on the link's thread: whether the broker is told."""

        def ack() -> None:
            # While runs are short, there are many to acknowledge.
            told = self._puller.ack(delivery, soon=self._ahead > 0 and then is None)
            if then:
                then(told)

        self._do(ack)

    def drop(self, delivery: Delivery) -> None:
        """The message is done with, and its slot is free."""
        self.ack(delivery, lambda _told: self._release())

    def give_back(self, delivery: Delivery) -> None:
        """Somebody else shall have the message; its slot is free."""

        def give_back() -> None:
            self._puller.give_back(delivery)
            self._release()

        self._do(give_back)

    def work(self) -> None:
        """Do what other threads have asked for."""
        if not self._todo:
            return
        while self._todo:
            self._todo.popleft()()
        free = self._slots - self._taken
        ahead = max(0, self._ahead + min(0, free))
        if not self._open:
            self._puller.want(0)
        elif free > 0 or ahead == 0 or ahead >= self._ahead / 2:  # else there are some, and more come together
            self._puller.want(max(0, free), ahead)

    def _do(self, what: Callable[[], None]) -> None:
        self._todo.append(what)
        self._link.wake()

    def _set_open(self, wanted: bool) -> None:
        self._open = wanted

    def _set_ahead(self, count: int) -> None:
        self._ahead = count

    def _release(self) -> None:
        self._taken -= 1

    def _delivered(self, delivery: Delivery) -> None:
        self._taken += 1
        self._deliver(delivery)
