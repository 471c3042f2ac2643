"""Signed addresses at a node: who comes too late is sent back, and which pages may read a response."""

from __future__ import annotations

from broker.errors import BadSignature, Expired, InvalidKey
from broker.http import request_fields, signing
from broker.http.environ import Environ

_METHODS = {"/get_key/": "GET", "/add_key/": "PUT"}
_NEVER_LATE = 0.0


def way_back(secret: bytes, key: str, query: str, now: float, open_reads: bool) -> str | None:
    """Where a read at a node is sent instead; None when the node may answer it itself.

    A read that comes too late goes to the master: players and downloads go on reading at the address that they were
    once redirected to. Raises `BadSignature` when this cluster's master did not make the address for this use.
    """
    if open_reads and "signature=" not in query:
        return None
    try:
        signing.verify(secret, "GET", key, query, now)
    except Expired as late:
        if open_reads:
            return None
        master = late.parameters.get(signing.MASTER)
        if not master:
            raise
        return f"http://{master}/get_key/{request_fields.quote_key(key)}"
    return None


def allowed_origin(secret: bytes, environ: Environ, configured: str) -> str:
    """The Access-Control-Allow-Origin of a node's response: `configured`, or any for clients that the master sent here.

    A browser that follows a redirect to another host says `Origin: null`. The master has looked at the true origin. An
    authentic address, too old or not, shows that the client came from there.
    """
    path = environ["PATH_INFO"]
    query = environ["QUERY_STRING"]
    prefix = path[: path.find("/", 1) + 1]
    if configured in ("", "*") or "signature=" not in query or prefix not in _METHODS:
        return configured
    try:
        signing.verify(secret, _METHODS[prefix], request_fields.key_of(environ, prefix), query, _NEVER_LATE)
    except (BadSignature, InvalidKey):
        return configured
    return "*"
