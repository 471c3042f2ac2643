"""Makes what nodes that are users of their own in RabbitMQ may not make: their queues of jobs, and what all share.

It is made again now and then, since it may be deleted by hand. Making what exists changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial

from broker import logs, topology
from broker.link import Link
from broker.topology import Declaration

log = logs.get(__name__)

AGAIN_SECS = 10.0
STUCK_SECS = 60.0  # a queue without a leader may never be answered for
_SHARED = ""  # stands for what all nodes share


class NodeQueues:
    """Declares queues beside the topology of the controller's link."""

    def __init__(self, link: Link, shared: Sequence[Declaration]) -> None:
        """`shared` is made again too; empty when nodes make that themselves."""
        self._link = link
        self._shared = shared
        self._next: dict[str, float] = {_SHARED: time.monotonic() + AGAIN_SECS}  # by node

    def make(self, nodes: Iterable[str]) -> None:
        """Make the queues of jobs of these nodes, unless that was done just now."""
        for node in nodes:
            self._make(node, topology.node_jobs(node))

    def tick(self) -> None:
        """Make again what all nodes share."""
        if self._shared:
            self._make(_SHARED, self._shared)

    def lost(self) -> None:
        """Note that the connection is gone: the queues may be gone, too. Called on the link's thread."""
        for node in list(self._next):
            self._next[node] = 0.0

    def _make(self, node: str, items: Sequence[Declaration]) -> None:
        now = time.monotonic()
        if self._link.ready and now >= self._next.get(node, 0.0):
            self._next[node] = now + STUCK_SECS
            self._link.declare(items, partial(self._made, node))

    def _made(self, node: str, problem: str) -> None:
        self._next[node] = time.monotonic() + AGAIN_SECS
        if problem:
            log.error("queues can't be made", node=node or "all", reason=problem)
