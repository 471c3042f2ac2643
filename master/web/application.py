"""The application of a web worker: the hot routes, and Flask behind them.

The hot routes run on the worker's event loop (RSGI), so that a PUT that waits for its node holds no thread.
Handing each request to a thread and back cost half of what a PUT took. Flask has all other routes, on threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from broker.http import responses
from broker.http.responses import Response
from broker.http.router import Router
from broker.server import lingering_close, request_headers
from broker.server.client_timeouts import ClientTimeouts
from broker.server.granian_requests import from_rsgi
from broker.server.request import Request
from master.store.dispatcher import Dispatcher


class ResponseStream(Protocol):
    """A response that is sent while it is made."""

    async def send(self, protocol: HTTPProtocol) -> None:
        """Send all of it; when that fails, the client can see that it is not complete."""


Handler = Callable[[Request], Response | Awaitable[Response | ResponseStream]]


class Application:
    """Sends each request to its handler, and the response to the client."""

    def __init__(
        self, router: Router[Handler], fallback: Handler, dispatcher: Dispatcher, timeouts: ClientTimeouts, cors: str
    ) -> None:
        """`fallback` handles paths without a route. Pages from the origin `cors` may read responses ("": none)."""
        self._router = router
        self._fallback = fallback
        self._dispatcher = dispatcher
        self._timeouts = timeouts
        self._cors = cors
        self._cors_headers = responses.cors_headers(cors)

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once, when the worker's event loop is there."""
        self._dispatcher.run_on(loop)

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request."""
        request = from_rsgi(scope, protocol, self._timeouts)
        response = await self._response(request)
        if isinstance(response, Response):
            if "HTTP_EXPECT" in request.environ and request.deaf:
                response = response.bare()
            headers = response.headers
            if request.unread or request.spoiled:
                headers = [*headers, *await lingering_close.headers(request, self._timeouts)]
            protocol.response_bytes(response.status, headers, response.body)
        else:
            await response.send(protocol)
        if request.unread:
            await lingering_close.linger(request, self._timeouts)

    async def _response(self, request: Request) -> Response | ResponseStream:
        path: str = request.environ["PATH_INFO"]
        method: str = request.environ["REQUEST_METHOD"]
        try:
            request_headers.check(request.environ)
            if method == "OPTIONS":
                return self._router.options(path, self._cors)
            handler = self._router.handler(path, method) or self._fallback
            response = handler(request)
            return response if isinstance(response, Response) else await response
        except Exception as error:  # noqa: BLE001 - whatever fails, the client gets a response
            return responses.from_error(error, request.environ, "master", self._cors_headers)
