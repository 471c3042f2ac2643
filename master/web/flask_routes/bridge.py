"""Flask behind an asynchronous web server. Each of its requests gets a thread once its body is there."""

from __future__ import annotations

import asyncio
import io
import sys
from concurrent.futures import ThreadPoolExecutor
from wsgiref.types import WSGIApplication, WSGIEnvironment

from broker.http import request_fields
from broker.http.responses import Header, Response
from broker.refusals import TooLarge
from broker.server.request import Request

MAX_BYTES = 1 << 20  # of a request's body


class Bridge:
    """Runs a WSGI application on a pool of threads. No thread waits for a client."""

    def __init__(self, application: WSGIApplication, threads: int) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flask")

    async def __call__(self, request: Request) -> Response:
        """The response to one request. Raises `TooLarge`, `BrokenBody` or `SlowClient`."""
        body = await self._body(request) if request.environ["REQUEST_METHOD"] == "POST" else b""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, request.environ, body)

    async def _body(self, request: Request) -> bytes:
        length = request_fields.content_length(request.environ) or 0
        body = bytearray()
        while max(length, len(body)) <= MAX_BYTES and (piece := await request.chunk()):
            body += piece
        if max(length, len(body)) > MAX_BYTES:
            raise TooLarge(f"the body has more than {MAX_BYTES} bytes, the limit of this route")
        return bytes(body)

    def _run(self, environ: WSGIEnvironment, body: bytes) -> Response:
        begun: list[Response] = []

        def start_response(status: str, headers: list[Header], _error: object = None) -> None:
            begun.append(Response(int(status[:3]), headers))

        pieces = self._application(_complete(environ, body), start_response)  # type: ignore[arg-type]
        try:
            content = b"".join(pieces)  # an application may call `start_response` as late as here
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        return begun[-1]._replace(body=content)


def _complete(environ: WSGIEnvironment, body: bytes) -> WSGIEnvironment:
    """The environment of a request with all that WSGI asks for; its body is no longer chunked."""
    client, _, client_port = environ["REMOTE_ADDR"].rpartition(":")
    server, _, server_port = environ["SERVER_NAME"].rpartition(":")
    complete = environ | {
        "QUERY_STRING": environ["QUERY_STRING"].encode().decode("latin-1"),  # bytes as WSGI has them
        "CONTENT_LENGTH": str(len(body)),
        "REMOTE_ADDR": client,
        "REMOTE_PORT": client_port,
        "SERVER_NAME": server,
        "SERVER_PORT": server_port,
        "SCRIPT_NAME": "",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    complete.pop("HTTP_TRANSFER_ENCODING", None)
    return complete
