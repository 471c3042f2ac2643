"""Closes a connection in stages, after a request whose body nobody wanted.

Closing a connection while bytes come in resets it, and a client that is sending never sees the response. So the
response is sent at once, and then what comes is read and dropped, for a while.

Assumed of Granian 2.8: it sends a response while the body still comes in, and closes the connection when the
application returns without having read all of the body.
"""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from broker.http import responses
from broker.http.responses import Header
from broker.refusals import Refused
from broker.server import connections
from broker.server.client_timeouts import ClientTimeouts
from broker.server.request import Request

WHOLE_SECS = 30.0
IDLE_SECS = 5.0  # without a byte
_OPEN_SECS = 0.25  # until the connection is closed for sending
_RESPONSE_SECS = 0.1  # until a response is surely written; reading earlier would ask a waiting client for its body
SHORT_BYTES = 256 * 1024  # a body of this length is read to its end, so that the connection can be used again

_finder = ThreadPoolExecutor(1, "linger")


async def headers(request: Request, timeouts: ClientTimeouts) -> list[Header]:
    """The headers of a response about its connection, when the body was not read; called before it is sent."""
    if request.unread and "HTTP_EXPECT" in request.environ and not request.waits:
        # Such a client must be asked for its body: the beginning is read and dropped, and `spoiled` tells what failed.
        with suppress(Refused), timeouts.wait(IDLE_SECS):
            await request.chunk()
    return [responses.CLOSE] if request.spoiled or (request.unread and not _stays(request)) else []


def _stays(request: Request) -> bool:
    """Whether the connection can be used again: the rest of the body is short, and on its way."""
    length = request.environ.get("CONTENT_LENGTH", "")
    told = "HTTP_TRANSFER_ENCODING" not in request.environ and "HTTP_EXPECT" not in request.environ
    return told and len(length) < 10 and int(length or 0) <= SHORT_BYTES


async def linger(request: Request, timeouts: ClientTimeouts) -> None:
    """Read and drop the rest of the body; called when the server has the response."""
    if request.waits:
        await asyncio.sleep(_RESPONSE_SECS)
    closing = None
    if not _stays(request):
        closing = asyncio.get_running_loop().call_later(
            _OPEN_SECS, lambda: _finder.submit(_finish_sending, request.client)
        )
    until = time.monotonic() + WHOLE_SECS
    try:
        while request.unread and (left := until - time.monotonic()) > 0:
            with timeouts.wait(min(IDLE_SECS, left)):
                await request.chunk()
    except Refused:
        return  # the client has gone, or sends nothing: the server closes the connection
    finally:
        if closing is not None:
            closing.cancel()


def _finish_sending(client: str) -> None:
    connection = connections.find(client)
    if connection is not None:
        with connection, suppress(OSError):  # the client has gone
            connection.shutdown(socket.SHUT_WR)
