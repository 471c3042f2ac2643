"""A server with applications that tell what Granian does: `python -m tests.unit.granian_app rsgi|asgi PORT`."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import socket
import sys
from typing import Any

from granian.constants import Interfaces

from broker.server import connections, request_headers, stopping
from broker.server.client_timeouts import ClientTimeouts
from broker.server.granian_requests import from_asgi, from_rsgi
from broker.server.request import BrokenBody, Request
from broker.server.web_server import Place, WebServer

SILENCE_SECS = 7.5
PIECE = b"x" * (1 << 20)
PIECES = 64  # more than sockets hold

ends: list[str] = []  # what became of each body that was read
sent = [0]  # pieces of a response that the server has taken


async def _facts(request: Request, timeouts: ClientTimeouts) -> dict[str, Any]:
    """What a path asks for, in JSON."""
    match request.environ["PATH_INFO"]:
        case "/read" | "/whole":
            ends.append("")
            try:
                if request.environ["PATH_INFO"] == "/whole":
                    length = len(await request.read(int(request.environ["CONTENT_LENGTH"])))
                else:
                    length = 0
                    while piece := await request.chunk():
                        length += len(piece)
                ends[-1] = f"{length} bytes"
            except BrokenBody:
                ends[-1] = "broken"
        case "/connection":
            found = connections.find(request.client)
            if found is None:
                return {"found": False}
            with found:
                timeout = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                return {"found": True, "timeout": timeout, "client": request.client}
        case "/hidden":
            return {"hidden": request.environ.get(request_headers.HIDDEN, "")}
    path = request.environ["PATH_INFO"]
    return {
        "ends": ends,
        "sent": sent[0],
        "pid": os.getpid(),
        "path": path,
        "length": request.environ.get("CONTENT_LENGTH"),
    }


def _close(request: Request) -> list[tuple[str, str]]:
    return [("connection", "close")] if request.unread else []


class Rsgi:
    """Speaks RSGI."""

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        connections.guard(int(os.environ["GRANIAN_TEST_PORT"]), SILENCE_SECS, 1)
        self._timeouts = ClientTimeouts(30, 1000)
        self._stopped = asyncio.Event()
        stopping.before(loop, self._stopped.set)

    async def __rsgi__(self, scope: Any, protocol: Any) -> None:
        request = from_rsgi(scope, protocol, self._timeouts)
        if request.environ["PATH_INFO"] == "/until-stopped":
            ends.append("waits")
            await self._stopped.wait()
        if request.environ["PATH_INFO"] == "/stream":
            transport = protocol.response_stream(200, [])
            for _ in range(PIECES):
                await transport.send_bytes(PIECE)
                sent[0] += 1
            return
        body = json.dumps(await _facts(request, self._timeouts)).encode()
        protocol.response_bytes(200, [("content-length", str(len(body))), *_close(request)], body)


class Asgi:
    """Speaks ASGI."""

    def __init__(self) -> None:
        connections.guard(int(os.environ["GRANIAN_TEST_PORT"]), SILENCE_SECS, 1)
        self._timeouts = ClientTimeouts(30, 1000)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = from_asgi(scope, receive, self._timeouts)
        if request.environ["PATH_INFO"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(PIECES):
                await send({"type": "http.response.body", "body": PIECE, "more_body": True})
                sent[0] += 1
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        body = json.dumps(await _facts(request, self._timeouts)).encode()
        given = [("content-length", str(len(body))), *_close(request)]
        headers = [(name.encode(), value.encode()) for name, value in given]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn", force=True)
    interface, port = sys.argv[1:]
    kinds = {"rsgi": ("Rsgi", Interfaces.RSGI), "asgi": ("Asgi", Interfaces.ASGINL)}
    name, kind = kinds[interface]
    stopped = WebServer(
        f"tests.unit.granian_app:{name}", kind, Place(os.environ["GRANIAN_TEST_HOST"], int(port)), 1
    ).serve()
    print("stopped by a signal" if stopped else "ended by itself")
