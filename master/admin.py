"""`/admin/…`, `/health` and the internal `/skynet/…`: how the cluster is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, request, send_file

from broker import VERSION
from broker.refusals import BadRequest, NotFound
from master.answers import CALL_SECS
from master.app import Parts, ko, ok, uptime

blueprint = Blueprint("admin", __name__)


def _parts() -> Parts:
    parts: Parts = current_app.extensions["pulzar"]
    return parts


@blueprint.get("/admin/status")
def status() -> Response:
    """LMDB's statistics of the index, and what else there is to say of the master."""
    parts = _parts()
    stat = parts.index.stat()
    return ok(
        stat
        | {
            "version": VERSION,
            "uptime": uptime(parts),
            "keys": stat["entries"],
            "bytes": parts.index.read_meta("bytes") or 0,
            "broker": {"connected": parts.link.ready, "problem": parts.link.problem},
            "controller": parts.controller.connected,
            "restoring": parts.network.restoring,
        }
    )


@blueprint.get("/admin/network")
def network() -> Response:
    """Every node."""
    return ok(_parts().network.describe())


@blueprint.get("/admin/network/<node_id>")
def network_node(node_id: str) -> Response:
    """One node."""
    for row in _parts().network.describe():
        if row["node"] == node_id:
            return ok(row)
    raise NotFound(f"no node is called {node_id!r}; GET /admin/network lists them")


@blueprint.get("/health")
def health() -> Response:
    """Alive when it answers; ready when it can store. `?ready=1` answers 503 when it is not ready."""
    parts = _parts()
    synchronous = sum(row["synch"] for row in parts.network.describe())
    data = {
        "live": True,
        "ready": bool(parts.link.ready and parts.controller.connected and synchronous and parts.network.settled),
        "broker": parts.link.ready,
        "controller": parts.controller.connected,
        "nodes": synchronous,
    }
    if request.args.get("ready") and not data["ready"]:
        return ko(503, "not ready: " + (parts.link.problem or "no node is heard from"), data)
    return ok(data)


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """This API, described."""
    return send_file(Path(__file__).parent / "openapi.json", mimetype="application/json", max_age=300)


@blueprint.post("/skynet/restore")
def restore() -> Response:
    """Have the log of one node (`{"node": "…"}`) or of all (`{}`) applied to the index from its beginning."""
    parts = _parts()
    body: Any = request.get_json(force=True, silent=True)
    if not isinstance(body, dict) or set(body) - {"node"} or not isinstance(body.get("node", ""), str):
        raise BadRequest('give {"node": "<its name>"}, or {} for all nodes, as JSON')
    node = body.get("node", "")
    if node and parts.network.url(node) is None:
        raise NotFound(f"no node is called {node!r}; GET /admin/network lists them")
    parts.controller.call("restore", node).result(CALL_SECS)
    return ok({"node": node or None}, "restore started; GET /skynet/restore tells how far it is", 202)


@blueprint.get("/skynet/restore")
def restoring() -> Response:
    """Per node, how far its log is applied."""
    parts = _parts()
    rows = []
    for row in parts.network.describe():
        cursor = parts.index.read_meta(f"cursor:{row['node']}") or [0, 1, [], False]
        rows.append(
            {"node": row["node"], "synch": row["synch"], "url": row["url"], "applied": cursor[0], "seq": row["seq"],
             "generation": cursor[1], "restoring": cursor[3] or row["node"] in parts.network.restoring}
        )  # fmt: skip
    return ok({"nodes": rows, "keys": parts.index.stat()["entries"]})
