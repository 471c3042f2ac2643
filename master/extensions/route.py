"""`GET|PUT /extension/{name}/{argument}/…?parameter=…`: runs an extension, in a process of the pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

from broker import logs
from broker.http import responses
from broker.http.responses import Response
from broker.refusals import BadRequest
from broker.server.request import Request
from master.extensions import frames
from master.extensions.bodies import Bodies
from master.extensions.errors import ClientGone, Failed, ProcessDied
from master.extensions.frames import Failure, Invocation
from master.extensions.loader import find
from master.extensions.pool import Pool
from master.extensions.streaming_response import StreamingResponse

log = logs.get(__name__)

T = TypeVar("T")

PREFIX = "/extension/"
_BEFORE, _AFTER = responses.envelope(200, None, "ok").split(b"null", 1)
_NOBODY = 499  # what nginx writes down when the client closed its request; nobody reads it


class Extensions:
    """Of one web worker."""

    def __init__(self, directory: Path, pool: Pool, bodies: Bodies, timeout: float, cors: str) -> None:
        self._directory = directory
        self._pool = pool
        self._bodies = bodies
        self._timeout = timeout
        self._cors = cors

    async def __call__(self, incoming: Request) -> Response | StreamingResponse:
        """Answer one request."""
        client = incoming.client
        name, arguments = _parts(incoming.environ["PATH_INFO"])
        find(self._directory, name)
        try:
            params = parse_qs(incoming.environ["QUERY_STRING"], keep_blank_values=True)
        except ValueError as error:
            raise BadRequest(f"the query can't be read: {error}") from error
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pieces = self._pieces(incoming, Invocation(name, arguments, params, None), gone)
        try:
            begun = _BEFORE + await anext(pieces)
            try:
                begun += await anext(pieces)
            except StopAsyncIteration:
                own = [("Content-Type", "application/json"), ("Content-Length", str(len(begun)))]
                return Response(200, [*own, *responses.cors_headers(self._cors)], begun)
        except ClientGone as error:
            log.info("the client of an extension is gone", extension=name, client=client, reason=error)
            return responses.make(_NOBODY, None, str(error), [responses.CLOSE], self._cors)
        except Failed as error:
            if error.detail or error.status >= 500:
                more_fields = {"traceback": error.detail} if error.detail else {}
                log.error("extension failed", extension=name, status=error.status, reason=error, **more_fields)
            raise
        headers = [("Content-Type", "application/json"), *responses.cors_headers(self._cors)]
        return StreamingResponse(name, headers, begun, pieces, client, gone, self._timeout)

    async def _pieces(
        self, incoming: Request, request: Invocation, gone: asyncio.Future[None]
    ) -> AsyncGenerator[bytes, None]:
        """The body of the answer without its beginning; raises `Failed`. What the request needs is freed at its end."""
        async with AsyncExitStack() as stack:
            if incoming.environ["REQUEST_METHOD"] == "PUT":
                path = await stack.enter_async_context(self._bodies.received(incoming))
                request = request._replace(file_path=path)
            watching = asyncio.ensure_future(_watch(incoming, gone))
            stack.callback(watching.cancel)
            waited = f"no process for extensions was free within {self._timeout:g} s; [extensions] processes says how many there are"
            busy = Failed(503, waited, retry_after=max(1, round(self._timeout)))
            await _within(stack.enter_async_context(self._pool.slot()), gone, self._timeout, busy)
            process = await self._pool.take()
            go_on = False
            left = self._timeout  # for the extension; what the client takes to read does not count
            try:
                process.begin(request)
                kind = frames.READY
                while kind != frames.END:
                    since = time.monotonic()
                    kind, content = await _within(process.receive(), gone, left, self._late(request))
                    left -= time.monotonic() - since
                    if kind == frames.DATA:
                        yield content
                    elif kind == frames.FAILURE:
                        failure = Failure(*content)
                        go_on = failure.go_on
                        raise Failed(failure.status, failure.message, failure.traceback)
                    elif kind != frames.END:
                        raise ProcessDied(
                            f"the process of the extension {request.name} said {kind!r}, which it must not"
                        )
                go_on = content
            finally:
                if go_on:
                    self._pool.give_back(process)
                else:
                    await self._pool.discard(process)  # whoever is answered may rely on it that nothing goes on
        yield _AFTER

    def _late(self, request: Invocation) -> Failed:
        return Failed(
            504,
            f"the extension {request.name} ran longer than {self._timeout:g} s, which is [extensions] timeout, and was ended",
        )


def _parts(path: str) -> tuple[str, list[str]]:
    """Name of the extension and arguments; the server has undone the percent-encoding, and gives UTF-8 as latin-1."""
    text = path.removeprefix(PREFIX).encode("latin-1").decode("utf-8", "replace")
    name, _, rest = text.partition("/")
    return name, rest.removesuffix("/").split("/") if rest.strip("/") else []


async def _watch(incoming: Request, gone: asyncio.Future[None]) -> None:
    await incoming.gone()
    if not gone.done():
        gone.set_result(None)


async def _within(work: Awaitable[T], gone: asyncio.Future[None], secs: float, late: Failed) -> T:
    """What the work gives; raises `late` after so many seconds, `ClientGone` when nobody waits any more."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, gone), timeout=max(0.0, secs), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("it closed the connection") if gone.done() else late
    finally:
        task.cancel()
