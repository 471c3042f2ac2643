"""The queues of RabbitMQ and how many messages wait in each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from broker import topology
from broker.link import Link

FRESH_SECS = 4.0
ANSWER_SECS = 1.0  # a page waits so long for RabbitMQ when it knows nothing, or what was long ago
OLD_SECS = 15.0  # longer than an open page takes to ask again
_CARRIES = {
    topology.RESULTS: "Outcomes from nodes",
    topology.HEARTBEATS: "States of nodes",
    topology.PROGRESS: "Progress and logs of runs",
    topology.DEAD: "Messages that could not be used",
    **{topology.jobs_queue(word): f"Jobs of {word} priority" for word in topology.PRIORITIES},
}


class QueueRow(NamedTuple):
    """A queue as the page shows it."""

    name: str
    carries: str
    ready: int | None  # None: not known
    unacknowledged: int | None


class Depths:
    """How many messages wait, asked for again when somebody looks and the last answer is old. Any thread may use it."""

    def __init__(self, link: Link) -> None:
        self._link = link
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
                self._link.count([*_CARRIES, *_of_nodes(nodes)], self._take)
        if now - self._told > OLD_SECS:
            self._answered.wait(ANSWER_SECS)
        return self._answer

    def _take(self, depths: Mapping[str, int]) -> None:
        self._answer = dict(depths)
        self._told = time.monotonic()
        self._answered.set()


def _of_nodes(nodes: Iterable[str]) -> dict[str, str]:
    rows = {}
    for node in nodes:
        rows[topology.node_queue(node)] = f"Commands for {node}"
        rows[topology.node_jobs_queue(node)] = f"Jobs bound to {node}"
        rows[topology.node_data_queue(node)] = f"Jobs for the data of {node}"
    return rows


def rows(depths: Mapping[str, int], unacknowledged: Mapping[str, int], nodes: Iterable[str]) -> list[QueueRow]:
    """All queues, those of the cluster first."""
    return [
        QueueRow(name, what, depths.get(name), unacknowledged.get(name))
        for name, what in (_CARRIES | _of_nodes(nodes)).items()
    ]
