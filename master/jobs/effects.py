"""What the rules about jobs want done outside of the ledger. The controller does it after the commit."""

from __future__ import annotations

from typing import NamedTuple

from broker.messages.jobs import Order
from broker.messages.runs import Named, Withdraw
from master.jobs.routing import Route


class Publish(NamedTuple):
    """Publish a job. `Transitions.confirmed` is called once the broker has confirmed it."""

    order: Order
    route: Route
    packed: bytes = b""  # the order as a web worker packed it, before it had an id; b"": it is packed anew


class NodeMessage(NamedTuple):
    """Tell one node the id of a job that was published by hand."""

    node: str
    message: Named


class Bury(NamedTuple):
    """Put a job that was published by hand, and that no node can run, where people find it."""

    order: bytes
    reason: str


Effect = Publish | Withdraw | NodeMessage | Bury
