"""The queues of RabbitMQ and how many messages wait in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from broker import topology
from master.cluster.queue_depths import of_node

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


def _of_nodes(nodes: Iterable[str]) -> dict[str, str]:
    rows = {}
    for node in nodes:
        commands, bound, data = of_node(node)
        rows[commands] = f"Commands for {node}"
        rows[bound] = f"Jobs bound to {node}"
        rows[data] = f"Jobs for the data of {node}"
    return rows


def rows(depths: Mapping[str, int], unacknowledged: Mapping[str, int], nodes: Iterable[str]) -> list[QueueRow]:
    """All queues, those of the cluster first."""
    return [
        QueueRow(name, what, depths.get(name), unacknowledged.get(name))
        for name, what in (_CARRIES | _of_nodes(nodes)).items()
    ]
