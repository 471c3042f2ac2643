"""Rebalancing: values move from the fullest node to the emptiest one, when these differ by more than ten points.

A value moves in two steps. Repair has one more copy made on the emptiest node. Then the value has one too many, and
thinning removes that of the fullest. Both follow from the index, so a restart of anything goes on from there.

How full a node is: the bytes of its values, as a share of these and of what is free on its disk. So a disk that is
shared with something else counts as a small one, and bytes that a node has not given back yet do not count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from broker import logs
from master.cluster.nodes import Nodes
from master.index.index import Entry

log = logs.get(__name__)

MOST_POINTS = 0.1  # a difference that is left alone


@dataclass
class Move:
    """What is being moved."""

    source: str
    target: str
    left: int  # bytes that are still to be moved


class Rebalance:
    """Decides which values get a copy elsewhere. For the controller's thread alone."""

    def __init__(self, nodes: Nodes, *, enabled: bool) -> None:
        self.enabled = enabled
        self.move: Move | None = None
        self._nodes = nodes
        self._bytes: Counter[str] = Counter()  # of the look that goes on, by node
        self._fill: dict[str, float] = {}  # of the last whole look

    def begin(self) -> None:
        """A look at everything begins."""
        self._bytes.clear()

    def note(self, entry: Entry) -> None:
        """Take in an entry of the look."""
        for node in entry.nodes:
            self._bytes[node] += entry.size

    def end(self, *, settled: bool) -> None:
        """A look at everything is over. `settled`: nothing was being moved, so that what was seen counts."""
        rooms = {node: self._bytes[node] + free for node, free in self._nodes.room().items()}
        self._fill = {node: self._bytes[node] / max(1, room) for node, room in rooms.items()}
        if not settled:
            return
        self.move = None
        if len(rooms) > 1:
            fullest, emptiest = max(rooms, key=self.fill), min(rooms, key=self.fill)
            difference = self.fill(fullest) - self.fill(emptiest)
            if difference > MOST_POINTS:
                # After so many bytes both are as full as each other.
                left = int(difference / (1 / rooms[fullest] + 1 / max(1, rooms[emptiest])))
                self.move = Move(fullest, emptiest, left)
                log.info("values are moved", **vars(self.move))

    def fill(self, node: str) -> float:
        """How full a node is, as a share. Without rebalancing, or before the first look, that of its disk."""
        known = self._fill.get(node)
        return self._nodes.used(node) if known is None else known

    def takes(self, entry: Entry) -> bool:
        """Whether a value is moved; then its bytes are no longer left to be moved."""
        if self.move is None or not 0 < entry.size <= self.move.left or not self.target(entry):
            return False
        self.move.left -= entry.size
        return True

    def target(self, entry: Entry) -> str | None:
        """The node that a value may move to; None when it has to stay where it is."""
        move = self.move
        if move is None or not entry.on(move.source) or entry.on(move.target):
            return None
        others = {self._nodes.zone(node) for node in entry.nodes if node != move.source} - {""}
        zone = self._nodes.zone(move.target)
        worse = zone in others and self._nodes.zone(move.source) not in others
        return None if worse else move.target
