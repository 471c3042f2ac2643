"""Range requests: the bytes that a Range header asks for, and a response with several ranges (RFC 9110, section 14)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from broker.errors import PulzarError

# For more ranges than this in one request the whole value is sent.
MAX_RANGES = 64

_SPEC = re.compile(r"(\d*)-(\d*)", re.ASCII)


class Span(NamedTuple):
    """A range of bytes from `start` up to, and without, `stop`."""

    start: int
    stop: int


class Unsatisfiable(PulzarError):
    """Raised when no range of a request has a byte of the value."""


def read(header: str, size: int) -> list[Span] | None:
    """The ranges that a Range header asks for, of a value of `size` bytes; None when the header is to be ignored.

    Ranges that overlap become one. Raises `Unsatisfiable` when no range of a good header has a byte of the value.
    """
    unit, equals, listed = header.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes":
        return None
    specs = [spec.strip(" \t") for spec in listed.split(",")]
    spans: list[Span] = []
    seen = 0
    for spec in specs:
        if not spec:  # a list may have empty elements
            continue
        seen += 1
        match = _SPEC.fullmatch(spec)
        if match is None or spec == "-" or seen > MAX_RANGES:
            return None
        first, last = match.groups()
        if first and last and _number(last) < _number(first):
            return None
        if not first:
            span = Span(max(0, size - _number(last)), size)
        else:
            span = Span(_number(first), min(_number(last) + 1, size) if last else size)
        if span.start < span.stop:
            spans.append(span)
    if not seen:
        return None
    if not spans:
        raise Unsatisfiable(f"the value has {size} bytes, and none of them is in the range {header[:80]}")
    return _merged(spans)


def _number(digits: str) -> int:
    # Python refuses to convert thousands of digits; more than 19 are past the end of any value anyway.
    digits = digits.lstrip("0")
    return int(digits or "0") if len(digits) <= 19 else 10**19


def _merged(spans: list[Span]) -> list[Span]:
    """The same bytes without repetition: unchanged when no ranges overlap, else joined and in order."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start < joined[-1].stop:
            joined[-1] = Span(joined[-1].start, max(joined[-1].stop, span.stop))
        else:
            joined.append(span)
    return spans if len(joined) == len(spans) else joined


class Multipart:
    """Several ranges of a value as one `multipart/byteranges` body."""

    def __init__(self, spans: list[Span], size: int, headers: Iterable[tuple[str, str]]) -> None:
        """Each part has these headers and its Content-Range."""
        described = "".join(f"{name}: {value}\r\n" for name, value in headers)
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/byteranges; boundary={boundary}"
        self._end = f"\r\n--{boundary}--\r\n".encode("ascii")
        head = f"\r\n--{boundary}\r\n{described}Content-Range: "
        self._parts = [(f"{head}{content_range(span, size)}\r\n\r\n".encode("latin-1"), span) for span in spans]
        self.length = len(self._end) + sum(len(head) + span.stop - span.start for head, span in self._parts)

    def pieces(self) -> Iterator[bytes | Span]:
        """The body, in order: bytes, and ranges of the value."""
        for head, span in self._parts:
            yield head
            yield span
        yield self._end


def content_range(span: Span, size: int) -> str:
    """The Content-Range of a range of bytes."""
    return f"bytes {span.start}-{span.stop - 1}/{size}"
