"""Flask behind an asynchronous web server. Each of its requests gets a thread once its body is there."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import SpooledTemporaryFile
from wsgiref.types import WSGIApplication, WSGIEnvironment

from broker.http import request_fields
from broker.http.responses import Header, Response
from broker.refusals import TooLarge
from broker.server.request import Request
from master.security.audit import ABOUT

MAX_BYTES = 1 << 20  # of a request's body in memory, and of any body unless its path may have more

Body = io.BytesIO | SpooledTemporaryFile[bytes]


class Bridge:
    """Runs a WSGI application on a pool of threads. No thread waits for a client."""

    def __init__(
        self,
        application: WSGIApplication,
        threads: int,
        *,
        most: Callable[[str], int] = lambda _: MAX_BYTES,
        directory: Path | None = None,
    ) -> None:
        """`most`: bytes that the body of a path may have. Behind `MAX_BYTES` it goes to a file without a name.

        That is in `directory`.
        """
        self._application = application
        self._most = most
        self._directory = None if directory is None else str(directory)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flask")

    async def __call__(self, request: Request) -> Response:
        """The response to one request. Raises `TooLarge`, `BrokenBody` or `SlowClient`."""
        with await self._body(request) if request.environ["REQUEST_METHOD"] == "POST" else io.BytesIO() as body:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, request.environ, body)

    async def _body(self, request: Request) -> Body:
        length = request_fields.content_length(request.environ) or 0
        most = self._most(request.environ["PATH_INFO"])
        body = SpooledTemporaryFile(MAX_BYTES, dir=self._directory)  # noqa: SIM115 - the caller closes it
        total = 0
        try:
            while max(length, total) <= most and (piece := await request.chunk()):
                total += len(piece)
                if total > MAX_BYTES:
                    await asyncio.get_running_loop().run_in_executor(self._pool, body.write, piece)
                else:
                    body.write(piece)
            if max(length, total) > most:
                raise TooLarge(f"the body has more than {most} bytes, the limit of this route")
        except BaseException:
            body.close()
            raise
        return body

    def _run(self, environ: WSGIEnvironment, body: Body) -> Response:
        begun: list[Response] = []

        def start_response(status: str, headers: list[Header], _error: object = None) -> None:
            begun.append(Response(int(status[:3]), headers))

        complete = _complete(environ, body)
        pieces = self._application(complete, start_response)  # type: ignore[arg-type]
        try:
            content = b"".join(pieces)  # an application may call `start_response` as late as here
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        if ABOUT in complete:
            environ[ABOUT] = complete[ABOUT]
        return begun[-1]._replace(body=content)


def _complete(environ: WSGIEnvironment, body: Body) -> WSGIEnvironment:
    """The environment of a request with all that WSGI asks for; its body is no longer chunked."""
    client, _, client_port = environ["REMOTE_ADDR"].rpartition(":")
    server, _, server_port = environ["SERVER_NAME"].rpartition(":")
    length = body.tell()  # it was written up to here
    body.seek(0)
    complete = environ | {
        "QUERY_STRING": environ["QUERY_STRING"].encode().decode("latin-1"),  # bytes as WSGI has them
        "CONTENT_LENGTH": str(length),
        "REMOTE_ADDR": client,
        "REMOTE_PORT": client_port,
        "SERVER_NAME": server,
        "SERVER_PORT": server_port,
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.input": body,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    complete.pop("HTTP_TRANSFER_ENCODING", None)
    return complete
