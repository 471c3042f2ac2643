"""GET requests from the master to nodes, on the event loop, over connections that are kept for further ones."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import AsyncGenerator, Iterable
from email.message import Message
from urllib.parse import urlsplit

from broker import tls
from broker.http.peer_client import CONNECT_SECS, PeerFailed, error_text, read_head
from broker.http.responses import Header

_KEPT = 16  # idle connections to a peer
_PIECE_BYTES = 1 << 18


class _Connection:
    """A connection to a peer. A peer may stand still for `secs` seconds."""

    def __init__(self, server: str, secs: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.secs = secs
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: str, secs: float, trusted: ssl.SSLContext) -> _Connection:
        """Connect to a server, like https://host:port; raises `PeerFailed`."""
        try:
            async with asyncio.timeout(min(secs, CONNECT_SECS)):
                streams = await tls.open_streams(server, _PIECE_BYTES, trusted)
        except (OSError, ValueError) as error:
            raise PeerFailed(f"{server} can't be reached: {error_text(error)}") from error
        return cls(server, secs, *streams)

    def close(self) -> None:
        """Close it, whatever is on its way."""
        self.writer.transport.abort()


class PeerRead:
    """The response to one GET; its body has not been read yet. All methods raise `PeerFailed`."""

    def __init__(self, pool: PeerReads, connection: _Connection, status: int, headers: Message, left: int) -> None:
        self.status = status
        self.headers = headers
        self.left = left  # bytes of the body that were not read
        self._pool = pool
        self._connection = connection

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The body. A peer that stands still, or breaks off, raises `PeerFailed`."""
        connection = self._connection
        while self.left:
            try:
                async with asyncio.timeout(connection.secs):
                    piece = await connection.reader.read(min(self.left, _PIECE_BYTES))
            except OSError as error:
                raise PeerFailed(f"{connection.server} broke off: {error_text(error)}") from error
            if not piece:
                raise PeerFailed(f"{connection.server} broke off {self.left} bytes before the end")
            self.left -= len(piece)
            yield piece

    async def body(self) -> bytes:
        """All of the body."""
        return b"".join([piece async for piece in self.pieces()])

    def close(self) -> None:
        """Keep the connection when the response was read to its end; else close it."""
        self._pool.take_back(self._connection, keep=not self.left and self.headers["Connection"] != "close")


class PeerReads:
    """Sends GET requests to peers. A peer may stand still for `secs` seconds."""

    def __init__(self, secs: float, trusted: ssl.SSLContext | None = None) -> None:
        """`trusted` are the certificates of peers; None: those of the system."""
        self._secs = secs
        self._trusted = trusted or tls.trust("")
        self._idle: dict[str, list[_Connection]] = {}

    async def get(self, url: str, headers: Iterable[Header] = ()) -> PeerRead:
        """The response to a GET of an http or https address. The caller closes it. Raises `PeerFailed`."""
        parts = urlsplit(url)
        server = f"{parts.scheme}://{parts.netloc}"
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        more = "".join(f"{name}: {value}\r\n" for name, value in headers)
        idle = self._idle.get(server, [])
        while idle:
            connection = idle.pop()
            try:
                return await self._ask(connection, target, more)
            except PeerFailed:
                continue  # the peer has closed it since then; a new one says whether there is more to it
        return await self._ask(await _Connection.open(server, self._secs, self._trusted), target, more)

    def take_back(self, connection: _Connection, *, keep: bool) -> None:
        """Keep a connection for the next request, or close it."""
        idle = self._idle.setdefault(connection.server, [])
        if keep and len(idle) < _KEPT:
            idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections that are kept."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()

    async def _ask(self, connection: _Connection, target: str, more: str) -> PeerRead:
        try:
            host = urlsplit(connection.server).netloc
            connection.writer.write(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode("latin-1"))
            async with asyncio.timeout(self._secs):
                status, headers = await read_head(connection.reader)
            length = headers["Content-Length"] or ""
            if not (length.isascii() and length.isdecimal() and len(length) < 20):
                raise http.client.HTTPException("its answer does not say how long it is")
            return PeerRead(self, connection, status, headers, int(length))
        except (OSError, EOFError, RuntimeError, ValueError, http.client.HTTPException) as error:
            connection.close()
            raise PeerFailed(f"{connection.server} did not answer: {error_text(error)}") from error
        except BaseException:
            connection.close()
            raise
