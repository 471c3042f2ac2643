"""Every exchange, queue and binding, in one table, and the only place that names them.

| queue                                 | fed by                    | consumed by         | carries                              |
| ------------------------------------- | ------------------------- | ------------------- | ------------------------------------ |
| `pulzar.node.<id>` (durable)          | master                    | that node, alone    | store and delete commands, replays   |
| `pulzar.control.<id>.…` (exclusive)   | `pulzar.control` (fanout) | that node           | announce                             |
| `pulzar.results` (durable)            | nodes                     | controller          | what became of commands; replays     |
| `pulzar.heartbeats` (bounded, TTL)    | nodes                     | controller          | who and how every node is            |
| `pulzar.events` (topic exchange)      | controller                | whoever binds       | `key.added`, `key.deleted`           |
| `pulzar.dead` (bounded)               | nodes, controller         | people              | what could not be handled, and why   |

The arguments mean the same on RabbitMQ 3.10 and 4.x: the queue type is always said, and nothing is
used that one of them has dropped (`x-queue-mode`, `x-max-priority`, transient shared queues).
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RESULTS = "pulzar.results"
HEARTBEATS = "pulzar.heartbeats"
CONTROL = "pulzar.control"
EVENTS = "pulzar.events"
DEAD = "pulzar.dead"

HEARTBEAT_TTL_MS = 10_000
MAX_HEARTBEATS = 1_000
MAX_DEAD = 10_000
MAX_DEAD_BYTES = 256 * 1024 * 1024


class Exchange(NamedTuple):
    """An exchange to declare."""

    name: str
    kind: str


class Queue(NamedTuple):
    """A queue to declare. An exclusive one belongs to the connection and ends with it."""

    name: str
    arguments: Mapping[str, Any]
    exclusive: bool = False


class Binding(NamedTuple):
    """Messages of the exchange go to the queue."""

    exchange: str
    queue: str
    routing_key: str = ""


Declaration = Exchange | Queue | Binding


def node_queue(node: str) -> str:
    """Name of the queue with the commands for one node."""
    return f"pulzar.node.{node}"


def control_queue(node: str) -> str:
    """A new name for a node's queue of control messages; new, since an old connection may still hold its own."""
    return f"{CONTROL}.{node}.{secrets.token_hex(4)}"


def master() -> Sequence[Declaration]:
    """What the master declares whenever it connects."""
    return (
        Queue(RESULTS, _classic()),
        Queue(HEARTBEATS, _classic(**{"x-message-ttl": HEARTBEAT_TTL_MS, "x-max-length": MAX_HEARTBEATS})),
        Queue(DEAD, _classic(**{"x-max-length": MAX_DEAD, "x-max-length-bytes": MAX_DEAD_BYTES})),
        Exchange(CONTROL, "fanout"),
        Exchange(EVENTS, "topic"),
    )


def node(node_id: str, control: str) -> Sequence[Declaration]:
    """What a node declares whenever it connects: all that the master does, and its own two queues."""
    return (
        *master(),
        Queue(node_queue(node_id), _classic()),
        Queue(control, _classic(), exclusive=True),
        Binding(CONTROL, control),
    )


def _classic(**arguments: Any) -> Mapping[str, Any]:
    return {"x-queue-type": "classic", **arguments}
