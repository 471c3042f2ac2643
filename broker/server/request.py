"""A request as the web server hands it over (RSGI to the master, ASGI to a node), with its environment named as WSGI does."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Protocol

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from broker.http import request_fields
from broker.refusals import BadRequest
from broker.server import client_quirks, request_headers
from broker.server.client_timeouts import ClientTimeouts

_WHOLE_BYTES = 65_536  # a body of up to this length is read at once
_PROTOCOLS = {"1.1": "HTTP/1.1", "1": "HTTP/1.0", "1.0": "HTTP/1.0"}
BROKEN = "the body was cut off, its chunks are malformed or have trailers; nothing was done"


class BrokenBody(BadRequest):
    """Raised when a body did not come whole: its client has gone, or its chunks are none."""


class Body(Protocol):
    """How a web server gives the body of one request."""

    async def whole(self) -> bytes:
        """All of it; raises `BrokenBody`."""

    async def piece(self) -> bytes:
        """The next piece, b"" at its end; raises `BrokenBody`."""

    async def gone(self) -> None:
        """Returns when the client has gone away; nothing of the body can be read afterwards."""


class RsgiBody:
    """The body as Granian's RSGI gives it."""

    __slots__ = ("_pieces", "_protocol")

    def __init__(self, protocol: Any) -> None:
        self._protocol = protocol
        self._pieces: AsyncIterator[bytes] | None = None

    async def whole(self) -> bytes:
        """All of it; raises `BrokenBody`."""
        try:
            body: bytes = await self._protocol()
        except ProtocolClosed:
            raise BrokenBody(BROKEN) from None
        return body

    async def piece(self) -> bytes:
        """The next piece, b"" at its end; raises `BrokenBody`."""
        if self._pieces is None:
            self._pieces = aiter(self._protocol)
        # Not anext() with a default: that ends the process with the server's own kind of awaitable.
        try:
            piece = await self._pieces.__anext__()
            if piece:
                return piece
            # The end of a body is one empty piece. What failed is an empty piece before that one; so are trailers.
            await self._pieces.__anext__()
        except StopAsyncIteration:
            return b""
        raise BrokenBody(BROKEN)

    async def gone(self) -> None:
        """Returns when the client has gone away."""
        await self._protocol.client_disconnect()


class AsgiBody:
    """The body as ASGI gives it."""

    __slots__ = ("_receive",)

    def __init__(self, receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._receive = receive

    async def whole(self) -> bytes:
        """All of it; raises `BrokenBody`."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def piece(self) -> bytes:
        """The next piece, b"" at its end; raises `BrokenBody`."""
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise BrokenBody(BROKEN)
            piece: bytes = message["body"]
            if piece or not message["more_body"]:
                return piece

    async def gone(self) -> None:
        """Returns when the client has gone away; what else comes is dropped."""
        while (await self._receive())["type"] == "http.request":
            continue


class Request:
    """One request; its body is read when somebody wants it, once."""

    __slots__ = ("_body", "_patience", "_received", "_waited", "environ", "spoiled", "unread")

    def __init__(
        self,
        version: str,
        method: str,
        path: str,
        query: str,
        headers: Iterable[tuple[str, str]],
        client: str,
        server: str,
        body: Body,
        patience: ClientTimeouts,
    ) -> None:
        """`version` is that of HTTP, like 1.1. `path` has no percent-encoding any more; `client` and `server` are addresses
        with ports.
        """
        if not path.isascii():
            path = path.encode().decode("latin-1")
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        environ["SERVER_PROTOCOL"] = _PROTOCOLS.get(version, version)
        request_headers.add_headers(environ, headers)
        environ["REMOTE_ADDR"] = client
        environ["SERVER_NAME"] = server
        self.environ = environ
        self.unread = request_fields.has_body(environ)  # there is a body, and its end was not read
        self.spoiled = False  # nothing more can be read: the body is broken, or its client too slow
        self._body = body
        self._patience = patience
        self._received = 0  # bytes
        self._waited = 0.0  # seconds, for them

    @property
    def client(self) -> str:
        """The client's address and port."""
        client: str = self.environ["REMOTE_ADDR"]
        return client

    @property
    def waits(self) -> bool:
        """Whether the client waits to be told to send its body, and would understand another answer."""
        return "HTTP_EXPECT" in self.environ and not client_quirks.wants_continue(self.environ)

    @property
    def deaf(self) -> bool:
        """Whether the client waits to be told to send a body that it has not, and hangs at an answer that has one."""
        environ = self.environ
        return (
            "HTTP_EXPECT" in environ and not request_fields.has_body(environ) and client_quirks.wants_continue(environ)
        )

    async def gone(self) -> None:
        """Returns when the client has gone away; nothing of the body can be read afterwards."""
        await self._body.gone()

    async def read(self, length: int) -> bytes:
        """The whole body, which is said to have `length` bytes; raises `BrokenBody` when it has not, or `SlowClient`."""
        if not length:
            return b""
        if length <= _WHOLE_BYTES:
            self.unread, self.spoiled = False, True
            with self._patience.wait(self._patience.idle):
                body = await self._body.whole()
            self.spoiled = False
        else:
            pieces = []
            while piece := await self.chunk():
                pieces.append(piece)
            body = b"".join(pieces)
        if len(body) != length:
            raise BrokenBody(f"the body ended after {len(body)} of {length} bytes; nothing was done")
        return body

    async def chunk(self) -> bytes:
        """The next piece of the body, b"" at its end; raises `BrokenBody` or `SlowClient`."""
        if not self.unread:
            return b""
        since = time.monotonic()
        self.unread, self.spoiled = False, True
        with self._patience.wait(self._patience.left(self._waited, self._received)):
            piece = await self._body.piece()
        self._waited += time.monotonic() - since
        self._received += len(piece)
        self.unread, self.spoiled = bool(piece), False
        return piece
