"""One request: its environment, named as in WSGI, and its body."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol

from broker.http import request_fields
from broker.refusals import BadRequest
from broker.server import client_quirks, request_headers
from broker.server.client_timeouts import ClientTimeouts

_WHOLE_BYTES = 65_536  # a body of up to this length is read at once
_PROTOCOLS = {"1.1": "HTTP/1.1", "1": "HTTP/1.0", "1.0": "HTTP/1.0"}
BROKEN = "the body was cut off, its chunks are malformed or have trailers; nothing was done"


class BrokenBody(BadRequest):
    """Raised when a body did not come whole: the client has gone, or its chunks are malformed."""


class Body(Protocol):
    """The body of one request, as the web server gives it."""

    async def whole(self) -> bytes:
        """The whole body; raises `BrokenBody`."""

    async def piece(self) -> bytes:
        """The next piece, b"" at the end; raises `BrokenBody`."""

    async def gone(self) -> None:
        """Returns when the client has gone away; nothing of the body can be read afterwards."""


class Request:
    """One request. Its body can be read once."""

    __slots__ = ("_body", "_received", "_timeouts", "_waited", "environ", "route", "spoiled", "unread")

    def __init__(
        self,
        body: Body,
        timeouts: ClientTimeouts,
        headers: Iterable[tuple[str, str]],
        *,
        version: str,
        method: str,
        path: str,
        query: str,
        client: str,
        server: str,
        scheme: str,
    ) -> None:
        """`version` is that of HTTP, like 1.1; `path` has no percent-encoding; `client` is `address:port`.

        `scheme`: https or http.
        """
        if not path.isascii():
            path = path.encode().decode("latin-1")
        environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        environ["SERVER_PROTOCOL"] = _PROTOCOLS.get(version, version)
        request_headers.add_headers(environ, headers)
        environ["REMOTE_ADDR"], environ["SERVER_NAME"], environ["wsgi.url_scheme"] = client, server, scheme
        self.environ = environ
        self.route = -1  # the row of its route among the figures; below 0: not known yet
        self.unread = request_fields.has_body(environ)  # there is a body, and its end was not read
        self.spoiled = False  # nothing more can be read: the body is broken, or its client too slow
        self._body = body
        self._timeouts = timeouts
        self._received = 0  # bytes
        self._waited = 0.0  # seconds, for them

    @property
    def client(self) -> str:
        """The client's address and port."""
        return self.environ["REMOTE_ADDR"]

    @property
    def waits(self) -> bool:
        """Whether the client waits for "100 Continue", and understands another response."""
        return "HTTP_EXPECT" in self.environ and not client_quirks.wants_continue(self.environ)

    @property
    def deaf(self) -> bool:
        """Whether the client waits for "100 Continue" without a body, and hangs at a response that has one."""
        environ = self.environ
        return (
            "HTTP_EXPECT" in environ and not request_fields.has_body(environ) and client_quirks.wants_continue(environ)
        )

    async def gone(self) -> None:
        """Returns when the client has gone away; nothing of the body can be read afterwards."""
        await self._body.gone()

    async def read(self, length: int) -> bytes:
        """The whole body of `length` bytes. Raises `BrokenBody` when it has another length, or `SlowClient`."""
        if not length:
            return b""
        if length <= _WHOLE_BYTES:
            self.unread, self.spoiled = False, True
            with self._timeouts.wait(self._timeouts.idle):
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
        with self._timeouts.wait(self._timeouts.left(self._waited, self._received)):
            piece = await self._body.piece()
        self._waited += time.monotonic() - since
        self._received += len(piece)
        self.unread, self.spoiled = bool(piece), False
        return piece
