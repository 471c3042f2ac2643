"""What master and nodes say over HTTP: values as RFC 9110 wants them served, and the envelope of all other answers.

`plan` decides everything about a GET or HEAD of a value from the request's headers and what is known of the
value; whoever has the bytes then sends them. Nothing here does I/O.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from broker import conditions, dates, keys, media, numbers, ranges
from broker.conditions import Outcome
from broker.errors import InvalidKey
from broker.ranges import Multipart, Span
from broker.refusals import BadRequest

Header = tuple[str, str]

ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
_PREFLIGHT_SECS = "86400"
_ALLOWED_HEADERS = (
    "Content-Type, Content-Encoding, Content-MD5, X-Checksum-Sha256, Range, "
    "If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range, *"
)
_EXPOSED_HEADERS = "ETag, Content-Encoding, Content-Range, Accept-Ranges, Last-Modified, Location, Retry-After"
# What may stand in a path as it is. Not "+": too many programs take it for a space.
_SAFE = "/~!$&'()*,;=:@"

# A key can get another value at any time, so whoever keeps a copy has to ask.
_CACHE_CONTROL: Header = ("Cache-Control", "no-cache")
_ACCEPT_RANGES: Header = ("Accept-Ranges", "bytes")
_NO_SNIFFING: Header = ("X-Content-Type-Options", "nosniff")
# A value that is a page must not act in the name of the master's other pages. Where it is embedded this says nothing.
_SANDBOX: Header = ("Content-Security-Policy", "sandbox; default-src 'none'")
# These can do nothing as documents, and browsers refuse to show them in a sandbox.
_SHOWN_ALONE = re.compile(r"(?:(?:audio|video)/[\w.+-]+|application/pdf)(?:;[^,]*)?", re.ASCII | re.IGNORECASE)


class Kept(Protocol):
    """What index and log say of a value; an entry of the one or the other."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    @property
    def digest(self) -> bytes:
        """Its SHA-256."""

    @property
    def created(self) -> int:
        """When it was stored, in ms since the epoch."""

    @property
    def content_type(self) -> str:
        """What `media.pack` made."""


class Resource(NamedTuple):
    """What is known of a value that is asked for."""

    size: int  # bytes
    digest: bytes  # SHA-256
    created: int  # ms since the epoch
    content_type: str
    encoding: str = ""  # Content-Encoding, "": none

    @property
    def etag(self) -> str:
        """Its strong entity tag."""
        return f'"{self.digest.hex()}"'


def resource(key: str, kept: Kept) -> Resource:
    """A value as its key and what is kept of it tell."""
    content_type, encoding = media.type_of(key, kept.content_type)
    return Resource(kept.size, kept.digest, kept.created, content_type, encoding)


class Plan(NamedTuple):
    """How to answer: status and headers, and either stretches of the value or a body of its own."""

    status: int
    headers: list[Header]
    ranges: Sequence[Span] = ()  # stretches of the value that are sent; none for HEAD, 304, 412, 416
    text: bytes = b""  # the body when it is not from the value
    multipart: Multipart | None = None  # how the stretches travel when they are several

    def pieces(self) -> Iterable[bytes | Span]:
        """The body, in order: bytes as they are, and stretches of the value."""
        if self.multipart is not None:
            return self.multipart.pieces()
        return self.ranges or ([self.text] if self.text else [])

    def body(self, value: bytes | None) -> bytes:
        """The whole body, from a value that is in memory. None will do when `ranges` is empty."""
        if value is None or not self.ranges:
            return self.text
        if self.multipart is None:
            start, stop = self.ranges[0]
            return value if stop - start == len(value) else value[start:stop]
        return b"".join(_filled(self.multipart.pieces(), value))


def _filled(pieces: Iterable[bytes | Span], value: bytes) -> Iterator[bytes]:
    for piece in pieces:
        yield value[piece.start : piece.stop] if isinstance(piece, Span) else piece


def plan(environ: dict[str, Any], resource: Resource) -> Plan:
    """How to answer a GET or HEAD of a value; `environ` is the request's WSGI environment."""
    size, digest, created, content_type, _ = resource
    etag = f'"{digest.hex()}"'
    head = environ["REQUEST_METHOD"] == "HEAD"
    modified = created // 1000
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(size)),
        ("ETag", etag),
        ("Last-Modified", dates.write(modified)),
        _CACHE_CONTROL,
        _ACCEPT_RANGES,
    ]
    if _sandboxed(content_type):
        headers.append(_SANDBOX)
    if "HTTP_RANGE" in environ or conditions.given(environ):
        outcome = conditions.evaluate(environ, etag, modified)
        if outcome is Outcome.NOT_MODIFIED:
            return Plan(304, headers[2:5])
        if outcome is Outcome.FAILED:
            return _refusal(412, f"the condition does not hold: the value has ETag {etag}", headers[2:5], head)
        # RFC 9110 knows ranges of GET only: a HEAD is told of the whole value.
        wanted = None if head else environ.get("HTTP_RANGE")
        if wanted is not None and conditions.wants_range(environ.get("HTTP_IF_RANGE"), etag, modified, time.time()):
            return _partial(wanted, resource, headers)
    return _whole(resource, headers, head)


@lru_cache(maxsize=1024)
def _sandboxed(content_type: str) -> bool:
    return _SHOWN_ALONE.fullmatch(content_type) is None


def _whole(resource: Resource, headers: list[Header], head: bool = False) -> Plan:
    if resource.encoding:
        headers = headers + _encoded(resource)
    return Plan(200, headers, () if head or not resource.size else (Span(0, resource.size),))


def _encoded(resource: Resource) -> list[Header]:
    return [("Content-Encoding", resource.encoding)] if resource.encoding else []


def _partial(wanted: str, resource: Resource, headers: list[Header]) -> Plan:
    size = resource.size
    try:
        spans = ranges.read(wanted, size)
    except ranges.Unsatisfiable as error:
        return _refusal(416, str(error), [*headers[2:], ("Content-Range", f"bytes */{size}")], False)
    if spans is None:
        return _whole(resource, headers)
    if len(spans) == 1:
        start, stop = spans[0]
        headers[1] = ("Content-Length", str(stop - start))
        return Plan(
            206, [*headers, *_encoded(resource), ("Content-Range", ranges.content_range(spans[0], size))], spans
        )
    multipart = Multipart(spans, size, [("Content-Type", resource.content_type), *_encoded(resource)])
    headers[:2] = [("Content-Type", multipart.content_type), ("Content-Length", str(multipart.length))]
    return Plan(206, headers, spans, multipart=multipart)


def _refusal(status: int, message: str, headers: list[Header], head: bool) -> Plan:
    text = envelope(status, None, message)
    own = [("Content-Type", "application/json"), ("Content-Length", str(len(text)))]
    return Plan(status, own + headers, text=b"" if head else text)


def envelope(status: int, data: Any, message: str) -> bytes:
    """The body of every answer that is not a value. Who is sent elsewhere is told "ko": nothing has been done yet."""
    return json.dumps({"data": data, "msg": message, "status": "ok" if status < 300 else "ko"}).encode("ascii") + b"\n"


class Answer(NamedTuple):
    """A whole answer to a request."""

    status: int
    headers: list[Header]
    body: bytes = b""

    def bare(self) -> Answer:
        """The same answer without its body."""
        kept = [header for header in self.headers if header[0] not in ("Content-Length", "Content-Type")]
        return Answer(self.status, [*kept, ("Content-Length", "0")])


def answer(status: int, data: Any, message: str, headers: Iterable[Header], cors: str) -> Answer:
    """An answer with the envelope, and with the headers of every answer."""
    return plain_answer(status, data, message, [*headers, *_cors(cors)])


def plain_answer(status: int, data: Any, message: str, headers: Iterable[Header]) -> Answer:
    """An answer with the envelope."""
    body = envelope(status, data, message)
    return Answer(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers], body)


def elsewhere(location: str, cors: Iterable[Header], *, head: bool = False) -> Answer:
    """The answer to a read that sends its client to where the value is."""
    body = f"the value is at {location}\n".encode("ascii")
    own = [("Location", location), ("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    return Answer(307, [*own, *cors], b"" if head else body)


def options(methods: Iterable[str], cors: str) -> Answer:
    """The answer to OPTIONS, and to the question a browser asks before a request from another origin."""
    allowed = ", ".join(sorted({*methods, "OPTIONS"}))
    headers = [("Allow", allowed), *_cors(cors)]
    if cors:
        headers += [
            ("Access-Control-Allow-Methods", allowed),
            ("Access-Control-Allow-Headers", _ALLOWED_HEADERS),
            ("Access-Control-Max-Age", _PREFLIGHT_SECS),
        ]
    return Answer(204, headers)


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


def content_length(environ: Mapping[str, Any]) -> int | None:
    """The length of a request's body in bytes; None for a chunked one, 0 without a body. Raises `BadRequest`."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    # The server lets only digits through, and every length that is given twice is given the same.
    try:
        return numbers.parse(environ.get("CONTENT_LENGTH") or "0")
    except ValueError as error:
        raise BadRequest(f"Content-Length: {error}") from error


def has_body(environ: Mapping[str, Any]) -> bool:
    """Whether a request has a body, be its length said in a good way or not."""
    return "HTTP_TRANSFER_ENCODING" in environ or environ.get("CONTENT_LENGTH", "0").strip("0") != ""


CLOSE: Header = ("Connection", "close")


def key_of(environ: Mapping[str, Any], prefix: str) -> str:
    """The key in the request's path after `prefix`; raises `InvalidKey` with the reason.

    The server has undone the percent-encoding and gives bytes as latin-1, as WSGI says. A plus is a plus.
    """
    path: str = environ["PATH_INFO"]
    key = path[len(prefix) :]
    try:
        return keys.check(key)
    except InvalidKey:
        if key.isascii():
            raise
    try:
        return keys.check(key.encode("latin-1").decode("utf-8"))  # so that the reason shows what was meant
    except UnicodeError as error:
        raise InvalidKey("the key has bytes that are not ASCII; only printable ASCII can be used") from error


def quote_key(key: str) -> str:
    """The key as it stands in a URL."""
    return quote(key, _SAFE)
