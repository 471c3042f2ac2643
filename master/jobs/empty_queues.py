"""Queues that somebody has emptied: the broker is asked for the depths of all queues with jobs, again and again."""

from __future__ import annotations

import time
from collections.abc import Iterable

from broker import topology
from broker.link import Link
from broker.messages.jobs import PRIORITIES
from master.jobs.model import lane

DEPTHS_SECS = 5.0  # between two questions
DEAF_SECS = DEPTHS_SECS + 2.0  # since the last reply of the broker: after more than this, it stands still


class EmptyQueues:
    """Compares the depths in the last two replies of the broker."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._asked = 0.0  # s, the monotonic clock, like the next one
        self._replied = time.monotonic()
        self._depths: list[dict[str, int]] = []  # messages by queue, the newest last

    def deaf(self, clock: float) -> bool:
        """Whether the broker has not replied for so long that it stands still."""
        return clock - self._replied > DEAF_SECS

    def ask(self, nodes: Iterable[str], clock: float) -> None:
        """Ask for the depths, if it is time."""
        if clock - self._asked > DEPTHS_SECS:
            self._asked = clock
            self._link.count([queue for queues in _lanes(nodes).values() for queue in queues], self._reply)

    def lanes(self, nodes: Iterable[str]) -> list[str]:
        """Lanes of the ledger whose queues were empty in the last two replies; each pair of replies counts once."""
        if len(self._depths) < 2:
            return []
        before, last = self._depths[-2:]
        del self._depths[:-1]
        return [
            name
            for name, queues in _lanes(nodes).items()
            if all(before.get(queue) == last.get(queue) == 0 for queue in queues)
        ]

    def _reply(self, depths: dict[str, int]) -> None:
        """The broker has replied; called on the link's thread."""
        self._depths.append(depths)
        self._replied = time.monotonic()


def _lanes(nodes: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Lanes of the ledger, and the queues that they stand for."""
    shared = {lane("", priority): (topology.jobs_queue(priority),) for priority in PRIORITIES}
    return shared | {lane(node, ""): (topology.node_jobs_queue(node), topology.node_data_queue(node)) for node in nodes}
