"""Which queue the message of a job goes to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from broker import keys, topology
from broker.messages.jobs import PRIORITIES, Order
from master.index.index import Index
from master.jobs.ledger import LedgerView
from master.jobs.model import lane

ANY_NODE = ""  # stands for the queues that all nodes pull from


class Load(NamedTuple):
    """What there is to know of a node before it is given a job."""

    alive: bool
    slots: int
    running: int  # runs


Loads = Mapping[str, Load]  # by node
_UNHEARD = Load(False, 0, 0)


def loads(nodes: Iterable[Mapping[str, Any]]) -> Loads:
    """The loads in rows of nodes, as `master.cluster.nodes.Nodes.describe` gives them."""
    return {row["node"]: Load(row["synch"], row["slots"], len(row["running"])) for row in nodes}


class Route(NamedTuple):
    """The queue for the message of a job."""

    lane: str  # the queue's name in the ledger, see `master.jobs.model.lane`
    queue: str
    ttl_ms: int | None = None  # RabbitMQ moves the message to the queue of all nodes after this; None: never


_SHARED = {priority: Route(lane(ANY_NODE, priority), topology.jobs_queue(priority)) for priority in PRIORITIES}


class Router:
    """Decides on routes, by the catalog in the ledger, the index and the loads of the nodes."""

    def __init__(self, index: Index, loads: Callable[[], Loads], data_wait: float) -> None:
        """`data_wait`: seconds that a job waits for the node with its data before any node may take it."""
        self._index = index
        self._loads = loads
        self._data_wait_ms = int(data_wait * 1000)

    def choose(self, view: LedgerView, order: Order, without: str | None = None) -> Route | None:
        """The route of a job, but not to the node `without`; None when no node can run it."""
        having, loads = view.nodes_with(order.job), self._loads()
        bound = order.data or order.options.node or without is not None
        if having and not bound and all(node in having for node, load in loads.items() if load.alive):
            return _SHARED[order.options.priority]  # as for most jobs by far
        entry = self._index.get(keys.encode(order.data)) if order.data else None
        node = choose(order, having - {without}, loads, view.waiting_on, entry.nodes if entry else ())
        return None if node is None else self._route(order, node, having, loads)

    def again(self, view: LedgerView, order: Order, lane: str) -> Route:
        """The route of a job whose message is published once more to the queue with this name in the ledger."""
        node = lane.partition(":")[0]
        having = () if node == ANY_NODE else view.nodes_with(order.job)
        return self._route(order, node, having, self._loads())

    def _route(self, order: Order, node: str, having: Collection[str], loads: Loads) -> Route:
        if node == ANY_NODE:
            return _SHARED[order.options.priority]
        if may_move(order, having, loads):
            return Route(lane(node, ""), topology.node_data_queue(node), self._data_wait_ms)
        return Route(lane(node, ""), topology.node_jobs_queue(node))


def choose(
    order: Order, possible: Collection[str], loads: Loads, waiting: Callable[[str], int], holders: Collection[str]
) -> str | None:
    """Node whose own queue a job goes to, `ANY_NODE` for the queue of all, None when no node can run it.

    `possible` are nodes with its script. `holders` are the nodes with the key it works on. `waiting` tells how many
    jobs wait in a node's own queue already.
    """
    if order.options.node:
        return order.options.node if order.options.node in possible else None
    if not possible:
        return None
    alive = _alive(loads)

    def burden(node: str) -> tuple[float, str]:
        load = loads.get(node, _UNHEARD)
        return (load.running + waiting(node)) / max(1, load.slots), node

    if near := alive.intersection(possible, holders):
        return min(near, key=burden)
    if alive.issubset(possible):
        return ANY_NODE
    # When none of them is alive, the job waits for one; the others could only give it back.
    return min(alive.intersection(possible) or possible, key=burden)


def may_move(order: Order, having: Collection[str], loads: Loads) -> bool:
    """Whether a job may leave a node's own queue for the queue of all: it is there for its data only."""
    return bool(order.data) and not order.options.node and _alive(loads).issubset(having)


def _alive(loads: Loads) -> set[str]:
    return {node for node, load in loads.items() if load.alive}
