"""Sends a node to the other holders of the values that it has damaged.

The node gets a `Fetch` of the version that the index has. Its result changes nothing in the index, since the node was a
holder all the while. Nothing is remembered: a node that got no good copy asks again.
"""

from __future__ import annotations

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Damaged, Fetch
from master.cluster.nodes import Nodes
from master.cluster.replicas import bare_store, patience, source_addresses
from master.index.index import Index, Tables

log = logs.get(__name__)


class GoodCopies:
    """Answers nodes with damaged values. For the controller's thread alone."""

    def __init__(self, index: Index, nodes: Nodes, link: Link, secret: bytes) -> None:
        self._index = index
        self._nodes = nodes
        self._link = link
        self._secret = secret

    def send_to(self, message: Damaged) -> None:
        """Send a node where it gets good copies of its damaged values. Raises `lmdb.Error`."""
        with self._index.read() as tables:
            orders = [
                order for key, version in message.values if (order := self._order(tables, message.node, key, version))
            ]
        log.warning("node has damaged values", node=message.node, values=len(message.values), elsewhere=len(orders))
        for order in orders:
            ttl_ms = int(1000 * patience(order.store.size))
            try:
                self._link.publish(topology.node_queue(message.node), encode(order), ttl_ms=ttl_ms)
            except LinkDown as error:
                log.debug("no good copies ordered", reason=error)
                return

    def _order(self, tables: Tables, node: str, key: bytes, version: int) -> Fetch | None:
        """The order for one value; None when no other node has that version and is heard."""
        entry = tables.entry(key)
        if entry is None or entry.version != version or not entry.on(node):
            return None
        others = [other for other in self._nodes.by_load(entry.nodes) if other != node and self._nodes.alive(other)]
        sources = source_addresses(self._nodes.url, self._secret, key, others)
        return Fetch("", bare_store(key, entry), sources) if sources else None
