"""The first screen: what is wrong, numbers, nodes, queues."""

from __future__ import annotations

import time

from flask import Blueprint, Response, current_app

from broker import topology
from master.backup import overview
from master.cluster.queue_depths import Depths
from master.jobs.rows import List
from master.web.ui import problems, queues
from master.web.ui.console import Console
from master.web.ui.frame.pages import Nav
from master.web.ui.parts import Parts, fragment, page, parts
from master.web.ui.problems import State

NAV = Nav("cluster", "Cluster", "", ("metrics",))
blueprint = Blueprint("cluster", __name__)

_DEPTHS, _CONSOLE = "pulzar ui depths", "pulzar ui console"


@blueprint.get("/ui/")
def cluster() -> Response:
    """The whole screen."""
    return page("cluster/cluster.html", here="cluster", title="Cluster", **_values())


@blueprint.get("/ui/cluster/now")
def now() -> Response:
    """What moves on it."""
    return fragment("cluster/now.html", **_values())


def depths(of: Parts) -> Depths:
    """The queues of this worker's RabbitMQ, as one object for all requests."""
    found: Depths = current_app.extensions.setdefault(_DEPTHS, Depths(of.context.link))
    return found


def console(of: Parts) -> Console:
    """RabbitMQ's console, as one object for all requests of this worker."""
    found: Console = current_app.extensions.setdefault(_CONSOLE, Console(of.context.settings))
    return found


def _values() -> dict[str, object]:
    known = parts()
    context = known.context
    moment = time.time()
    nodes = context.network.describe()
    names = [row["node"] for row in nodes]
    with context.index.read() as tables:
        usage = tables.usage()
        beats, doubts = tables.nodes(), tables.doubts()
    ready = depths(known).of(names)
    state = State(
        nodes,
        context.network.objection(),
        None if context.link.ready else context.link.problem,
        context.controller.connected,
        context.network.awaited(),
        overview.warnings(context.settings, names),
        context.certificate_warnings(),
        ready,
        {name: (node.heartbeat.at - node.received) / 1000 for name, node in beats.items()},
        doubts,
    )
    with context.ledger.read() as view:
        waiting = view.count(List.PENDINGS)
        failed = view.count(List.FAILED)
    heard = [row for row in nodes if row["synch"]]
    asked = console(known)
    said = asked.numbers()
    return {
        "moment": moment,
        "problems": problems.find(state, moment),
        "nodes": nodes,
        "numbers": {
            "keys": usage.keys,
            "bytes": usage.size,
            "held_bytes": sum(row["held_bytes"] for row in nodes),
            "heard": len(heard),
            "nodes": len(nodes),
            "running": sum(len(row["running"]) for row in heard),
            "slots": sum(row["slots"] for row in heard),
            "pending": waiting,
            "failed": failed,
            "free": sum(row["disk_free"] for row in heard),
            "total": sum(row["disk_total"] for row in heard),
        },
        "queues": queues.rows(ready, said.unacknowledged, names),
        "dead": topology.DEAD,
        "not_told": said.problem,
        "connected": context.link.ready,
        "console": asked.link,
    }
