"""What a signed address of a node says, and so lets its holder do. No header of a request widens it.

url        the master's host:port: where uploads are committed, and where to ask for another address
life       lifetime of the value, in ms
overwrite  the upload may replace a value
if_match   it may replace the one that this If-Match holds for
size       Content-Length of the upload; another one is refused
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.errors import BadSignature, Expired, InvalidKey
from broker.http import request_fields, signing
from broker.http.environ import Environ
from broker.refusals import BadRequest

_METHODS = {"/get_key/": "GET", "/add_key/": "PUT"}
_NEVER_LATE = 0.0


def upload(master: str, lifetime_ms: int, overwrite: bool, length: int | None, if_match: str | None) -> dict[str, str]:
    """The parameters of an address to PUT a value at; `length` is None when any is fine."""
    fields = {"url": master}
    if lifetime_ms:
        fields["life"] = str(lifetime_ms)
    if overwrite:
        fields["overwrite"] = "1"
    if if_match is not None:
        fields["if_match"] = if_match
    if length is not None:
        fields["size"] = str(length)
    return fields


def replaces(signed: Mapping[str, str]) -> bool:
    """Whether an upload with these parameters may replace a value."""
    return "overwrite" in signed or "if_match" in signed


def check_length(signed: Mapping[str, str], length: int | None) -> None:
    """Raises `BadRequest` when a body of `length` bytes (None: not known yet) is not the one the address was given for."""
    size = signed.get("size")
    if size is not None and length is not None and size != str(length):
        raise BadRequest(
            f"the body has {length} bytes, and this address is for one of {size} bytes; nothing was stored. "
            "Ask the master again, with the body that is to be stored"
        )


def way_back(secret: bytes, key: str, query: str, now: float, open_reads: bool) -> str | None:
    """Where a read at a node is to be sent instead: None when the node may answer it itself, the master when it came too late.

    Whoever follows a redirect once and goes on reading there, as players and downloads do, comes back with an address
    that is too old. Raises `BadSignature` for one that this cluster's master did not make, or did not make so.
    """
    if open_reads and "signature=" not in query:
        return None
    try:
        signing.verify(secret, "GET", key, query, now)
    except Expired as late:
        if open_reads:
            return None
        master = late.parameters.get("url")
        if not master:
            raise
        return f"http://{master}/get_key/{request_fields.quote_key(key)}"
    return None


def allowed_origin(secret: bytes, environ: Environ, configured: str) -> str:
    """The Access-Control-Allow-Origin of a node's answer: `configured`, or any for who was sent here by the master.

    A browser that follows a redirect to another host says `Origin: null`. The master has looked at its true one; that the
    address is authentic, too old or not, shows that it came from there.
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
