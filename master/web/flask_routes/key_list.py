"""The key route that is not hot: listing."""

from __future__ import annotations

from flask import Blueprint, Response, request

from broker import keys
from broker.clock import now_ms
from broker.http import content_types, values
from broker.refusals import BadRequest
from master.index.index import Entry
from master.web.flask_routes.context import context, ok
from master.web.keys import parameters

blueprint = Blueprint("keys", __name__)

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000


@blueprint.get("/keys")
def listing() -> Response:
    """A page of entries in key order. With a delimiter, deeper keys are folded into common prefixes."""
    parts = context()
    arguments = request.args
    prefix, after = (keys.beginning(arguments.get(name, "")) for name in ("prefix", "after"))
    delimiter = arguments.get("delimiter", "")
    for name, text in (("prefix", prefix), ("after", after), ("delimiter", delimiter)):
        if not text.isascii() or len(text) > keys.MAX_BYTES:
            raise BadRequest(f"{name} is no ASCII text of up to {keys.MAX_BYTES} characters")
    limit = parameters.integer("limit", arguments.get("limit"), DEFAULT_LIMIT, MAX_LIMIT)
    rows: list[dict[str, object]] = []
    folders: list[str] = []
    now = now_ms()
    more = False
    for key, entry in parts.index.pages(prefix, after, delimiter):
        if entry is not None and not entry.live(now):
            continue
        if len(rows) + len(folders) == limit:
            more = True
            break
        if entry is None:
            folders.append(key)
        else:
            rows.append(describe(key, entry))
        last = key
    return ok({"keys": rows, "prefixes": folders, "next": last if more else None})


def describe(key: str, entry: Entry) -> dict[str, object]:
    """An entry as the API shows it; times are seconds since the epoch."""
    content_type, encoding = content_types.type_of(key, entry.content_type)
    return {
        "key": key,
        "size": entry.size,
        "etag": values.etag(entry.digest),
        "nodes": [entry.node],
        "created": entry.created / 1000,
        "expires": entry.expires / 1000 if entry.expires else None,
        "content_type": content_type,
        "content_encoding": encoding or None,
    }
