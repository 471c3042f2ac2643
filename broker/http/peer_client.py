"""Requests between master and nodes, on the event loop: a stalled client or peer holds no thread.

Each request has a connection of its own. The server must give the length of its response.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ssl
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from broker import tls
from broker.errors import PulzarError
from broker.http.responses import Header

CONNECT_SECS = 3.0
_MOST_HEAD_BYTES = 65_536
_MOST_BODY_BYTES = 16 << 20
_WRITE_BYTES = 1 << 20  # of a body on its way to the kernel


class PeerFailed(PulzarError):
    """Raised when the peer can't be reached, or breaks the exchange."""


class PeerResponse(NamedTuple):
    """The response of a peer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def picked(self, names: Iterable[str]) -> list[Header]:
        """Those of the named headers that it has."""
        return [(name, value) for name in names if (value := self.headers[name]) is not None]


class PeerClient:
    """One request and its response. The peer may stand still for `secs` seconds. All methods raise `PeerFailed`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str, secs: float) -> None:
        self._reader = reader
        self._writer = writer
        self._address = address
        self._secs = secs
        self._chunked = False
        self._response: asyncio.Task[PeerResponse] | None = None

    @classmethod
    async def connect(cls, url: str, secs: float, trusted: ssl.SSLContext) -> PeerClient:
        """Connect to the server of an http or https address."""
        address = urlsplit(url).netloc
        try:
            async with asyncio.timeout(min(secs, CONNECT_SECS)):
                reader, writer = await tls.open_streams(url, _MOST_HEAD_BYTES, trusted)
        except (OSError, ValueError) as error:
            raise PeerFailed(f"{address} can't be reached: {error_text(error)}") from error
        writer.transport.set_write_buffer_limits(_WRITE_BYTES)
        return cls(reader, writer, address, secs)

    def begin(self, method: str, target: str, headers: Iterable[Header], length: int | None) -> None:
        """Send the head of the request. `length` is that of the body in bytes, None when it is not known."""
        self._chunked = length is None
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._address}", "Connection: close", framing]
        lines += [f"{name}: {value}" for name, value in headers]
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        self._response = asyncio.ensure_future(_read(self._reader))
        # Looked at, so that asyncio does not warn when nobody waits for it.
        self._response.add_done_callback(lambda response: response.cancelled() or response.exception())

    @property
    def has_response(self) -> bool:
        """Whether the response is there: the rest of the body is not wanted."""
        return self._response is not None and self._response.done()

    async def send(self, piece: bytes) -> None:
        """Send a piece of the body; b"" ends a chunked one."""
        try:
            if self._chunked:
                self._writer.write(b"%x\r\n" % len(piece))
                self._writer.write(piece)
                self._writer.write(b"\r\n")
            else:
                self._writer.write(piece)
            async with asyncio.timeout(self._secs):
                await self._writer.drain()
        except (OSError, RuntimeError) as error:  # RuntimeError: uvloop's word for a connection that has ended
            if not self.has_response:
                raise PeerFailed(f"{self._address} took no more of the body: {error_text(error)}") from error

    async def response(self, secs: float) -> PeerResponse:
        """Wait up to `secs` seconds for the response."""
        assert self._response is not None
        try:
            async with asyncio.timeout(secs):
                return await self._response
        except (OSError, EOFError, ValueError, http.client.HTTPException) as error:
            raise PeerFailed(f"{self._address} did not answer: {error_text(error)}") from error

    def close(self) -> None:
        """Close the connection; the peer sees that a body which was not sent to its end is cut off."""
        if self._response is not None:
            self._response.cancel()
        self._writer.transport.abort()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, http.client.HTTPMessage]:
    """Status and headers of a response; raises `HTTPException`, `EOFError` or `OSError`."""
    status = 100
    while status < 200:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise http.client.HTTPException("the head of its answer is too long") from error
        first, _, rest = head.partition(b"\r\n")
        words = first.split(b" ", 2)
        if len(words) < 2 or not words[1].isdigit():
            raise http.client.BadStatusLine(first[:80].decode("latin-1"))
        status = int(words[1][:3])
    return status, http.client.parse_headers(io.BytesIO(rest))


async def _read(reader: asyncio.StreamReader) -> PeerResponse:
    status, headers = await read_head(reader)
    length = headers["Content-Length"] or ""
    if not length.isdecimal() or not 0 <= int(length[:10]) <= _MOST_BODY_BYTES:
        raise http.client.HTTPException("its answer does not say how long it is, or is too long")
    return PeerResponse(status, headers, await reader.readexactly(int(length)))


def error_text(error: Exception) -> str:
    """An error in words; those that have none are called by their kind."""
    return str(error) or type(error).__name__
