"""`POST /sign`: a link to one key, or to an archive, for somebody without a token."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import NamedTuple

from broker import keys
from broker.contract.bodies import Body, Boolean, Fields, OneOf, OrNull, Record
from broker.contract.kinds import Choice, Integer, Key, Span
from broker.http import request_fields, responses, signing
from broker.http.responses import Response
from broker.integers import short
from broker.refusals import BadRequest, Forbidden
from broker.server.request import Request
from master.security import signed_requests
from master.security.audit import ABOUT
from master.security.gate import NAME, Gate
from master.security.rights import Right
from master.web.keys import archives, parameters

BODY_BYTES = 16_384
MAX_SECS = 366 * 86_400
_DEFAULT_MS = 3_600_000
_EXAMPLE = '{"key": "reports/may.pdf", "for": "7d"}'
_KEY = (Key(), "The key that the link is for.")
_FOR = (Span(MAX_SECS * 1_000), "How long it is good, like 90s, 15m, 12h or 7d; up to 366d, and 1h unless given.")
_READ = Record({"key": _KEY, "method": (Choice("GET"), "To read the value."), "for": _FOR}, ["key"])
_WRITE = Record(
    {
        "key": _KEY,
        "method": (Choice("PUT"), "To store a value."),
        "for": _FOR,
        "ttl": (Span(parameters.MAX_LIFETIME_MS), "The lifetime of the value."),
        "overwrite": (Boolean(), "A value that is there may be replaced."),
        signed_requests.MAX_BYTES: (OrNull(Integer(least=0)), "The largest body."),
    },
    ["key", "method"],
)
_ARCHIVE = Record(
    {
        "prefix": (parameters.PREFIX, "The link is to /archive/{prefix}."),
        "format": (Choice(*archives.FORMATS, what="format of archives"), "Of the archive; tar unless given."),
        "for": _FOR,
    },
    ["prefix"],
)


def _kind(given: Mapping[str, object]) -> Record:
    """What a link is for. Raises `ValueError`."""
    if "prefix" in given:
        return _ARCHIVE
    method = given.get("method", "GET")
    if method == "PUT":
        return _WRITE
    if method != "GET":
        raise ValueError(f"method = {short(method)} is neither GET nor PUT")
    if wrong := [name for name in given if name in _WRITE.names - _READ.names]:
        raise ValueError(f"{wrong[0]} is for PUT alone")
    return _READ


BODY = Body(OneOf((_READ, _WRITE, _ARCHIVE), _kind), _EXAMPLE)
_PATHS = {
    "GET": signed_requests.READ,
    "PUT": signed_requests.WRITE,
    signed_requests.OF_ARCHIVE: signed_requests.ARCHIVE,
}


class _Order(NamedTuple):
    """What a link is asked for."""

    key: str  # of an archive: the prefix
    method: str  # GET, PUT or `OF_ARCHIVE`
    secs: int  # how long it is good
    fields: dict[str, str]  # what it permits besides


class Links:
    """The handler of `POST /sign`."""

    def __init__(self, gate: Gate, secret: bytes, master: str) -> None:
        """`master` is its URL, without a path."""
        self._gate = gate
        self._secret = secret
        self._master = master

    async def sign(self, request: Request) -> Response:
        """Make a link that is no wider than the token of the request, and no longer. Raises `Refused`."""
        length = request_fields.content_length(request.environ)
        if length is None or length > BODY_BYTES:
            raise BadRequest(f"give a body with a Content-Length of up to {BODY_BYTES} bytes, like {_EXAMPLE}")
        order = _order(await request.read(length))
        request.environ[ABOUT] = order.key
        reads = order.method != "PUT"
        ends = self._gate.require(request.environ, Right("read" if reads else "write", order.key))
        until = min(int(time.time()) + order.secs, ends - 1)
        fields = dict(order.fields)
        if name := request.environ.get(NAME):
            fields[signing.BY] = name
        end = int(until) if math.isfinite(until) else 0
        query = signed_requests.sign(self._secret, order.method, order.key, fields, end)
        url = f"{self._master}{_PATHS[order.method]}{request_fields.quote_key(order.key)}?{query}"
        return responses.make_plain(
            200, {"url": url, "method": "GET" if reads else "PUT", "until": end}, "link made", []
        )


def _order(body: bytes) -> _Order:
    """Raises `BadRequest`, `InvalidKey`, or `Forbidden` for a name that only nodes write."""
    given = BODY.read(body)
    if "prefix" in given:
        form = str(given.get("format", archives.FORMAT.default))
        return _Order(given["prefix"], signed_requests.OF_ARCHIVE, _secs(given), {"format": form})
    key, method = given["key"], given.get("method", "GET")
    if method == "PUT" and keys.is_system_name(key):
        raise Forbidden(f"{key[:100]!r} is a name for the log or output of a job, which only its node writes")
    return _Order(key, method, _secs(given), _permitted(given))


def _secs(given: Fields) -> int:
    """How long the link is good."""
    return int(given.get("for", _DEFAULT_MS)) // 1000


def _permitted(given: Fields) -> dict[str, str]:
    """What an upload may do, as parameters of `PUT /add_key`."""
    fields = {}
    if "ttl" in given:
        fields["ttl"] = f"{given['ttl'] // 1000}s"
    if given.get("overwrite"):
        fields["overwrite"] = "1"
    if (most := given.get(signed_requests.MAX_BYTES)) is not None:
        fields[signed_requests.MAX_BYTES] = str(most)
    return fields
