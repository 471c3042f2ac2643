"""Whole responses: the envelope, and the headers that every response has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from broker.clock import DAY_SECS

Header = tuple[str, str]
ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
_PREFLIGHT_SECS = str(DAY_SECS)
_ALLOWED_HEADERS = (
    "Content-Type, Content-Encoding, Content-MD5, X-Checksum-Sha256, Range, "
    "If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range, *"
)
_EXPOSED_HEADERS = "ETag, Content-Encoding, Content-Range, Accept-Ranges, Last-Modified, Location, Retry-After"
_NO_SNIFFING: Header = ("X-Content-Type-Options", "nosniff")


def envelope(status: int, data: object, message: str) -> bytes:
    """The body of every answer that is not a value. Who is sent elsewhere is told "ko": nothing has been done yet."""
    return json.dumps({"data": data, "msg": message, "status": "ok" if status < 300 else "ko"}).encode("ascii") + b"\n"


class Response(NamedTuple):
    """A whole answer to a request."""

    status: int
    headers: list[Header]
    body: bytes = b""

    def bare(self) -> Response:
        """The same answer without its body."""
        kept = [header for header in self.headers if header[0] not in ("Content-Length", "Content-Type")]
        return Response(self.status, [*kept, ("Content-Length", "0")])


def make(status: int, data: object, message: str, headers: Iterable[Header], cors: str) -> Response:
    """An answer with the envelope, and with the headers of every answer."""
    return make_plain(status, data, message, [*headers, *_cors(cors)])


def make_plain(status: int, data: object, message: str, headers: Iterable[Header]) -> Response:
    """An answer with the envelope."""
    body = envelope(status, data, message)
    return Response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers], body)


def redirect(location: str, cors: Iterable[Header], *, head: bool = False) -> Response:
    """The answer to a read that sends its client to where the value is."""
    body = f"the value is at {location}\n".encode("ascii")
    own = [("Location", location), ("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    return Response(307, [*own, *cors], b"" if head else body)


def options(methods: Iterable[str], cors: str) -> Response:
    """The answer to OPTIONS, and to the question a browser asks before a request from another origin."""
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))
    headers = [("Allow", allowed), *_cors(cors)]
    if cors:
        headers += [
            ("Access-Control-Allow-Methods", allowed),
            ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
            ("Access-Control-Max-Age", _PREFLIGHT_SECS),
        ]
    return Response(204, headers)


@lru_cache(maxsize=16)
def _cors(origin: str) -> tuple[Header, ...]:
    if not origin:
        return (_NO_SNIFFING,)
    allowed = ("Access-Control-Allow-Origin", origin)
    exposed = ("Access-Control-Expose-Headers", _EXPOSED_HEADERS)
    return _NO_SNIFFING, allowed, exposed


def cors_headers(origin: str) -> list[Header]:
    """The headers of every answer: it is what its Content-Type says, and pages from `origin` ("": none) may read it."""
    return list(_cors(origin))


CLOSE: Header = ("Connection", "close")
