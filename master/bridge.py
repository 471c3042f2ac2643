"""Flask behind an asynchronous web server: each of its requests gets a thread."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from broker.http import Answer
from master.incoming import Incoming

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Bridge:
    """Runs a WSGI application, on up to `threads` threads."""

    def __init__(self, application: Wsgi, threads: int) -> None:
        self._application = application
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flask")

    async def __call__(self, incoming: Incoming) -> Answer:
        """Answer one request."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._run, incoming, loop)

    def _run(self, incoming: Incoming, loop: asyncio.AbstractEventLoop) -> Answer:
        incoming.name_peers()
        environ = incoming.environ | {
            "SCRIPT_NAME": "",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": incoming.stream(loop),
            "wsgi.input_terminated": True,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        begun: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: Any = None) -> None:
            begun[:] = int(status[:3]), headers

        body = self._application(environ, start_response)
        try:
            content = b"".join(body)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()
        return Answer(begun[0], begun[1], content)
