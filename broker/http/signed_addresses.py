"""Signed addresses at a node: who comes too late is sent back, and whether the master made the address."""

from __future__ import annotations

from collections.abc import Mapping

from broker.errors import BadSignature, Expired, InvalidKey
from broker.http import request_fields, signing
from broker.http.environ import Environ
from broker.http.signing import Secrets

_METHODS = {"/get_key/": "GET", "/add_key/": "PUT"}
_NEVER_LATE = 0.0


def way_back(
    secrets: Secrets, key: str, query: str, node: str, *, now: float, open_reads: bool, scheme: str = "http"
) -> str | None:
    """Where a read at a node is sent instead; None when the node may answer it itself.

    A read that comes too late goes to the master: players and downloads go on reading at the address that they were
    once redirected to. `scheme` says how the master is reached. Raises `BadSignature` when this cluster's master did
    not make the address for this use, or for another node than `node`.
    """
    if open_reads and "signature=" not in query:
        return None
    try:
        signing.verify(secrets, "GET", key, query, now, node=node)
    except Expired as late:
        if open_reads:
            return None
        master = late.parameters.get(signing.MASTER)
        if not master:
            raise
        back = late.parameters.get(signing.BACK)
        return f"{scheme}://{master}/get_key/{request_fields.quote_key(key)}" + (f"?{back}" if back else "")
    return None


def authentic(secrets: Secrets, environ: Environ, node: str) -> Mapping[str, str] | None:
    """What an address at `node` permits that the master made for it, too old or not; None when it did not.

    Its client then came from the master, which has looked at the true origin of a page. A browser that follows a
    redirect to another host says `Origin: null`.
    """
    path = environ["PATH_INFO"]
    query = environ["QUERY_STRING"]
    prefix = path[: path.find("/", 1) + 1]
    if "signature=" not in query or prefix not in _METHODS:
        return None
    try:
        key = request_fields.key_of(environ, prefix)
        return signing.verify(secrets, _METHODS[prefix], key, query, _NEVER_LATE, node=node)
    except (BadSignature, InvalidKey):  # the request itself is refused for it, or needs no signature
        return None
