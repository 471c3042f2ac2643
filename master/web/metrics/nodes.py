"""The figures of each node, as the master sees it: from its last heartbeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker.metrics.exposition import Text
from master.cluster.nodes import Row


class NodeFigures(NamedTuple):
    """A node."""

    row: Row  # as `/admin/network` shows it
    lag: int  # records of its log that the index has not applied


# Name, what it is, and how it is read from a node at a time in seconds since the epoch.
_FIGURES: tuple[tuple[str, str, Callable[[NodeFigures, float], float]], ...] = (
    ("pulzar_node_up", "1: the node was heard from lately.", lambda node, _: node.row["synch"]),
    (
        "pulzar_node_heartbeat_age_seconds",
        "Since the last heartbeat came in.",
        lambda node, now: max(0.0, now - node.row["last_seen"]),
    ),
    (
        "pulzar_node_clock_ahead_seconds",
        "By how much the node's clock is ahead of the master's, with the way of the heartbeat.",
        lambda node, _: node.row["sent"] - node.row["last_seen"],
    ),
    (
        "pulzar_node_cursor_lag_records",
        "Records of the node's log that the index has not applied.",
        lambda node, _: max(0, node.lag),
    ),
    ("pulzar_heartbeat_keys", "Values on the node.", lambda node, _: node.row["keys"]),
    (
        "pulzar_heartbeat_disk_total_bytes",
        "Size of the node's filesystem.",
        lambda node, _: node.row["disk_total"],
    ),
    ("pulzar_heartbeat_disk_free_bytes", "Free bytes of it.", lambda node, _: node.row["disk_free"]),
    ("pulzar_heartbeat_full", "1: the node takes no more values.", lambda node, _: node.row["full"]),
    ("pulzar_heartbeat_load", "1-minute load average divided by cores.", lambda node, _: node.row["load"]),
    (
        "pulzar_heartbeat_memory_ratio",
        "Share of the machine's memory in use.",
        lambda node, _: node.row["memory"] / 100,
    ),
    ("pulzar_heartbeat_slots", "Runs that the node can have at once.", lambda node, _: node.row["slots"]),
    ("pulzar_heartbeat_running", "Runs that it has.", lambda node, _: len(node.row["running"])),
    ("pulzar_node_draining", "1: its values are moved away.", lambda node, _: node.row["draining"]),
)


def write_nodes(text: Text, nodes: Sequence[NodeFigures], now: float) -> None:
    """The figures of all nodes; `now` is in seconds since the epoch."""
    for name, about, value in _FIGURES:
        text.gauges(name, about, ("node",), [((node.row["node"],), float(value(node, now))) for node in nodes])
