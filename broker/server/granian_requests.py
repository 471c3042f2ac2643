"""Requests as Granian hands them over: RSGI to the master, ASGI to a node.

Assumed of Granian 2.8, and held by tests/unit/test_granian.py:

- RSGI ends a body with one empty piece. A body that is cut off, malformed or has trailers has an empty piece before
  that one, or raises `ProtocolClosed` when it is asked for as a whole.
- RSGI leaves out of `headers.items()`, but not of `headers.keys()`, those whose value is not visible ASCII.
- ASGI sends `http.disconnect` for a body that is cut off or malformed, and ends one with trailers as any other.
- Both tell the client as `address:port`, RSGI an IPv6 address in brackets; the path has no percent-encoding any more.
- Content-Length has digits alone, and several of them are equal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TypedDict

from granian.rsgi import HTTPProtocol, ProtocolClosed, Scope  # type: ignore[attr-defined]

from broker.server import request_headers
from broker.server.client_timeouts import ClientTimeouts
from broker.server.request import BROKEN, BrokenBody, Request


class AsgiScope(TypedDict):
    """The head of a request in ASGI."""

    http_version: str
    scheme: str
    method: str
    path: str
    query_string: bytes
    headers: Iterable[tuple[bytes, bytes]]
    client: tuple[str, int] | None
    server: tuple[str, int] | None


AsgiReceive = Callable[[], Awaitable[Mapping[str, object]]]
AsgiSend = Callable[[Mapping[str, object]], Awaitable[None]]


def from_rsgi(scope: Scope, protocol: HTTPProtocol, timeouts: ClientTimeouts) -> Request:
    """The request that RSGI hands over; headers that it has left out are in the environment as `HIDDEN`."""
    shown = scope.headers  # made anew each time it is asked for
    headers = shown.items()
    request = Request(
        RsgiBody(protocol),
        timeouts,
        headers,
        version=scope.http_version,
        method=scope.method,
        path=scope.path,
        query=scope.query_string,
        client=scope.client,
        server=scope.server,
        scheme=scope.scheme,
    )
    # Another number than there are names: some may have been left out.
    missing = len(headers) != len(shown)  # type: ignore[arg-type]
    if missing and (hidden := request_headers.hidden(shown.keys(), headers)):
        request.environ[request_headers.HIDDEN] = hidden
    return request


def from_asgi(scope: AsgiScope, receive: AsgiReceive, timeouts: ClientTimeouts) -> Request:
    """The request that ASGI hands over."""
    return Request(
        AsgiBody(receive),
        timeouts,
        ((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]),
        version=scope["http_version"],
        method=scope["method"],
        path=scope["path"],
        query=scope["query_string"].decode("latin-1"),
        client=_address(scope["client"]),
        server=_address(scope["server"]),
        scheme=scope["scheme"],
    )


def _address(given: tuple[str, int] | None) -> str:
    return f"{given[0]}:{given[1]}" if given else ""


class RsgiBody:
    """The body of a request as RSGI gives it."""

    __slots__ = ("_pieces", "_protocol")

    def __init__(self, protocol: HTTPProtocol) -> None:
        self._protocol = protocol
        self._pieces: AsyncIterator[bytes] | None = None

    async def whole(self) -> bytes:
        try:
            return await self._protocol()
        except ProtocolClosed:
            raise BrokenBody(BROKEN) from None

    async def piece(self) -> bytes:
        if self._pieces is None:
            self._pieces = aiter(self._protocol)
        # Not anext() with a default: with the awaitables of Granian that ends the process.
        try:
            piece = await self._pieces.__anext__()
            if piece:
                return piece
            await self._pieces.__anext__()  # the end is one empty piece, so there is no other
        except StopAsyncIteration:
            return b""  # the end
        raise BrokenBody(BROKEN)

    async def gone(self) -> None:
        await self._protocol.client_disconnect()


class AsgiBody:
    """The body of a request as ASGI gives it."""

    __slots__ = ("_receive",)

    def __init__(self, receive: AsgiReceive) -> None:
        self._receive = receive

    async def whole(self) -> bytes:
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    async def piece(self) -> bytes:
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise BrokenBody(BROKEN)
            piece = message["body"]
            assert isinstance(piece, bytes)
            if piece or not message["more_body"]:
                return piece

    async def gone(self) -> None:
        while (await self._receive())["type"] == "http.request":
            continue  # what else comes is dropped
