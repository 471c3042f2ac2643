"""Flask behind an asynchronous web server: each of its requests gets a thread, when its body is there."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broker.http import request_fields
from broker.http.responses import Response
from broker.refusals import TooLarge
from broker.server.request import Request

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]

MOST_BYTES = 1 << 20  # of a request's body


class Bridge:
    """Runs a WSGI application, on up to `threads` threads. None of them waits for a client."""

    def __init__(self, application: Wsgi, threads: int) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flask")

    async def __call__(self, incoming: Request) -> Response:
        """Answer one request."""
        body = await self._body(incoming) if incoming.environ["REQUEST_METHOD"] == "POST" else b""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, incoming.environ, body)

    async def _body(self, incoming: Request) -> bytes:
        pieces: list[bytes] = []
        size = request_fields.content_length(incoming.environ) or 0
        if size <= MOST_BYTES:
            size = 0
            while size <= MOST_BYTES and (piece := await incoming.chunk()):
                pieces.append(piece)
                size += len(piece)
        if size > MOST_BYTES:
            raise TooLarge(f"the body has more than {MOST_BYTES} bytes, the limit of this route")
        return b"".join(pieces)

    def _run(self, given: dict[str, Any], content: bytes) -> Response:
        client, _, client_port = given["REMOTE_ADDR"].rpartition(":")
        server, _, server_port = given["SERVER_NAME"].rpartition(":")
        environ = given | {
            "CONTENT_LENGTH": str(len(content)),
            "REMOTE_ADDR": client,
            "REMOTE_PORT": client_port,
            "SERVER_NAME": server,
            "SERVER_PORT": server_port,
            "SCRIPT_NAME": "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(content),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        begun: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            begun[:] = int(status[:3]), headers

        body = self._application(environ, start_response)
        try:
            text = b"".join(body)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        return Response(begun[0], begun[1], text)
