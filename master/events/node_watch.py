"""Notices nodes that come into synch and fall out of it, as `/admin/network` shows them."""

from __future__ import annotations

import time
from collections.abc import Iterable

from master.cluster.nodes import FRESH_SECS, MISSED_HEARTBEATS
from master.index.events import AWAY, BACK, Event
from master.index.index import Index

# Web workers look at the nodes again after `FRESH_SECS`. An event is told once they all show what it says.
_LATER_SECS = 2 * FRESH_SECS


class NodeWatch:
    """Which nodes are in synch. For the controller's thread alone.

    A node is out of synch when three heartbeats were missed. One that was never heard by this controller has that long
    from its start on.
    """

    def __init__(self, index: Index, heartbeat_secs: float) -> None:
        self._silence = heartbeat_secs * MISSED_HEARTBEATS + _LATER_SECS
        self._started = time.monotonic()
        self._first: dict[str, float] = {}  # when a node was heard of after it was away, by the monotonic clock
        self._last: dict[str, float] = {}  # when it was heard of, too
        with index.read() as tables:
            self.away = set(tables.away())
            self._known = set(tables.nodes())

    def heard(self, nodes: Iterable[str]) -> None:
        """Note heartbeats of these nodes, which the index has."""
        now = time.monotonic()
        for node in nodes:
            self._last[node] = now
            if node in self.away or node not in self._known:
                self._first.setdefault(node, now)

    def changes(self, nodes: Iterable[str], now_ms: int) -> list[Event]:
        """The events since the last look; `nodes` are all that the index knows."""
        now, known = time.monotonic(), set(nodes)
        found: list[Event] = []
        self.away &= known
        for node in sorted(known):
            silent = now - self._last.get(node, self._started) > self._silence
            if node in self._first and not silent and now - self._first[node] > _LATER_SECS:
                del self._first[node]
                self.away.discard(node)
                found.append(Event(BACK, now_ms, node, {"node": node}))
            elif silent and node not in self.away:
                self._first.pop(node, None)
                self.away.add(node)
                found.append(Event(AWAY, now_ms, node, {"node": node}))
        self._known = known
        return found
