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
| `pulzar.events` (topic exchange)    | controller                | any binding     | events, see docs/events.md       |
| `pulzar.dead` (bounded)             | nodes, controller         | people          | unusable messages, with a reason |

Where each role is a user of its own in RabbitMQ (`broker/link/roles.py`), there are three more exchanges, all direct.
Nobody but the master may use the default exchange then, because that right is one for all queues.

| exchange           | written by | leads to                                       | routing key          |
| ------------------ | ---------- | ---------------------------------------------- | -------------------- |
| `pulzar.up`        | nodes      | results, heartbeats, progress, dead            | the queue's name     |
| `pulzar.launch`    | publishers | the queues of jobs                             | the same, or `high`… |
| `pulzar.node.<id>` | that node  | its queues of commands and of control messages | the queue's name     |

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
UP = "pulzar.up"
LAUNCH = "pulzar.launch"

ON_BEHALF = "pulzar-on-behalf"  # header, from the master's user alone: the user who had sent the message first

# Users of RabbitMQ, where each role has its own.
MASTER_USER = "pulzar.master"
PUBLISHER_USER = "pulzar.publisher"
_NODE_USER = "pulzar.node."
_TAKEN = (".jobs", ".data")  # a node whose name ends so would have the name of a queue of another one
PRIORITIES = ("high", "normal", "low")

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


class Present(NamedTuple):
    """An exchange that somebody else declares, and that must be there."""

    exchange: str


class Binding(NamedTuple):
    """Messages of the exchange go to the queue."""

    exchange: str
    queue: str
    routing_key: str = ""


Declaration = Exchange | Queue | Present | Binding


def node_user(node: str) -> str:
    """Name of the user that one node is in RabbitMQ."""
    return f"{_NODE_USER}{node}"


def node_of(user: str) -> str:
    """The node that a user of RabbitMQ is; "" for other users."""
    return user.removeprefix(_NODE_USER) if user.startswith(_NODE_USER) else ""


def objection_to(node: str) -> str:
    """Why a node of that name can't have a user of its own; "" when it can."""
    if node.endswith(_TAKEN):
        return f"the node's name {node} ends in {' or '.join(_TAKEN)}, as names of queues do; choose another one"
    return ""


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
    return (node_jobs_queue(node), node_data_queue(node), *map(jobs_queue, PRIORITIES))


def again(queue: str) -> str:
    """Where a message of a queue goes when it is sent again; "" when nowhere.

    Jobs that waited for a node with their data go to any node, for nobody would move them on. States of nodes and
    progress are out of date.
    """
    if queue.startswith(f"{node_queue('')}") and queue.endswith(".data"):
        return JOBS
    known = (RESULTS, *map(jobs_queue, PRIORITIES))
    return queue if queue in known or queue.startswith((node_queue(""), f"{CONTROL}.")) else ""


def may_have_had(node: str, queue: str) -> bool:
    """Whether a node can have got a message from a queue. `node`: "" for those that are none."""
    shared = tuple(map(jobs_queue, PRIORITIES))
    own = (node_queue(node), *job_queues(node)) if node else ()
    return queue in shared or queue in own or (bool(node) and queue.startswith(f"{CONTROL}.{node}."))


def control_queue(node: str) -> str:
    """A new name for a node's queue of control messages. An older connection may still hold the queue before."""
    return f"{CONTROL}.{node}.{secrets.token_hex(4)}"


def master() -> Sequence[Declaration]:
    """The declarations of the master at every connection."""
    return (
        Queue(RESULTS, _classic()),
        Queue(HEARTBEATS, _classic(**{"x-message-ttl": HEARTBEAT_TTL_MS, "x-max-length": MAX_HEARTBEATS})),
        *(Queue(jobs_queue(priority), _quorum(DEAD)) for priority in PRIORITIES),
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
        *node_jobs(node_id),
        Queue(control, _classic(), exclusive=True),
        Binding(CONTROL, control),
    )


def node_jobs(node_id: str) -> Sequence[Queue]:
    """The queues of jobs of one node. Their dead letters go elsewhere, so only who may write there may make them."""
    return (Queue(node_jobs_queue(node_id), _quorum(JOBS)), Queue(node_data_queue(node_id), _quorum(JOBS)))


def exchanges_of_roles() -> Sequence[Declaration]:
    """What the master declares besides `master()` when it is a user of its own."""
    launched = {word: jobs_queue(word) for word in PRIORITIES} | {name: name for name in map(jobs_queue, PRIORITIES)}
    return (
        Exchange(UP, "direct"),
        *(Binding(UP, queue, queue) for queue in (RESULTS, HEARTBEATS, PROGRESS, DEAD)),
        Exchange(LAUNCH, "direct"),
        *(Binding(LAUNCH, queue, key) for key, queue in launched.items()),
    )


def master_role() -> Sequence[Declaration]:
    """The declarations of a master that is a user of its own."""
    return (*master(), *exchanges_of_roles())


def node_role(node_id: str, control: str) -> Sequence[Declaration]:
    """The declarations of a node that is a user of its own. The master makes the rest."""
    own = node_queue(node_id)
    return (
        Present(UP),
        Present(CONTROL),
        Exchange(own, "direct"),
        Queue(own, _classic()),
        Binding(own, own, own),
        Queue(control, _classic(), exclusive=True),
        Binding(CONTROL, control),
        Binding(own, control, control),
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
