"""Calls of the API from a screen, without HTTP: the same handlers, rights, errors and audit log.

A screen runs on a thread of Flask, and the handlers on the event loop of the worker.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from typing import IO, TypeVar, cast
from urllib.parse import urlencode

from broker.http import responses
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.http.router import Router
from broker.refusals import Refused, Unavailable
from broker.server.client_timeouts import ClientTimeouts
from broker.server.request import Request
from broker.server.streaming_response import StreamingResponse
from master.security.audit import AuditLog
from master.security.gate import SESSION, Gate
from master.web.application import Handler

T = TypeVar("T")

CALL_SECS = 60.0
_PIECE_BYTES = 1 << 18  # of a body that is read at once
MOST_BYTES = 1 << 20  # of a response that is sent while it is made
# Of the visitor's request: who he is, and where from.
_PASSED_ON = ("HTTP_AUTHORIZATION", "HTTP_COOKIE", "HTTP_HOST", SESSION)


class _Body:
    """A body that is there as a whole, in memory or in a file."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    async def whole(self) -> bytes:
        return self._content.read()

    async def piece(self) -> bytes:
        if isinstance(self._content, io.BytesIO):
            return self._content.read(_PIECE_BYTES)
        return await asyncio.to_thread(self._content.read, _PIECE_BYTES)

    async def gone(self) -> None:
        await asyncio.Event().wait()  # it does not go before it has its response


class Inner:
    """The API of this worker, for its screens."""

    def __init__(
        self,
        router: Router[Handler],
        fallback: Handler,
        timeouts: ClientTimeouts,
        gate: Gate,
        audit: AuditLog | None,
    ) -> None:
        self._router = router
        self._fallback = fallback
        self._timeouts = timeouts
        self._gate = gate
        self._audit = audit
        self._loop: asyncio.AbstractEventLoop | None = None

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """The event loop that the handlers run on."""
        self._loop = loop

    def call(
        self,
        environ: Environ,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | Mapping[str, object] | IO[bytes] = b"",
        *,
        headers: Mapping[str, str] | None = None,
        secs: float = CALL_SECS,
    ) -> Response:
        """The response of a route of the API to the visitor who made the request `environ`.

        `path` is not percent-encoded. A `body` that is a mapping is sent as JSON, a file from its beginning. A
        response of 400 or more is raised as `Refused`, with the API's own message, and so is one that takes longer
        than `secs`. Of a response that is sent while it is made, the body is cut at `MOST_BYTES`.
        """
        content = _file(body)
        length = content.seek(0, os.SEEK_END)
        content.seek(0)
        client = environ["REMOTE_ADDR"]
        if "REMOTE_PORT" in environ:
            client = f"{client}:{environ['REMOTE_PORT']}"
        sent = dict(headers or {}) | ({"content-length": str(length)} if length or method != "GET" else {})
        request = Request(
            _Body(content),
            self._timeouts,
            sent.items(),
            version="1.1",
            method=method,
            path=path,
            query=urlencode(query or {}),
            client=client,
            server=environ["SERVER_NAME"],
            scheme=environ["wsgi.url_scheme"],
        )
        request.environ.update({name: environ[name] for name in _PASSED_ON if name in environ})
        response = self.run(lambda: self._handle(request), secs)
        if response.status >= 400:
            raise _refused(response)
        return response

    def data(self, environ: Environ, method: str, path: str, query: Mapping[str, object] | None = None) -> object:
        """`data` of the envelope of a response."""
        return json.loads(self.call(environ, method, path, query).body)["data"]

    def run(self, function: Callable[[], Awaitable[T]], secs: float = CALL_SECS) -> T:
        """What a function gives that runs on the event loop. Raises what it raises, or `Unavailable` after `secs`."""
        if self._loop is None:
            raise Unavailable("the web worker is starting")

        async def awaited() -> T:
            return await function()

        future: Future[T] = asyncio.run_coroutine_threadsafe(awaited(), self._loop)
        try:
            return future.result(secs)
        except TimeoutError as error:
            if not future.cancel():
                raise  # the function's own
            raise Unavailable(f"there was no answer within {secs:g} s; it may still be done") from error

    async def _handle(self, request: Request) -> Response:
        environ = request.environ
        try:
            self._gate.admit(environ)
            handler = self._router.handler(environ["PATH_INFO"], environ["REQUEST_METHOD"]) or self._fallback
            given = handler(request)
            made = given if isinstance(given, Response) else await given
            response = made if isinstance(made, Response) else await _gathered(cast(StreamingResponse, made))
        except Exception as error:  # noqa: BLE001 - as for any other client
            response = responses.from_error(error, environ, "master")
        if self._audit is not None:
            self._audit.note(environ, response.status)
        return response


async def _gathered(response: StreamingResponse) -> Response:
    """The beginning of a response that is sent while it is made. Its rest is not made any more."""
    body = bytearray(response.beginning)
    try:
        async for piece in response.pieces:
            body += piece
            if len(body) > MOST_BYTES:
                break
    finally:
        await response.pieces.aclose()
    return Response(response.status, response.headers, bytes(body[:MOST_BYTES]))


def _file(body: bytes | Mapping[str, object] | IO[bytes]) -> IO[bytes]:
    if isinstance(body, Mapping):
        return io.BytesIO(json.dumps(body).encode())
    return io.BytesIO(body) if isinstance(body, bytes) else body


class Answered(Refused):
    """Raised when a route of the API has refused a call; the message and the status are its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _refused(response: Response) -> Refused:
    try:
        message = str(json.loads(response.body)["msg"])
    except (ValueError, KeyError, TypeError):
        message = f"the master answered {response.status}"
    return Answered(response.status, message)


def message_of(response: Response) -> str:
    """`msg` of the envelope of a response."""
    return str(json.loads(response.body)["msg"])
