"""`POST /sign`: a link to one key, or to an archive, for somebody without a token."""

from __future__ import annotations

import json
import math
import time
from typing import NamedTuple

from broker import integers, keys
from broker.http import request_fields, responses, signing
from broker.http.responses import Response
from broker.refusals import BadRequest, Forbidden
from broker.server.request import Request
from master.security import signed_requests
from master.security.audit import ABOUT
from master.security.gate import NAME, Gate
from master.security.rights import Right
from master.web.keys import archives, parameters

BODY_BYTES = 16_384
MAX_SECS = 366 * 86_400
_DEFAULT = "1h"
_FIELDS = ("key", "method", "for", "ttl", "overwrite", signed_requests.MAX_BYTES)
_OF_ARCHIVE = ("prefix", "format", "for")
_PATHS = {
    "GET": signed_requests.READ,
    "PUT": signed_requests.WRITE,
    signed_requests.OF_ARCHIVE: signed_requests.ARCHIVE,
}
_EXAMPLE = '{"key": "reports/may.pdf", "for": "7d"}'


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
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is no JSON: {error}; give an object like {_EXAMPLE}") from error
    if not isinstance(given, dict):
        raise BadRequest(f"the body is no object; give one like {_EXAMPLE}")
    if "prefix" in given:
        return _archive(given)
    if unknown := sorted(set(given) - set(_FIELDS)):
        raise BadRequest(f"{unknown[0][:40]!r} is not known; give {', '.join(_FIELDS)}")
    if not isinstance(given.get("key"), str):
        raise BadRequest(f"key is needed, a text; give an object like {_EXAMPLE}")
    key, method = keys.check(given["key"]), given.get("method", "GET")
    if method not in ("GET", "PUT"):
        raise BadRequest(f"method = {str(method)[:40]!r} is neither GET nor PUT")
    if method == "GET" and (wrong := sorted(set(given) - {"key", "method", "for"})):
        raise BadRequest(f"{wrong[0]} is for PUT alone")
    if method == "PUT" and keys.is_system_name(key):
        raise Forbidden(f"{key[:100]!r} is a name for the log or output of a job, which only its node writes")
    return _Order(key, method, _secs(given), _permitted(given))


def _archive(given: dict[str, object]) -> _Order:
    """A link to all values below a prefix. Raises `BadRequest`."""
    if unknown := sorted(set(given) - set(_OF_ARCHIVE)):
        raise BadRequest(f"{unknown[0][:40]!r} does not go with prefix; give {', '.join(_OF_ARCHIVE)}")
    if not isinstance(given["prefix"], str):
        raise BadRequest('prefix is no text; give one like {"prefix": "reports/", "for": "7d"}')
    form = given.get("format", "tar")
    if form not in archives.FORMATS:
        raise BadRequest(f"format = {str(form)[:40]!r} is no format of archives; give {' or '.join(archives.FORMATS)}")
    prefix = parameters.prefix(given["prefix"])
    return _Order(prefix, signed_requests.OF_ARCHIVE, _secs(given), {"format": str(form)})


def _secs(given: dict[str, object]) -> int:
    """How long the link is good. Raises `BadRequest`."""
    secs = _lifetime("for", given.get("for", _DEFAULT)) // 1000
    if secs > MAX_SECS:
        raise BadRequest(f"for = {given['for']!r}: a link is good for up to 366d")
    return secs


def _permitted(given: dict[str, object]) -> dict[str, str]:
    """What an upload may do, as parameters of `PUT /add_key`. Raises `BadRequest`."""
    fields = {}
    if "ttl" in given:
        _lifetime("ttl", given["ttl"])
        fields["ttl"] = str(given["ttl"])
    if type(overwrite := given.get("overwrite", False)) is not bool:
        raise BadRequest(f"overwrite = {str(overwrite)[:40]!r} is neither true nor false")
    if overwrite:
        fields["overwrite"] = "1"
    if (most := given.get(signed_requests.MAX_BYTES)) is not None:
        try:
            fields[signed_requests.MAX_BYTES] = str(integers.bounded(most, 0, integers.MAX))
        except ValueError as error:
            raise BadRequest(f"{signed_requests.MAX_BYTES}: {error}") from error
    return fields


def _lifetime(name: str, given: object) -> int:
    """A time like 15m in ms; raises `BadRequest`."""
    if not isinstance(given, str):
        raise BadRequest(f"{name} = {str(given)[:40]!r} is no text like 90s, 15m, 12h or 7d")
    return parameters.lifetime({"ttl": given})
