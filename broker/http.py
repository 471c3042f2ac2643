"""What master and nodes say over HTTP: values as RFC 9110 wants them served, and the envelope of all other answers.

`plan` decides everything about a GET or HEAD of a value from the request's headers and what is known of the
value; whoever has the bytes then sends them. Nothing here does I/O.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

from broker import conditions, dates, keys, numbers, ranges
from broker.conditions import Outcome
from broker.errors import InvalidKey
from broker.ranges import Multipart, Span
from broker.refusals import BadRequest

Header = tuple[str, str]

ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT")
DEFAULT_TYPE = "application/octet-stream"
_SHORT_BYTES = 256 * 1024
_PREFLIGHT_SECS = "86400"
_ALLOWED_HEADERS = (
    "Content-Type, Content-MD5, X-Checksum-Sha256, Range, "
    "If-Match, If-None-Match, If-Modified-Since, If-Unmodified-Since, If-Range, *"
)
_EXPOSED_HEADERS = "ETag, Content-Range, Accept-Ranges, Last-Modified, Location, Retry-After"
# What may stand in a path as it is. Not "+": too many programs take it for a space.
_SAFE = "/~!$&'()*,;=:@"

STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
# A key can get another value at any time, so whoever keeps a copy has to ask.
_CACHE_CONTROL: Header = ("Cache-Control", "no-cache")
_ACCEPT_RANGES: Header = ("Accept-Ranges", "bytes")


class Resource(NamedTuple):
    """What is known of a value that is asked for."""

    size: int  # bytes
    digest: bytes  # SHA-256
    created: int  # ms since the epoch
    content_type: str

    @property
    def etag(self) -> str:
        """Its strong entity tag."""
        return f'"{self.digest.hex()}"'


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
    size, digest, created, content_type = resource
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
    if "HTTP_RANGE" in environ or conditions.given(environ):
        outcome = conditions.evaluate(environ, etag, modified)
        if outcome is Outcome.NOT_MODIFIED:
            return Plan(304, headers[2:5])
        if outcome is Outcome.FAILED:
            return _refusal(412, f"the condition does not hold: the value has ETag {etag}", headers[2:5], head)
        # RFC 9110 knows ranges of GET only: a HEAD is told of the whole value.
        wanted = None if head else environ.get("HTTP_RANGE")
        if wanted is not None and conditions.wants_range(environ.get("HTTP_IF_RANGE"), etag, modified):
            return _partial(wanted, resource, headers)
    return Plan(200, headers, () if head or not size else (Span(0, size),))


def _partial(wanted: str, resource: Resource, headers: list[Header]) -> Plan:
    size = resource.size
    try:
        spans = ranges.read(wanted, size)
    except ranges.Unsatisfiable as error:
        return _refusal(416, str(error), [*headers[2:], ("Content-Range", f"bytes */{size}")], False)
    if spans is None:
        return Plan(200, headers, (Span(0, size),) if size else ())
    if len(spans) == 1:
        start, stop = spans[0]
        headers[1] = ("Content-Length", str(stop - start))
        return Plan(206, [*headers, ("Content-Range", ranges.content_range(spans[0], size))], spans)
    multipart = Multipart(spans, size, resource.content_type)
    headers[:2] = [("Content-Type", multipart.content_type), ("Content-Length", str(multipart.length))]
    return Plan(206, headers, spans, multipart=multipart)


def _refusal(status: int, message: str, headers: list[Header], head: bool) -> Plan:
    text = envelope(status, None, message)
    own = [("Content-Type", "application/json"), ("Content-Length", str(len(text)))]
    return Plan(status, own + headers, text=b"" if head else text)


def envelope(status: int, data: Any, message: str) -> bytes:
    """The body of every answer that is not a value."""
    return json.dumps({"data": data, "msg": message, "status": "ok" if status < 400 else "ko"}).encode("ascii") + b"\n"


class Answer(NamedTuple):
    """A whole answer to a request."""

    status: int
    headers: list[Header]
    body: bytes = b""


def answer(status: int, data: Any, message: str, headers: Iterable[Header], cors: str) -> Answer:
    """An answer with the envelope."""
    body = envelope(status, data, message)
    own = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
    return Answer(status, [*own, *headers, *_cors(cors)], body)


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


def give(start_response: Any, answer: Answer) -> list[bytes]:
    """Give an answer as WSGI wants it."""
    start_response(STATUS_LINES[answer.status], answer.headers)
    return [answer.body] if answer.body else []


@lru_cache(maxsize=16)
def _cors(origin: str) -> tuple[Header, ...]:
    if not origin:
        return ()
    allowed = ("Access-Control-Allow-Origin", origin)
    exposed = ("Access-Control-Expose-Headers", _EXPOSED_HEADERS)
    return allowed, exposed


def cors_headers(origin: str) -> list[Header]:
    """The headers of every answer that let pages from `origin` read it; none for ""."""
    return list(_cors(origin))


def content_length(environ: dict[str, Any]) -> int | None:
    """The length of a request's body in bytes; None for a chunked one, 0 without a body. Raises `BadRequest`."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    # The server lets only digits through, and every length that is given twice is given the same.
    try:
        return numbers.parse(environ.get("CONTENT_LENGTH") or "0")
    except ValueError as error:
        raise BadRequest(f"Content-Length: {error}") from error


CLOSE: Header = ("Connection", "close")


def unread_bytes(environ: dict[str, Any]) -> int | None:
    """How much to read of a body that nobody wants, so that the connection stays of use.

    None when it is too long for that: then the connection is closed, and the answer says so (`CLOSE`).
    """
    try:
        length = content_length(environ)
    except BadRequest:
        return None
    # Reading would tell a client that waits for "100 Continue" to send it.
    return None if length is None or length > _SHORT_BYTES or (length and "HTTP_EXPECT" in environ) else length


def unread(environ: dict[str, Any]) -> list[Header]:
    """Deal with the body of a WSGI request that nobody wants; returns headers for the answer."""
    length = unread_bytes(environ)
    if length:
        environ["wsgi.input"].read(length)
    return [CLOSE] if length is None else []


def key_of(environ: dict[str, Any], prefix: str) -> str:
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


# The table that comes with the language, so that every machine guesses the same, and what it does not know.
_TYPES = mimetypes.MimeTypes().types_map[True] | {
    ".7z": "application/x-7z-compressed",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".conf": "text/plain",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".tgz": "application/gzip",
    ".toml": "application/toml",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zst": "application/zstd",
}


def guess_type(key: str) -> str:
    """The Content-Type that the ending of a key's name suggests."""
    name = key[key.rfind("/") + 1 :]
    dot = name.rfind(".")
    return _TYPES.get(name[dot:].lower(), DEFAULT_TYPE) if dot > 0 else DEFAULT_TYPE
