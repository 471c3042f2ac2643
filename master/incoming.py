"""A request as the web server hands it over (RSGI), with its environment named as WSGI does."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from broker import http, received
from broker.refusals import BadRequest


class Incoming:
    """One request; its body is read when somebody wants it, once."""

    __slots__ = ("_begun", "_chunks", "_protocol", "environ")

    def __init__(self, scope: Any, protocol: Any) -> None:
        self._protocol = protocol
        self._begun = False  # to read the body
        self._chunks: AsyncIterator[bytes] | None = None
        path: str = scope.path  # percent-encoding is undone
        if not path.isascii():
            path = path.encode().decode("latin-1")
        environ = {"REQUEST_METHOD": scope.method, "PATH_INFO": path, "QUERY_STRING": scope.query_string}
        received.add_headers(environ, scope.headers.items())
        environ["REMOTE_ADDR"] = scope.client
        environ["SERVER_NAME"] = scope.server
        self.environ: dict[str, Any] = environ

    def name_peers(self) -> None:
        """Split the addresses of client and server as WSGI wants them; only few requests need that."""
        environ = self.environ
        environ["REMOTE_ADDR"], _, environ["REMOTE_PORT"] = environ["REMOTE_ADDR"].rpartition(":")
        environ["SERVER_NAME"], _, environ["SERVER_PORT"] = environ["SERVER_NAME"].rpartition(":")

    async def read(self, length: int) -> bytes:
        """The whole body, which is said to have `length` bytes; raises `BadRequest` when it has not."""
        try:
            self._begun = True
            body: bytes = await self._protocol() if length else b""
        except ProtocolClosed:
            raise BadRequest(f"the body ended before its {length} bytes were there; nothing was stored") from None
        if len(body) != length:
            raise BadRequest(f"the body ended after {len(body)} of {length} bytes; nothing was stored")
        return body

    async def chunk(self) -> bytes:
        """The next piece of the body, b"" at its end, also when it was cut off there."""
        if self._chunks is None:
            self._begun = True
            self._chunks = aiter(self._protocol)
        try:
            # Not anext() with a default: that ends the process with the server's own kind of awaitable.
            return await self._chunks.__anext__()
        except StopAsyncIteration:
            return b""

    async def disconnected(self) -> None:
        """Returns when the client has gone away; nothing of the body can be read afterwards."""
        await self._protocol.client_disconnect()

    async def discard(self) -> list[http.Header]:
        """Deal with the body that nobody wants; returns headers for the answer."""
        length = http.unread_bytes(self.environ)
        if self._begun:
            return []
        with suppress(BadRequest):  # the client is gone, and will not read the answer
            await self.read(length or 0)
        return [http.CLOSE] if length is None else []

    def stream(self, loop: asyncio.AbstractEventLoop) -> io.BufferedReader:
        """The body for a thread to read, while `loop` runs on another one."""
        return io.BufferedReader(_Stream(self, loop), 1 << 16)


class _Stream(io.RawIOBase):
    def __init__(self, incoming: Incoming, loop: asyncio.AbstractEventLoop) -> None:
        self._incoming = incoming
        self._loop = loop
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(asyncio.run_coroutine_threadsafe(self._incoming.chunk(), self._loop).result())
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count
