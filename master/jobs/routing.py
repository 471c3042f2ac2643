"""Which node a job goes to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from broker.messages.jobs import Order


class Load(NamedTuple):
    """What there is to know of a node before it is given a job."""

    alive: bool
    slots: int
    running: int


def choose(
    order: Order,
    having: Collection[str],
    loads: Mapping[str, Load],
    holding: Collection[str],
    waiting: Mapping[str, int],
    without: Collection[str] = (),
) -> str | None:
    """Node whose own queue a job goes to, "" for the queue of all, None when no node can run it.

    `having` are the nodes with its script, `holding` those with the key it works on, `waiting` says how many
    jobs wait in a node's own queue already. Not `without` these.
    """
    possible = set(having) - set(without)
    if order.options.node:
        return order.options.node if order.options.node in possible else None
    if not possible:
        return None
    alive = {node for node, load in loads.items() if load.alive}
    near = possible & alive & set(holding) if order.data else set()
    if not near and alive <= possible:
        return ""

    def burden(node: str) -> tuple[float, str]:
        load = loads.get(node, Load(False, 0, 0))
        return (load.running + waiting.get(node, 0)) / max(1, load.slots), node

    # When none of them is alive, it waits for one; the others could only give it back.
    return min(near or possible & alive or possible, key=burden)


def may_move(order: Order, having: Collection[str], loads: Mapping[str, Load]) -> bool:
    """Whether a job in a node's own queue may go to the queue of all after a while: it is there for its data only."""
    return (
        bool(order.data)
        and not order.options.node
        and all(name in having for name, load in loads.items() if load.alive)
    )
