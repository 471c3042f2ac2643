"""Whole responses: the envelope, the headers of every response, and what an error becomes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from broker import logs
from broker.clock import DAY_SECS
from broker.refusals import Refused, ServerError, as_refusal

log = logs.get(__name__)

Header = tuple[str, str]
ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
CLOSE: Header = ("Connection", "close")
_PREFLIGHT_SECS = str(DAY_SECS)
_ALLOWED_HEADERS = (
    "Authorization, Content-Type, Content-Encoding, Content-MD5, X-Checksum-Sha256, Range, "
    "If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range, *"
)
# Each response that is not a value: no other page may have it in a frame.
NO_FRAMES: Header = ("X-Frame-Options", "DENY")
NO_SNIFFING: Header = ("X-Content-Type-Options", "nosniff")


def envelope(status: int, data: object, message: str, *, compact: bool = False) -> bytes:
    """The body of every response that is not a value. A redirect has "ko": nothing is done yet.

    `compact` leaves out blanks between tokens: lists are long.
    """
    content = {"data": data, "msg": message, "status": "ok" if status < 300 else "ko"}
    return json.dumps(content, separators=(",", ":") if compact else None).encode("ascii") + b"\n"


class Response(NamedTuple):
    """A whole response to a request."""

    status: int
    headers: list[Header]
    body: bytes = b""

    def bare(self) -> Response:
        """The same response without its body."""
        left = [header for header in self.headers if header[0] not in ("Content-Length", "Content-Type")]
        return Response(self.status, [*left, ("Content-Length", "0")])


def make_plain(
    status: int, data: object, message: str, headers: Iterable[Header], *, compact: bool = False
) -> Response:
    """A response with the envelope."""
    body = envelope(status, data, message, compact=compact)
    own = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), NO_FRAMES]
    return Response(status, [*own, *headers], body)


def from_error(error: Exception, environ: Mapping[str, object], process: str) -> Response:
    """The response to a request that failed. Logs an error that nobody has foreseen.

    `environ` is the WSGI environment of the request, `process` the word for this process in the message.
    """
    refused: Refused | None = as_refusal(error)
    method = environ["REQUEST_METHOD"]
    if refused is None:
        log.exception("request failed", method=method, path=environ["PATH_INFO"])
        refused = ServerError(f"something went wrong in the {process}; its log says what")
    response = make_plain(refused.status, None, str(refused), refused.headers)
    return response._replace(body=b"") if method == "HEAD" else response


def redirect(location: str) -> Response:
    """The response to a read that sends its client to where the value is."""
    body = f"the value is at {location}\n".encode("ascii")
    headers = [("Location", location), ("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    return Response(307, headers, body)


def options(methods: Iterable[str], page: bool) -> Response:
    """The response to OPTIONS; to the preflight request of a browser for a `page` that may send requests."""
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))
    headers = [("Allow", allowed)]
    if page:
        headers += [
            ("Access-Control-Allow-Methods", allowed),
            ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
            ("Access-Control-Max-Age", _PREFLIGHT_SECS),
        ]
    return Response(204, headers)
