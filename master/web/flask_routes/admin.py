"""`/admin/…`, `/health` and the internal `/internal/restore`: the state of the cluster, and what an operator can do."""

from __future__ import annotations

import json

from flask import Blueprint, Response, current_app, request

from broker import VERSION
from broker.backups import address
from broker.contract import document
from broker.contract.bodies import Body, OrNull, Record
from broker.contract.kinds import Flag, Text
from broker.contract.parameters import Parameter
from broker.http.responses import NO_FRAMES
from broker.refusals import BadRequest, Conflict, NotFound
from master.backup import overview
from master.channel import CALL_SECS, Drain, Forget, MakeBackups, Restore
from master.index.index import Cursor
from master.web.flask_routes.context import Context, context, ko, ok

blueprint = Blueprint("admin", __name__)

API = "pulzar api"  # key of the OpenAPI document in the application's extensions
_TARGET = Text(pattern=address.PATTERN, what="target: give a path like /mnt/backup, or one like rclone:remote:path")
_NODE_CHARS = 100
_API_SECS = 300  # how long a client may keep it
ENTRIES = Parameter(
    "entries", Flag(), "1: also `entries`, how many keys of the index are there; reads the whole index.", default=False
)
KEYS = Parameter("keys", Flag(), "1: its keys leave the index; else they stay and answer 503.", default=False)
LIVE = Parameter("live", Flag(), "1: 200 whenever the master answers.", default=False)
BACK_UP = Body(
    Record(
        {
            "node": (
                OrNull(Text(_NODE_CHARS, "[ -~]+", "name of a node")),
                "Name of a node, or master for the ledger; without it: all.",
            ),
            "target": (OrNull(_TARGET), "Where to, instead of [backup] type and address."),
        }
    ),
    '{"node": "<its name>", "target": "<where to>"}, each of them or none,',
    empty={},
)
RESTORE = Body(
    Record({"node": (Text(), "Name of a node; without it: all.")}), '{"node": "<its name>"}, or {} for all nodes,'
)
READY = Parameter("ready", Flag(), "1: as without it.", default=False)


@blueprint.get("/admin/status")
def status() -> Response:
    """LMDB's statistics of the index, and the state of the master."""
    parts = context()
    stat = parts.index.stat()
    with parts.index.read() as tables:
        usage, repair, unsure, doubts = tables.usage(), tables.repair(), tables.unsure(), tables.doubts()
        beats = [node.heartbeat for node in tables.nodes().values()]
    return ok(
        stat
        | {
            "version": VERSION,
            "uptime": parts.uptime,
            "keys": usage.keys,
            "bytes": usage.size,
            "held_keys": sum(beat.held_keys for beat in beats),
            "held_bytes": sum(beat.held_bytes for beat in beats),
            "broker": {"connected": parts.link.ready, "problem": parts.link.problem},
            "controller": parts.controller.connected,
            "restoring": parts.network.awaited(),
            "repair": {name: value for name, value in vars(repair).items() if name not in ("needed", "looked", "move")}
            | {"unsure": unsure.nodes, "checked": not doubts}
            | {"move": dict(zip(("source", "target", "left"), repair.move, strict=True)) if repair.move else None},
        }
    )


@blueprint.get("/admin/network")
def network() -> Response:
    """Every node."""
    return ok(context().network.describe())


@blueprint.get("/admin/network/<node_id>")
def network_node(node_id: str) -> Response:
    """One node."""
    for row in context().network.describe():
        if row["node"] == node_id:
            if ENTRIES.read(request.args):
                row["entries"] = context().index.count_of(node_id).total
            row["backup"] = overview.member(context().settings, node_id)
            return ok(row)
    raise NotFound(f"no node is called {node_id!r}; GET /admin/network lists them")


@blueprint.delete("/admin/network/<node_id>")
def forget(node_id: str) -> Response:
    """Forget a node that is gone for good. Its keys answer 503; with `?keys=1` they leave the index."""
    parts = context()
    entries = KEYS.read(request.args)
    with parts.index.read() as tables:
        applied = tables.cursor(node_id)
    if parts.network.url(node_id) is None and applied is None:
        raise NotFound(f"no node is called {node_id!r}; GET /admin/network lists them")
    if parts.network.alive(node_id):
        raise Conflict(f"node {node_id} is heard from; stop it first, and wait until its synch is false")
    count, alone = parts.index.count_of(node_id)
    parts.controller.call(Forget(node_id, entries or not count)).result(CALL_SECS)
    data = {"node": node_id, "keys": count, "removed": entries}
    elsewhere = f"; {count - alone:,} others are on other nodes, too" if count > alone else ""
    if entries and count:
        return ok(data, f"node {node_id} is forgotten; its {alone:,} keys leave the index now{elsewhere}", 202)
    left = f"; its {alone:,} keys stay in the index and answer 503, ?keys=1 removes them{elsewhere}" if count else ""
    return ok(data, f"node {node_id} is forgotten{left}")


@blueprint.post("/admin/network/<node_id>/drain")
def drain(node_id: str) -> Response:
    """Move all values of a node away; it takes no new ones."""
    parts = context()
    _require_known(parts, node_id)
    others = [
        row for row in parts.network.describe() if row["synch"] and row["node"] != node_id and not row["draining"]
    ]
    if not others:
        raise Conflict(f"no other node that takes values is heard from; start one before {node_id} is drained")
    parts.controller.call(Drain(node_id, True)).result(CALL_SECS)
    told = f"node {node_id} is being drained; repair.draining of GET /admin/status says how many values are left"
    return ok({"node": node_id}, told, 202)


@blueprint.delete("/admin/network/<node_id>/drain")
def end_drain(node_id: str) -> Response:
    """Have a node take values again that was being drained."""
    parts = context()
    _require_known(parts, node_id)
    parts.controller.call(Drain(node_id, False)).result(CALL_SECS)
    return ok({"node": node_id}, f"node {node_id} takes values again, and its copies count again")


def _require_known(parts: Context, node_id: str) -> None:
    if parts.network.url(node_id) is None:
        raise NotFound(f"no node is called {node_id!r}; GET /admin/network lists them")


@blueprint.get("/admin/backup")
def backups() -> Response:
    """Every member's backups, and what is going on."""
    parts = context()
    return ok(overview.describe(parts.settings, _names(parts)))


@blueprint.post("/admin/backup")
def back_up() -> Response:
    """Back up one node (`{"node": "…"}`, `master` for the ledger) or all, to `target` or the one in the settings."""
    parts = context()
    body = BACK_UP.read(request.get_data())
    try:
        # What its machine alone knows, such as programs that are missing, is told by the backup.
        address.check(address.chosen(parts.settings.backup, body.get("target")))
    except address.BadTarget as error:
        raise BadRequest(f"no backup can go there: {error}") from error
    call = MakeBackups(body.get("node"), body.get("target") or "")
    members, since = parts.controller.call(call).result(CALL_SECS)
    return ok({"members": members, "since": since}, "backup started; GET /admin/backup tells how far it is", 202)


def _names(parts: Context) -> list[str]:
    return [row["node"] for row in parts.network.describe()]


@blueprint.get("/health")
def health() -> Response:
    """200 when a PUT would be stored, else 503 with the reason. With `?live=1` always 200."""
    parts = context()
    reason = parts.objection()
    with parts.index.read() as tables:
        doubts = tables.doubts()
    data = {
        "live": True,
        "ready": not reason,
        "broker": parts.link.ready,
        "controller": parts.controller.connected,
        "nodes": sum(row["synch"] for row in parts.network.describe()),
        "restoring": parts.network.awaited(),
        "warnings": overview.warnings(parts.settings, _names(parts)) + parts.certificate_warnings() + doubts,
    }
    READY.read(request.args)
    live = LIVE.read(request.args)
    if reason and not live:
        return ko(503, f"not ready: {reason}", data, [("Retry-After", "1")])
    return ok(data, f"alive, and not ready: {reason}" if reason else "ok")


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """The OpenAPI document of this API."""
    config = context().settings
    made = document.at(current_app.extensions[API], config.url(config.server), tokens=bool(config.security.tokens))
    response = Response(json.dumps(made), mimetype="application/json", headers=[NO_FRAMES])
    response.cache_control.max_age = _API_SECS
    response.add_etag()
    response.make_conditional(request)
    return response


@blueprint.post("/internal/restore")
def restore() -> Response:
    """Apply the log of one node (`{"node": "…"}`) or of all (`{}`) to the index from its beginning."""
    parts = context()
    node = RESTORE.read(request.get_data()).get("node") or None
    if node and parts.network.url(node) is None:
        raise NotFound(f"no node is called {node!r}; GET /admin/network lists them")
    silent = [row["node"] for row in parts.network.describe() if not row["synch"] and node in (None, row["node"])]
    if silent:
        raise Conflict(f"not heard from lately: {', '.join(silent)}; start them first, or name the others one by one")
    parts.controller.call(Restore(node)).result(CALL_SECS)
    return ok({"node": node}, "restore started; GET /internal/restore tells how far it is", 202)


@blueprint.get("/internal/restore")
def restoring() -> Response:
    """Per node, how far its log is applied."""
    parts = context()
    rows = []
    awaited = parts.network.awaited()
    for row in parts.network.describe():
        with parts.index.read() as tables:
            cursor = tables.cursor(row["node"]) or Cursor()
        rows.append(
            {
                "node": row["node"],
                "synch": row["synch"],
                "url": row["url"],
                "applied": cursor.seq,
                "seq": row["seq"],
                "generation": cursor.generation,
                "restoring": cursor.prune or row["node"] in awaited,
            }
        )
    return ok({"nodes": rows, "keys": parts.index.stat()["entries"]})
