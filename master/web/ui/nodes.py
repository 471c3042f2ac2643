"""The page of one node: its state, the curves of its last hour and day, and how to forget it."""

from __future__ import annotations

import time
from pathlib import Path

from flask import Blueprint, Response

from broker.refusals import NotFound
from master.backup import overview
from master.cluster import curves
from master.cluster.nodes import Row
from master.web.ui.frame.inner import message_of
from master.web.ui.parts import ask, confirmed, environ, fragment, page, parts, see

NAV = None
blueprint = Blueprint("nodes", __name__)

_HOUR, _DAY = 3600, 86_400


@blueprint.get("/ui/nodes/<node>")
def shown(node: str) -> Response:
    """The whole page."""
    return page("cluster/node.html", here="cluster", title=f"Node {node}", **_values(node))


@blueprint.get("/ui/nodes/<node>/now")
def now(node: str) -> Response:
    """What moves on it."""
    return fragment("cluster/node_now.html", **_values(node))


@blueprint.post("/ui/nodes/<node>/forget")
def forget(node: str) -> Response:
    """Forget the node, after a question."""
    if not confirmed():
        return ask(
            f"Forget node {node}?",
            "Its keys answer 503 until they leave the index. Do it only when the node is gone for good.",
            "Forget it",
            back=f"nodes/{node}",
        )
    done = parts().inner.call(environ(), "DELETE", f"/admin/network/{node}")
    return see("", message_of(done))


def _values(node: str) -> dict[str, object]:
    context = parts().context
    row = _row(node)
    moment = time.time()
    found = curves.read(Path(context.settings.server.dir), node, moment)
    return {
        "row": row,
        "moment": moment,
        "backup": overview.member(context.settings, node),
        "spans": [
            ("The last hour", found.hour, moment - _HOUR, moment, curves.HOUR_STEP_SECS * 3),
            ("The last day", found.day, moment - _DAY, moment, curves.DAY_STEP_SECS * 3),
        ],
    }


def _row(node: str) -> Row:
    for row in parts().context.network.describe():
        if row["node"] == node:
            return row
    raise NotFound(f"no node is called {node!r}; the cluster's page lists those there are")
