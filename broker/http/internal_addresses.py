"""Signed addresses of the routes `/internal/…`, which only processes of this cluster may use."""

from __future__ import annotations

import time
from collections.abc import Mapping

from broker.http import signing
from broker.http.environ import Environ
from broker.http.signing import Secrets

GOOD_SECS = 60  # an address is good for so long: enough for clocks that differ a little

DELETED = "/internal/deleted"  # of a node: the versions that it holds
METRICS = "/metrics"  # of a node: its figures
STAGED = "/internal/staged"  # of a node: an upload that another node sends on
VERIFY = "/internal/verify"  # of a node: its values, read and compared with what was written


def make(secret: bytes, path: str, parameters: Mapping[str, str], node: str, *, method: str = "GET") -> str:
    """The path with a signed query, for a request at `node` from now on."""
    fields = {**parameters, signing.NODE: node}
    query = signing.sign(secret, _word(method), path.removeprefix("/"), fields, int(time.time()) + GOOD_SECS)
    return f"{path}?{query}"


def _word(method: str) -> str:
    """What is signed as the method: a redirect to the value of a key `internal/…` must be no such address."""
    return f"internal {method}"


def check(secrets: Secrets, environ: Environ, node: str) -> dict[str, str]:
    """The parameters of a request to such an address.

    Raises `BadSignature` when nobody of this cluster made it, or for another node than `node`.
    """
    method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
    parameters = signing.verify(secrets, _word(method), path.removeprefix("/"), query, time.time(), node=node)
    del parameters[signing.NODE]
    return parameters
