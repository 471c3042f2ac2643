"""`GET|PUT /extension/{name}/{argument}/…?parameter=…`: runs an extension in a process of the pool."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs

from broker import logs
from broker.errors import ClientGone
from broker.http import responses
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.refusals import BadRequest
from broker.server.request import Request
from broker.server.streaming_response import StreamingResponse, note_gone
from master.extensions import frames
from master.extensions.bodies import Bodies
from master.extensions.errors import Failed, ProcessDied
from master.extensions.frames import Caller, Failure, Invocation
from master.extensions.loader import find
from master.extensions.pool import Pool

log = logs.get(__name__)

T = TypeVar("T")

PREFIX = "/extension/"
_BEGINNING, _END = responses.envelope(200, None, "ok").split(b"null", 1)
_CLIENT_GONE = 499  # the status that nginx logs when the client closed its request


class Extensions:
    """Runs the extensions of one web worker."""

    def __init__(
        self,
        directory: Path,
        pool: Pool,
        bodies: Bodies,
        timeout: float,
        *,
        caller: Callable[[Environ], Caller] = lambda _: Caller(),
    ) -> None:
        """`directory` has the extensions. Each may run for `timeout` seconds, and acts for the `caller` of a request.

        That raises `Refused`.
        """
        self._caller = caller
        self._directory = directory
        self._pool = pool
        self._bodies = bodies
        self._timeout = timeout

    async def __call__(self, request: Request) -> Response | StreamingResponse:
        """The response to one request. Raises `Refused`."""
        client = request.client
        name, arguments = _parts(request.environ["PATH_INFO"])
        find(self._directory, name)
        try:
            params = parse_qs(request.environ["QUERY_STRING"], keep_blank_values=True)
        except ValueError as error:
            raise BadRequest(f"the query can't be read: {error}") from error
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pieces = self._pieces(request, Invocation(name, arguments, params, None, self._caller(request.environ)), gone)
        headers = [("Content-Type", "application/json"), responses.NO_FRAMES]
        try:
            beginning = _BEGINNING + await anext(pieces)
            try:
                beginning += await anext(pieces)
            except StopAsyncIteration:  # this is all
                return Response(200, [*headers, ("Content-Length", str(len(beginning)))], beginning)
        except ClientGone as error:
            log.info("the client of an extension is gone", extension=name, client=client, reason=error)
            return responses.make_plain(_CLIENT_GONE, None, str(error), [responses.CLOSE])
        except Failed as error:
            if error.detail or error.status >= 500:
                fields = {"traceback": error.detail} if error.detail else {}
                log.error("extension failed", extension=name, status=error.status, reason=error, **fields)
            raise
        return StreamingResponse(
            name=f"extension {name}",
            headers=headers,
            beginning=beginning,
            pieces=pieces,
            client=client,
            gone=gone,
            max_pause=self._timeout,
        )

    async def _pieces(
        self, request: Request, invocation: Invocation, gone: asyncio.Future[None]
    ) -> AsyncGenerator[bytes, None]:
        """The body of the response without its beginning; raises `Failed`. At its end all that it used is free."""
        async with AsyncExitStack() as stack:
            if request.environ["REQUEST_METHOD"] == "PUT":
                path = await stack.enter_async_context(self._bodies.received(request))
                invocation = invocation._replace(file_path=path)
            stack.callback(asyncio.ensure_future(note_gone(request, gone)).cancel)
            reason = f"no process for extensions was free within {self._timeout:g} s"
            busy = Failed(503, f"{reason}; [extensions] processes says how many there are")
            busy.retry_after = max(1, round(self._timeout))
            await _within(stack.enter_async_context(self._pool.slot()), gone, self._timeout, busy)
            process = await self._pool.take()
            reusable = False
            left = self._timeout  # for the extension; the time in which the client reads does not count
            try:
                process.begin(invocation)
                kind = frames.READY
                while kind != frames.END:
                    since = time.monotonic()
                    kind, body = await _within(process.receive(), gone, left, self._late(invocation))
                    left -= time.monotonic() - since
                    if kind == frames.DATA:
                        yield body
                    elif kind == frames.FAILURE:
                        failure = Failure.decode(body)
                        reusable = failure.reusable
                        raise Failed(failure.status, failure.message, failure.traceback)
                    elif kind != frames.END:
                        culprit = f"the process of the extension {invocation.name}"
                        raise ProcessDied(f"{culprit} said {kind!r}, which it must not")
                reusable = frames.decode_flag(body)
            finally:
                if reusable:
                    self._pool.give_back(process)
                else:
                    await self._pool.discard(process)  # a client with a response may rely on it that nothing goes on
        yield _END

    def _late(self, invocation: Invocation) -> Failed:
        limit = f"{self._timeout:g} s, which is [extensions] timeout"
        return Failed(504, f"the extension {invocation.name} ran longer than {limit}, and was ended")


def _parts(path: str) -> tuple[str, list[str]]:
    """Name of the extension and arguments. The server has undone the percent-encoding and gives UTF-8 as latin-1."""
    text = path.removeprefix(PREFIX).encode("latin-1").decode("utf-8", "replace")
    name, _, rest = text.partition("/")
    return name, rest.removesuffix("/").split("/") if rest.strip("/") else []


async def _within(work: Awaitable[T], gone: asyncio.Future[None], secs: float, late: Failed) -> T:
    """The result of `work`. Raises `late` after `secs` seconds, `ClientGone` when the client has gone."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task, gone), timeout=max(0.0, secs), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone("it closed the connection") if gone.done() else late
    finally:
        task.cancel()
