"""Which node gets the next value: a pure decision from the latest heartbeats.

A node's weight is the room it has left times how idle it is. Smooth weighted round robin then spreads
the values in proportion, so that between two heartbeats nothing piles up on one node. Bytes sent
since the last heartbeat count as used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A node as its last heartbeat described it."""

    node: str
    disk_total: int  # bytes
    disk_free: int  # bytes
    load: float  # 1-minute load average divided by cores
    full: bool
    at: int  # ms, when the heartbeat was received; bytes sent before a newer one no longer count
    zone: str = ""  # what it shares with nodes that may fail together; "": nothing


class Placement:
    """Chooses nodes, one after the other. Not thread-safe: the caller holds a lock."""

    def __init__(self) -> None:
        self._turns: dict[str, float] = {}
        self._sent: dict[str, tuple[int, int]] = {}  # node → heartbeat, bytes sent since

    def choose(self, candidates: Iterable[Candidate], size: int, exclude: Collection[str] = ()) -> str | None:
        """The node for a value of `size` bytes, None when none has room."""
        weights = {c.node: self._weight(c, size) for c in candidates if c.node not in exclude}
        weights = {node: weight for node, weight in weights.items() if weight > 0}
        if not weights:
            return None
        for node, weight in weights.items():
            self._turns[node] = self._turns.get(node, 0.0) + weight
        chosen = max(weights, key=lambda node: (self._turns[node], node))
        self._turns[chosen] -= sum(weights.values())
        heartbeat, sent = self._sent[chosen]
        self._sent[chosen] = (heartbeat, sent + size)
        return chosen

    def _weight(self, candidate: Candidate, size: int) -> float:
        heartbeat, sent = self._sent.get(candidate.node, (candidate.at, 0))
        if heartbeat != candidate.at:
            sent = 0
        self._sent[candidate.node] = (candidate.at, sent)
        room = candidate.disk_free - sent
        if candidate.full or room < size:
            return 0.0
        # The share of free space counts, so that disks of any size fill alike. A busy node gets down to a quarter of
        # what an idle one gets.
        idle = 1.0 / (1.0 + min(3.0, max(0.0, candidate.load)))
        return max(room / max(1, candidate.disk_total), 0.001) * idle
