"""`GET|HEAD /get_key/{key}?wait=30`: answered when the value is another one than the client has.

That is when a plain read would not say 304; or, without a condition, when there is a value. A request that waits has no
thread. It is woken when something became of its own key, and then is a read like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from broker import keys
from broker.clock import now_ms
from broker.http import request_fields
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.refusals import NotFound, Unavailable
from broker.server.request import Request
from master.events.hub import STOPPING, Hub
from master.index.index import Index
from master.metrics import figures
from master.metrics.figures import REQUESTS
from master.web.keys import parameters
from master.web.keys.reads import Reads

BUSY_SECS = 10  # after which to ask again
_PATH = "/get_key/"


class WaitingReads:
    """The handler of reads in a web worker, those that wait among them."""

    def __init__(
        self, reads: Reads, index: Index, hub: Hub, admit: Callable[[dict[str, str]], None], *, most: int
    ) -> None:
        """`admit` raises unless a request may be answered. `most` requests wait at once."""
        self._reads = reads
        self._index = index
        self._hub = hub
        self._admit = admit
        self._most = most

    def __call__(self, request: Request) -> Response | Awaitable[Response]:
        """Respond to one request; raises `Refused` or `InvalidKey`."""
        query = request.environ["QUERY_STRING"]
        if "wait" in query and (given := parameters.parameters(query).get("wait")) is not None:
            return self._wait(request, parameters.WAIT.of_text(given))
        return self._reads(request)

    async def _wait(self, request: Request, secs: float) -> Response:
        environ, hub = request.environ, self._hub
        key = request_fields.key_of(environ, _PATH)
        if (response := self._answer(environ, key)) is not None:
            return response
        if hub.waiting >= self._most:
            raise Unavailable(
                f"{hub.waiting} requests wait for keys here, and {self._most} is the limit ([server] waiters);"
                " try again in a while",
                BUSY_SECS,
            )
        request.route = REQUESTS.other  # how long it waits says nothing of how long reads take
        encoded = keys.encode(key)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + secs
        gone = asyncio.ensure_future(request.gone())
        try:
            while not gone.done() and (left := deadline - loop.time()) > 0:
                changed = hub.expect(encoded)
                figures.WAITERS.set(hub.waiting)
                try:
                    # Only now it is sure that nothing is missed.
                    if (response := self._answer(environ, key)) is not None:
                        return response
                    await _first(changed, gone, min(left, self._lifetime(encoded)))
                finally:
                    hub.forget(encoded, changed)
                    figures.WAITERS.set(hub.waiting)
                if hub.stopping:
                    raise Unavailable(STOPPING)
                self._admit(environ)
        finally:
            gone.cancel()
        return self._reads.respond(environ, key)

    def _answer(self, environ: Environ, key: str) -> Response | None:
        """The response that a plain read gets; None for one that says that nothing has changed. Raises `Refused`."""
        try:
            response = self._reads.respond(environ, key)
        except NotFound:
            if "HTTP_IF_NONE_MATCH" in environ:  # the value that the client has is gone
                raise
            return None
        return None if response.status == 304 else response

    def _lifetime(self, key: bytes) -> float:
        """Seconds until the value of an encoded key ends by itself."""
        entry = self._index.get(key)
        now = now_ms()
        return (entry.expires - now) / 1000 if entry and entry.expires > now else parameters.MOST_WAIT_SECS


async def _first(changed: asyncio.Future[None], gone: asyncio.Future[None], secs: float) -> None:
    """Returns when one of the two is done, or after so many seconds."""

    def wake(*_: object) -> None:
        if not changed.done():
            changed.set_result(None)

    timer = asyncio.get_running_loop().call_later(secs, wake)
    gone.add_done_callback(wake)
    try:
        await changed
    finally:
        timer.cancel()
        gone.remove_done_callback(wake)
