"""`GET|HEAD /ui/keys/value?key=` and `GET /ui/keys/archive?prefix=`: what a browser shows or saves, in a session.

The bytes of a large value pass through this worker. So a page needs no address of a node, which a browser might not
reach, and no address that is good without the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from urllib.parse import quote, urlencode

from broker import keys
from broker.clock import now_ms
from broker.contract.kinds import Flag
from broker.contract.parameters import Parameter
from broker.errors import ClientGone
from broker.http import values
from broker.http.ranges import Span
from broker.http.responses import Header, Response
from broker.http.values import Plan
from broker.refusals import Unavailable
from broker.server.request import Request
from broker.server.streaming_response import StreamingResponse, note_gone
from master.cluster.nodes import Nodes, missing
from master.index.index import Entry, Index
from master.web.application import Handler, ResponseStream
from master.web.keys import archives, parameters
from master.web.ui.keys.preview import Kind, embedded
from master.web.ui.keys.reader import ValueReader

SAVE = Parameter("save", Flag(), "1: to be saved, not shown.", default=False)
MOST = 32  # values that one web worker sends so at once
_BUSY_SECS = 5  # after which to ask again
# No other site may have it in a page or a frame.
_OWN: tuple[Header, ...] = (("Cross-Origin-Resource-Policy", "same-origin"), ("X-Frame-Options", "SAMEORIGIN"))

Archive = Callable[[Request], Awaitable[Response | ResponseStream]]


class Values:
    """Sends values and archives to browsers with a session."""

    def __init__(self, index: Index, network: Nodes, reader: ValueReader, archive: Archive, secs: float) -> None:
        """A client may take nothing for `secs` seconds."""
        self._index = index
        self._network = network
        self._reader = reader
        self._archive = archive
        self._secs = secs
        self._streams = 0

    def routes(self) -> dict[str, dict[str, Handler]]:
        """The routes that lead here."""
        return {"/ui/keys/value": {"GET": self.value, "HEAD": self.value}, "/ui/keys/archive": {"GET": self.archive}}

    async def value(self, request: Request) -> Response | StreamingResponse:
        """A value, or ranges of it. Types that no element shows safely are only saved. Raises `Refused`."""
        environ = request.environ
        given = parameters.parameters(environ["QUERY_STRING"])
        key = keys.check(given.get("key", ""))
        entry = self._index.get(keys.encode(key))
        if entry is None or not entry.live(now_ms()):
            raise missing(key, self._network)
        resource = values.resource(key, entry)
        plan = values.plan(environ, resource)
        headers = [*plan.headers, *_OWN]
        if SAVE.read(given) or embedded(resource.content_type) is Kind.NONE:
            name = quote(key.rpartition("/")[2], safe="")
            headers.append(("Content-Disposition", f"attachment; filename*=UTF-8''{name}"))
        if entry.value is not None or not plan.ranges:
            return Response(plan.status, headers, plan.body(entry.value))
        if self._streams >= MOST:
            busy = f"{MOST} values are being shown, which is the most at once; try again in a moment"
            raise Unavailable(busy, _BUSY_SECS)
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pieces = self._pieces(request, gone, key, entry, plan)
        return StreamingResponse(
            name=f"value of {key}",
            status=plan.status,
            headers=headers,
            beginning=await anext(pieces),
            pieces=pieces,
            client=request.client,
            gone=gone,
            max_pause=self._secs,
        )

    async def archive(self, request: Request) -> Response | ResponseStream:
        """All values below a prefix, as `GET /archive/{prefix}` sends them."""
        given = parameters.parameters(request.environ["QUERY_STRING"])
        prefix = keys.beginning(given.get("prefix", ""))
        request.environ["PATH_INFO"] = archives.PATH + prefix.encode().decode("latin-1")
        request.environ["QUERY_STRING"] = urlencode({"format": given.get("format", "tar")})
        return await self._archive(request)

    async def _pieces(
        self, request: Request, gone: asyncio.Future[None], key: str, entry: Entry, plan: Plan
    ) -> AsyncGenerator[bytes, None]:
        self._streams += 1
        watch = asyncio.ensure_future(note_gone(request, gone))
        try:
            for part in plan.pieces():
                if not isinstance(part, Span):
                    yield part
                    continue
                async with aclosing(self._reader.pieces(key, entry, part)) as pieces:
                    async for piece in pieces:
                        if gone.done():
                            raise ClientGone("it closed the connection")
                        yield piece
        finally:
            watch.cancel()
            self._streams -= 1
