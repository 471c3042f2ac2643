"""How many messages wait in each queue, asked of RabbitMQ when somebody looks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from broker import topology
from broker.link import Link

FRESH_SECS = 4.0
ANSWER_SECS = 1.0  # who asks waits so long for RabbitMQ when nothing is known, or what was long ago
OLD_SECS = 15.0  # longer than an open page takes to ask again
OF_CLUSTER = (
    *(topology.RESULTS, topology.HEARTBEATS, topology.PROGRESS, topology.DEAD),
    *(topology.jobs_queue(word) for word in topology.PRIORITIES),
)


def of_node(node: str) -> tuple[str, str, str]:
    """The queues of a node: its commands, the jobs bound to it, and those for its data."""
    return topology.node_queue(node), topology.node_jobs_queue(node), topology.node_data_queue(node)


class Depths:
    """How many messages wait, asked for again when somebody looks and the last answer is old. Any thread may use it."""

    def __init__(self, link: Link, old: float = OLD_SECS) -> None:
        """`old`: numbers that were told more seconds ago are waited for."""
        self._link = link
        self._old = old
        self._guard = threading.Lock()
        self._answer: Mapping[str, int] = {}
        self._asked = float("-inf")
        self._told = float("-inf")
        self._answered = threading.Event()

    def of(self, nodes: Iterable[str]) -> Mapping[str, int]:
        """Ready messages by queue, of a moment ago; older ones only when RabbitMQ does not answer soon."""
        if not self._link.ready:
            return {}
        with self._guard:
            now = time.monotonic()
            if now - self._asked > FRESH_SECS:
                self._asked = now
                self._answered.clear()
                self._link.count([*OF_CLUSTER, *(queue for node in nodes for queue in of_node(node))], self._take)
        if now - self._told > self._old:
            self._answered.wait(ANSWER_SECS)
        return self._answer

    def _take(self, depths: Mapping[str, int]) -> None:
        self._answer = dict(depths)
        self._told = time.monotonic()
        self._answered.set()
