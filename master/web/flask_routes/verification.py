"""`GET /internal/verify`: every value of a node read, and node and index compared both ways, in pages of keys.

What differs is looked at again a moment later: only what both looks find is a fault. So values that clients write or
delete meanwhile are none. With `files=1` the LMDB files of the node, or of the master, are audited instead.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from flask import Blueprint, Response, request

from broker import keys, lmdb_files, tls
from broker.contract.kinds import Flag, Integer, Text
from broker.contract.parameters import Parameter
from broker.http import internal_addresses
from broker.integers import MAX
from broker.messages.verification import NodeValue
from broker.refusals import BadRequest, NotFound, Unavailable
from master.index.projection import cursor_of
from master.web.flask_routes.comparison import Fault, IndexSide, compare
from master.web.flask_routes.context import Context, context, ok
from master.web.keys.parameters import PREFIX

blueprint = Blueprint("verification", __name__)

DEFAULT_LIMIT = 1_000
MAX_LIMIT = 5_000
MOMENT_SECS = 1.0  # between two looks
_CATCH_UP_SECS = 10.0  # longest time until the index has what the node has
_POLL_SECS = 0.05
_SECOND_LIMIT = 10_000  # keys, some of which may be new
_LOOKED_AT = 50_000  # entries of the index for a page: those of other nodes count, too
_MOST_DISCARDS = 100_000
_NODE_SECS = 60.0
_AUDIT_SECS = 3600.0

NODE = Parameter("node", Text(), "Its name. With files=1 it may be left out: the master's own files.", "")
AFTER = Parameter("after", PREFIX, "Go on behind this key: next of the page before.", "")
ROWS = Parameter("limit", Integer(MAX_LIMIT), "Most keys of the page.", DEFAULT_LIMIT)
READ = Parameter("read", Flag(), "0: compare node and index only, and read no value.", default=True)
FILES = Parameter("files", Flag(), "1: audit the LMDB files instead.", default=False)


class _Range(NamedTuple):
    """A range of keys, and what a node says of it."""

    after: str
    upto: str | None  # the last key that was looked at; None: there are no more
    seq: int  # of the node's newest record
    values: dict[str, NodeValue]
    within: dict[str, object] | None  # how far a large value was read that is not in `values`


@blueprint.get(internal_addresses.VERIFY)
def verify() -> Response:
    """A page of the comparison of one node and the index."""
    parts = context()
    given = request.args
    node, after = NODE.read(given), AFTER.read(given)
    limit, read = ROWS.read(given), READ.read(given)
    if FILES.read(given):
        return ok({"files": _files(parts, node)})
    _require_complete(parts, node)
    seen = _look(parts, node, after, _bound(parts, node, after, limit), limit, read=read)
    faults = compare(_index_side(parts, node, seen), seen.values)
    if faults:
        seen, faults = _look_again(parts, node, seen, faults)
    return ok(
        {
            "node": node,
            "keys": len(seen.values),
            "bytes": sum(value.size for value in seen.values.values()) if read else 0,
            "faults": [fault._asdict() | {"version": str(fault.version)} for fault in faults],
            "within": seen.within,
            "next": seen.upto,
            "complete": seen.upto is None,
        }
    )


def _files(parts: Context, node: str) -> list[dict[str, object]]:
    """The LMDB files of a node, or of the master (""), each with what is wrong with it."""
    if not node:
        places = Path(parts.settings.server.dir)
        return [{"file": name, "faults": lmdb_files.faults(places / name)} for name in ("index", "ledger")]
    _require_heard(parts, node)
    answer: list[dict[str, object]] = _ask(parts, node, {"files": "1"}, _AUDIT_SECS)["files"]
    return answer


def _require_heard(parts: Context, node: str) -> None:
    if not node:
        raise BadRequest("node= is missing: give the name of a node; GET /admin/network lists them")
    if parts.network.url(node) is None:
        raise NotFound(f"no node is called {node!r}; GET /admin/network lists them")
    if not parts.network.alive(node):
        raise Unavailable(f"node {node} was not heard from lately; start it first")


def _require_complete(parts: Context, node: str) -> None:
    _require_heard(parts, node)
    with parts.index.read() as tables:
        pruning = cursor_of(tables, node).prune
    if pruning or node in parts.network.awaited():
        raise Unavailable(
            f"the log of node {node} is being applied; GET /internal/restore tells how far it is; verify it then"
        )


def _bound(parts: Context, node: str, after: str, limit: int) -> str | None:
    """The key up to which a page goes, so that the index has no more than `limit` keys of the node in it."""
    count, found = 0, None
    with parts.index.read() as tables:
        for number, (key, entry) in enumerate(tables.entries(keys.encode(after)), 1):
            count += entry.on(node)
            if count == limit or number == _LOOKED_AT:
                found = keys.decode(key)
                break
    return found


def _look(parts: Context, node: str, after: str, upto: str | None, limit: int, *, read: bool) -> _Range:
    """What the node has behind the key `after`; it may end before `upto` (None: no bound)."""
    query = {"after": after, "upto": upto or "", "limit": str(limit), "read": str(int(read))}
    answer = _ask(parts, node, query, _NODE_SECS)
    values = {row[0]: NodeValue(*row) for row in answer["keys"]}
    reached = (answer["next"] or after) if answer["more"] else upto
    return _Range(after, reached, answer["seq"], values, answer["within"])


def _look_again(parts: Context, node: str, first: _Range, faults: list[Fault]) -> tuple[_Range, list[Fault]]:
    """The faults that are still there a moment later, in the part of the range that was looked at twice."""
    time.sleep(MOMENT_SECS)
    second = _look(parts, node, first.after, first.upto, _SECOND_LIMIT, read=False)
    deadline = time.monotonic() + _CATCH_UP_SECS
    while _applied(parts, node) < second.seq:
        if time.monotonic() > deadline:
            raise Unavailable(f"the index is behind the log of node {node}; verify it again later")
        time.sleep(_POLL_SECS)
    now = {
        key: first.values[key] if key in first.values and first.values[key].version == value.version else value
        for key, value in second.values.items()
    }
    left = {fault[:3] for fault in compare(_index_side(parts, node, second), now)}
    seen = {key: value for key, value in first.values.items() if second.upto is None or key <= second.upto}
    within = first.within if second.upto == first.upto else None
    return first._replace(upto=second.upto, values=seen, within=within), [f for f in faults if f[:3] in left]


def _applied(parts: Context, node: str) -> int:
    with parts.index.read() as tables:
        return cursor_of(tables, node).complete_to


def _index_side(parts: Context, node: str, seen: _Range) -> IndexSide:
    """What the index says of the keys in a range."""
    with parts.index.read() as tables:
        side = IndexSide(node, cursor_of(tables, node).complete_to)
        if seen.upto == seen.after:
            return side
        for encoded, entry in tables.entries(keys.encode(seen.after)):
            key = keys.decode(encoded)
            if seen.upto is not None and key > seen.upto:
                break
            if entry.on(node):
                side.entries[key] = entry
            elif key in seen.values:
                side.elsewhere[key] = entry
        unknown = seen.values.keys() - side.entries.keys()
        for key in unknown:
            deletion = tables.deletion(keys.encode(key))
            if deletion is not None:
                side.deletions[key] = deletion
        if unknown:
            for _, discard in tables.due_discards(MAX, _MOST_DISCARDS):
                key = keys.decode(discard.key)
                if discard.node == node and key in unknown:
                    side.discards[key] = max(side.discards.get(key, 0), discard.version)
    return side


def _ask(parts: Context, node: str, query: dict[str, str], secs: float) -> Any:
    """The `data` of the node's answer to `GET /internal/verify`. Raises `Unavailable`."""
    url = parts.network.url(node) or ""
    target = internal_addresses.make(parts.settings.secret(), internal_addresses.VERIFY, query, node)
    try:
        status, body = tls.get(url, target, secs, tls.trust(parts.settings.security.ca))
        answer = json.loads(body)
        if status != 200:
            raise Unavailable(f"node {node} answers {status}: {answer['msg']}")
        return answer["data"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Unavailable(f"node {node} at {url} does not answer as it should: {error!r}") from error
