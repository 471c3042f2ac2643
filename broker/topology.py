"""Every exchange, queue and binding, in one table, and the only place that names them.

| queue                               | fed by                    | consumed by     | carries                          |
| ----------------------------------- | ------------------------- | --------------- | -------------------------------- |
| `pulzar.node.<id>` (durable)        | master                    | that node alone | commands, replays                |
| `pulzar.control.<id>.…` (exclusive) | `pulzar.control` (fanout) | that node       | announce, withdraw a job         |
| `pulzar.jobs` (quorum)              | master, **and anyone**    | every free slot | jobs that any node can run       |
| `pulzar.jobs.high`, `.low` (quorum) | the same                  | the same        | jobs of these priorities         |
| `pulzar.node.<id>.jobs` (quorum)    | master                    | that node       | jobs bound to that node          |
| `pulzar.node.<id>.data` (quorum)    | master                    | that node       | jobs for its data, for a while   |
| `pulzar.results` (durable)          | nodes                     | controller      | outcomes of commands; replays    |
| `pulzar.progress` (bounded)         | nodes                     | controller      | progress and log of runs         |
| `pulzar.heartbeats` (bounded, TTL)  | nodes                     | controller      | state of every node              |
| `pulzar.events` (topic exchange)    | controller                | any binding     | `key.added`, `key.deleted`       |
| `pulzar.dead` (bounded)             | nodes, controller         | people          | unusable messages, with a reason |

The arguments mean the same on RabbitMQ 3.10 and 4.x. The queue type is always given, and nothing is used that one of
them has dropped (`x-queue-mode`, `x-max-priority`, transient shared queues). The queues of jobs are quorum queues,
because the management console publishes non-persistent messages, and such a queue keeps them.

A job that is sent to a node for its data has a TTL. When that ends, RabbitMQ moves the job to `pulzar.jobs`. It
looks at the first message of a queue only. So these jobs, which all have the same TTL, have a queue of their own.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import NamedTuple

RESULTS = "pulzar.results"
HEARTBEATS = "pulzar.heartbeats"
PROGRESS = "pulzar.progress"
JOBS = "pulzar.jobs"
CONTROL = "pulzar.control"
EVENTS = "pulzar.events"
DEAD = "pulzar.dead"

HEARTBEAT_TTL_MS = 10_000
MAX_HEARTBEATS = 1_000
MAX_PROGRESS = 10_000
MAX_PROGRESS_BYTES = 64 * 1024 * 1024
DELIVERIES = 20  # attempts to hand a job to a node before it goes to `pulzar.dead`
MAX_DEAD = 10_000
MAX_DEAD_BYTES = 256 * 1024 * 1024


class Exchange(NamedTuple):
    """An exchange to declare."""

    name: str
    kind: str


class Queue(NamedTuple):
    """A queue to declare. An exclusive queue belongs to the connection and ends with it."""

    name: str
    arguments: Mapping[str, str | int]
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


def jobs_queue(priority: str) -> str:
    """Name of the queue of jobs of a priority: high, normal or low."""
    return JOBS if priority == "normal" else f"{JOBS}.{priority}"


def node_jobs_queue(node: str) -> str:
    """Name of the queue of jobs that are bound to one node."""
    return f"{node_queue(node)}.jobs"


def node_data_queue(node: str) -> str:
    """Name of the queue of jobs that wait for a while for one node, which has their data."""
    return f"{node_queue(node)}.data"


def job_queues(node: str) -> Sequence[str]:
    """The queues that a node takes jobs from, the most urgent one first."""
    return (node_jobs_queue(node), node_data_queue(node), jobs_queue("high"), jobs_queue("normal"), jobs_queue("low"))


def control_queue(node: str) -> str:
    """A new name for a node's queue of control messages. An older connection may still hold the queue before."""
    return f"{CONTROL}.{node}.{secrets.token_hex(4)}"


def master() -> Sequence[Declaration]:
    """The declarations of the master at every connection."""
    return (
        Queue(RESULTS, _classic()),
        Queue(HEARTBEATS, _classic(**{"x-message-ttl": HEARTBEAT_TTL_MS, "x-max-length": MAX_HEARTBEATS})),
        *(Queue(jobs_queue(priority), _quorum(DEAD)) for priority in ("high", "normal", "low")),
        Queue(PROGRESS, _classic(**{"x-max-length": MAX_PROGRESS, "x-max-length-bytes": MAX_PROGRESS_BYTES})),
        Queue(DEAD, _classic(**{"x-max-length": MAX_DEAD, "x-max-length-bytes": MAX_DEAD_BYTES})),
        Exchange(CONTROL, "fanout"),
        Exchange(EVENTS, "topic"),
    )


def node(node_id: str, control: str) -> Sequence[Declaration]:
    """The declarations of a node at every connection: those of the master, and its own four queues."""
    return (
        *master(),
        Queue(node_queue(node_id), _classic()),
        Queue(node_jobs_queue(node_id), _quorum(JOBS)),
        Queue(node_data_queue(node_id), _quorum(JOBS)),
        Queue(control, _classic(), exclusive=True),
        Binding(CONTROL, control),
    )


def _classic(**arguments: int) -> Mapping[str, str | int]:
    return {"x-queue-type": "classic", **arguments}


def _quorum(dead_letters: str) -> Mapping[str, str | int]:
    """A quorum queue whose messages move on to the queue `dead_letters` when nobody could take them."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": DELIVERIES,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead_letters,
        # Together: RabbitMQ keeps such a message until the other queue has confirmed it.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
