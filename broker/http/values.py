"""Responses to GET and HEAD of a value, as RFC 9110 wants them.

`plan` decides everything from the headers of the request and the properties of the value. Its caller sends the bytes.
Nothing here does I/O.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from broker.http import conditions, content_types, dates, ranges
from broker.http.conditions import Outcome
from broker.http.environ import Environ
from broker.http.ranges import Multipart, Span
from broker.http.responses import NO_FRAMES, Header, envelope

# A key can get another value at any time, so a cache has to ask.
_CACHE_CONTROL: Header = ("Cache-Control", "no-cache")
_ACCEPT_RANGES: Header = ("Accept-Ranges", "bytes")
# A value that is a page must not act in the name of other pages of the master. This has no effect on embedded values.
_SANDBOX: Header = ("Content-Security-Policy", "sandbox; default-src 'none'")
# These types run no code as documents, and browsers refuse to show them in a sandbox. One in +xml may be a page.
_SHOWN_ALONE = re.compile(
    r"(?:(?:audio|video)/[\w.+-]+(?<!\+xml)|application/pdf)(?:;[^,]*)?", re.ASCII | re.IGNORECASE
)


class StoredValue(Protocol):
    """A value as the index or the log describes it; the fields are those of `Resource`, with a packed content type."""

    @property
    def size(self) -> int: ...
    @property
    def digest(self) -> bytes: ...
    @property
    def created(self) -> int: ...
    @property
    def content_type(self) -> str: ...


def etag(digest: bytes) -> str:
    """The strong entity tag of a value with this SHA-256."""
    return f'"{digest.hex()}"'


class Resource(NamedTuple):
    """The properties of a value that a response needs."""

    size: int  # bytes
    digest: bytes  # SHA-256
    created: int  # ms since the epoch
    content_type: str
    encoding: str = ""  # Content-Encoding, "": none

    @property
    def etag(self) -> str:
        """Its strong entity tag."""
        return etag(self.digest)


def resource(key: str, stored: StoredValue) -> Resource:
    """The properties of a value, from its key and its description."""
    content_type, encoding = content_types.type_of(key, stored.content_type)
    return Resource(stored.size, stored.digest, stored.created, content_type, encoding)


class Plan(NamedTuple):
    """A response to be sent: status and headers, and either ranges of the value or a body of its own."""

    status: int
    headers: list[Header]
    ranges: Sequence[Span] = ()  # of the value that are sent; none for HEAD, 304, 412, 416
    text: bytes = b""  # the body when it is not from the value
    multipart: Multipart | None = None  # the body when there are several ranges

    def pieces(self) -> Iterable[bytes | Span]:
        """The body, in order: bytes, and ranges of the value."""
        if self.multipart is not None:
            return self.multipart.pieces()
        return self.ranges or ([self.text] if self.text else [])

    def body(self, value: bytes | None) -> bytes:
        """The whole body, from a value in memory; `value` may be None when `ranges` is empty."""
        if value is None or not self.ranges:
            return self.text
        if self.multipart is None:
            start, stop = self.ranges[0]
            return value if stop - start == len(value) else value[start:stop]
        return b"".join(_filled(self.multipart.pieces(), value))


def _filled(pieces: Iterable[bytes | Span], value: bytes) -> Iterator[bytes]:
    for piece in pieces:
        yield value[piece.start : piece.stop] if isinstance(piece, Span) else piece


def plan(environ: Environ, resource: Resource) -> Plan:
    """The response to a GET or HEAD of a value."""
    size, digest, created, content_type, _ = resource
    tag = etag(digest)
    head = environ["REQUEST_METHOD"] == "HEAD"
    modified = created // 1000
    headers = [
        ("Content-Type", content_type),
        ("Content-Length", str(size)),
        ("ETag", tag),
        ("Last-Modified", dates.write(modified)),
        _CACHE_CONTROL,
        _ACCEPT_RANGES,
    ]
    if _sandboxed(content_type):
        headers.append(_SANDBOX)
    if "HTTP_RANGE" in environ or conditions.given(environ):
        outcome = conditions.evaluate(environ, tag, modified)
        if outcome is Outcome.NOT_MODIFIED:
            return Plan(304, headers[2:5])
        if outcome is Outcome.FAILED:
            return _refusal(412, f"the condition does not hold: the value has ETag {tag}", headers[2:5], head)
        # RFC 9110 has ranges for GET only: the response to HEAD describes the whole value.
        wanted = None if head else environ.get("HTTP_RANGE")
        if wanted is not None and conditions.wants_range(environ.get("HTTP_IF_RANGE"), tag, modified, time.time()):
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
    own = [("Content-Type", "application/json"), ("Content-Length", str(len(text))), NO_FRAMES]
    return Plan(status, own + headers, text=b"" if head else text)
