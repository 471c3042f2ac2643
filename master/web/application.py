"""The application of a web worker: the hot routes, and Flask behind them.

The hot routes run on the worker's event loop (RSGI), so that a PUT that waits for its node holds no thread.
Handing each request to a thread and back cost half of what a PUT took. Flask has all other routes, on threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import NamedTuple, Protocol

from granian.rsgi import HTTPProtocol, Scope  # type: ignore[attr-defined]

from broker.http import responses
from broker.http.browsers import Browsers
from broker.http.environ import Environ
from broker.http.responses import Header, Response
from broker.http.router import Router
from broker.server import lingering_close, request_headers
from broker.server.client_timeouts import ClientTimeouts
from broker.server.granian_requests import from_rsgi
from broker.server.request import Request
from master.metrics.figures import REQUESTS
from master.security.audit import AuditLog
from master.security.gate import Gate
from master.security.routes import Routes, shape


class ResponseStream(Protocol):
    """A response that is sent while it is made."""

    @property
    def status(self) -> int:
        """The status of the response."""

    @property
    def headers(self) -> list[Header]:
        """The headers, which may be added to until it is sent."""

    async def send(self, protocol: HTTPProtocol) -> None:
        """Send all of it; when that fails, the client can see that it is not complete."""


Handler = Callable[[Request], Response | Awaitable[Response | ResponseStream]]
# The page that shows an error to a browser; None for requests of other clients.
PageOfError = Callable[[Exception, Environ], Response | None]
Begin = Callable[[asyncio.AbstractEventLoop], Coroutine[None, None, None]]


class Route(NamedTuple):
    """A hot route."""

    handler: Handler
    row: int  # among the figures, below 0 for one that stands for several routes


class Application:
    """Sends each request to its handler, and the response to the client."""

    def __init__(
        self,
        router: Router[Handler],
        fallback: Handler,
        begin: Begin,
        timeouts: ClientTimeouts,
        *,
        browsers: Browsers,
        gate: Gate,
        audit: AuditLog | None,
        page_of_error: PageOfError,
        on_loop: Callable[[asyncio.AbstractEventLoop], None],
    ) -> None:
        """`fallback` handles paths without a hot route. `begin` is called before the first request.

        `browsers` says what pages may do, `gate` what clients may. `audit`: where it is written down; None: nowhere.
        `on_loop` is called with the event loop, once it is there.
        """
        self._routes = Routes()
        self._router = router.mapped(self._counted)
        self._fallback = fallback
        self._begin = begin
        self._begun: asyncio.Task[None] | None = None
        self._timeouts = timeouts
        self._browsers = browsers
        self._gate = gate
        self._audit = audit
        self._page_of_error = page_of_error
        self._on_loop = on_loop

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Called once, when the worker's event loop is there."""
        self._on_loop(loop)
        self._begun = loop.create_task(self._begin(loop))

    async def __rsgi__(self, scope: Scope, protocol: HTTPProtocol) -> None:
        """Answer one request, and count it."""
        if self._begun is not None:
            await asyncio.shield(self._begun)
            self._begun = None
        began = perf_counter()
        request = from_rsgi(scope, protocol, self._timeouts)
        response = await self._response(request)
        response.headers.extend(self._browsers.headers(request.environ))
        if self._audit is not None:
            self._audit.note(request.environ, response.status)
        try:
            if isinstance(response, Response):
                if "HTTP_EXPECT" in request.environ and request.deaf:
                    response = response.bare()
                headers = response.headers
                if request.unread or request.spoiled:
                    headers = [*headers, *await lingering_close.headers(request, self._timeouts)]
                protocol.response_bytes(response.status, headers, response.body)
            else:
                await response.send(protocol)
        finally:
            row = request.route if request.route >= 0 else self._row(request.environ)
            REQUESTS.note(row, response.status, perf_counter() - began)
        if request.unread:
            await lingering_close.linger(request, self._timeouts)

    def _counted(self, method: str, path: str, handler: Handler) -> Route:
        """A route of the router with its row among the figures."""
        known = [route for of, route in REQUESTS.routes if of == method and shape(route) == shape(path)]
        return Route(handler, REQUESTS.row(method, known[0]) if len(known) == 1 else -1)

    def _row(self, environ: Environ) -> int:
        """The row of a request without a hot route, or that was refused before its handler was found."""
        method = environ["REQUEST_METHOD"]
        found = self._routes.find(method, environ["PATH_INFO"])
        return REQUESTS.other if found is None else REQUESTS.row(method, found.path)

    async def _response(self, request: Request) -> Response | ResponseStream:
        path: str = request.environ["PATH_INFO"]
        method: str = request.environ["REQUEST_METHOD"]
        try:
            request_headers.check(request.environ)
            self._browsers.check(request.environ)
            if method == "OPTIONS":
                return await self._options(request, path)
            self._gate.admit(request.environ)
            route = self._router.handler(path, method)
            if route is None:
                response = self._fallback(request)
            else:
                request.route = route.row
                response = route.handler(request)
            return response if isinstance(response, Response) else await response
        except Exception as error:  # noqa: BLE001 - whatever fails, the client gets a response
            shown = self._page_of_error(error, request.environ)
            return responses.from_error(error, request.environ, "master") if shown is None else shown

    async def _options(self, request: Request, path: str) -> Response:
        """The response to OPTIONS. The fallback knows the methods of its own paths."""
        page = self._browsers.allowed(request.environ) != ""
        if self._router.has(path):
            return self._router.options(path, page)
        response = self._fallback(request)
        if not isinstance(response, Response):
            made = await response
            assert isinstance(made, Response)
            response = made
        allowed = dict(response.headers).get("Allow") if response.status < 300 else None
        return responses.options(allowed.split(", ") if allowed else responses.ALL_METHODS, page)
