"""`GET /metrics`: figures for Prometheus, and `GET /metrics/{node_id}`: those of a node, for who has a token."""

from __future__ import annotations

from flask import Blueprint, Response, current_app

from broker import tls
from broker.http import internal_addresses
from broker.http.responses import NO_FRAMES
from broker.metrics import exposition
from broker.refusals import NotFound, Unavailable
from master.cluster.queue_depths import Depths
from master.web.flask_routes.context import Context, context, from_response
from master.web.metrics.report import Sources, report

blueprint = Blueprint("metrics", __name__)

NODE_SECS = 5.0
OLD_SECS = 60.0  # depths of queues that are older are waited for
_DEPTHS = "pulzar metrics depths"


@blueprint.get("/metrics")
def metrics() -> Response:
    """The figures of the master."""
    parts = context()
    depths: Depths = current_app.extensions.setdefault(_DEPTHS, Depths(parts.link, OLD_SECS))
    sources = Sources(parts.settings, parts.index, parts.ledger, parts.network, depths)
    return from_response(exposition.response(report(sources, parts.certificate_ends(), ready=not parts.objection())))


@blueprint.get("/metrics/<node_id>")
def of_node(node_id: str) -> Response:
    """The figures of a node, as it tells them."""
    parts = context()
    if parts.network.url(node_id) is None:
        raise NotFound(f"no node is called {node_id!r}; GET /admin/network lists them")
    if not parts.network.alive(node_id):
        raise Unavailable(f"node {node_id} was not heard from lately; start it first")
    headers = {"Content-Type": exposition.CONTENT_TYPE, "Cache-Control": "no-store"}
    return Response(_ask(parts, node_id), 200, [*headers.items(), NO_FRAMES])


def _ask(parts: Context, node: str) -> bytes:
    """The body of the node's answer. Raises `Unavailable`."""
    url = parts.network.url(node) or ""
    target = internal_addresses.make(parts.settings.secret(), internal_addresses.METRICS, {}, node)
    try:
        status, body = tls.get(url, target, NODE_SECS, tls.trust(parts.settings.security.ca))
    except OSError as error:
        raise Unavailable(f"node {node} at {url} does not answer as it should: {error!r}") from error
    if status != 200:
        raise Unavailable(f"node {node} answers {status}: {body[:200].decode(errors='replace')}")
    return body
