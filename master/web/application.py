"""The application of a web worker: the hot routes of the keys, and Flask behind them.

The hot routes run on the worker's event loop (RSGI), so that a PUT that waits for its node holds no thread:
handing each request to a thread and back cost half of what a PUT took. All others are Flask's, on threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from broker import logs
from broker.http import responses
from broker.http.responses import Response
from broker.messages import upload
from broker.refusals import response_to
from broker.server import lingering_close, request_headers
from broker.server.client_timeouts import ClientTimeouts
from broker.server.granian_requests import from_rsgi
from broker.server.request import Request
from master.extensions.streaming_response import StreamingResponse
from master.store.dispatcher import Dispatcher
from master.web.flask_routes.context import UNEXPECTED

log = logs.get(__name__)


Handler = Callable[[Request], Response | Awaitable[Response | StreamingResponse]]


class Application:
    """Sends each request to its handler and turns errors into answers."""

    def __init__(
        self,
        routes: dict[tuple[str, str], Handler],
        fallback: Handler,
        dispatcher: Dispatcher,
        patience: ClientTimeouts,
        cors: str,
    ) -> None:
        self._routes = routes
        self._methods = {segment: sorted(m for s, m in routes if s == segment) for segment, _ in routes}
        self._fallback = fallback
        self._dispatcher = dispatcher
        self._patience = patience
        self._cors = cors

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """The worker's event loop is there."""
        self._dispatcher.run_on(loop)

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        """Answer one request."""
        incoming = from_rsgi(scope, protocol, self._patience)
        answer = await self._answer(incoming)
        if isinstance(answer, StreamingResponse):
            await answer.send(protocol)
        else:
            if "HTTP_EXPECT" in incoming.environ and incoming.deaf:
                answer = answer.bare()
            said = answer.headers
            if incoming.unread or incoming.spoiled:
                said = [*said, *await lingering_close.headers(incoming, self._patience)]
            protocol.response_bytes(answer.status, said, answer.body)
        if incoming.unread:
            await lingering_close.linger(incoming, self._patience)

    async def _answer(self, incoming: Request) -> Response | StreamingResponse:
        path: str = incoming.environ["PATH_INFO"]
        method: str = incoming.environ["REQUEST_METHOD"]
        segment = path[1 : path.find("/", 1)]
        if segment == "internal" and path.startswith(upload.PATH):
            segment = upload.PATH
        try:
            request_headers.check(incoming.environ)
            handler = self._routes.get((segment, method)) or self._other(segment, method)
            answer = handler(incoming)
            return answer if isinstance(answer, Response) else await answer
        except Exception as error:
            known = response_to(error)
            if known is None:
                log.exception("request failed", method=method, path=path)
                return self._refuse(incoming, 500, UNEXPECTED)
            return self._refuse(incoming, known.status, str(known), *known.headers)

    def _other(self, segment: str, method: str) -> Handler:
        """What answers a request that no hot route is for."""
        methods = self._methods.get(segment)
        if method == "OPTIONS":
            return lambda _incoming: responses.options(methods or responses.ALL_METHODS, self._cors)
        if methods is None:
            return self._fallback
        allowed = ("Allow", ", ".join(methods))
        message = f"{method} is not possible on /{segment}/…; {allowed[1]} is"
        return lambda incoming: self._refuse(incoming, 405, message, allowed)

    def _refuse(self, incoming: Request, status: int, message: str, *headers: responses.Header) -> Response:
        answer = responses.make(status, None, message, headers, self._cors)
        return answer._replace(body=b"") if incoming.environ["REQUEST_METHOD"] == "HEAD" else answer
