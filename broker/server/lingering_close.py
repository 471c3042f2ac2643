"""The end of a request whose body nobody wanted: its connection is closed in stages.

Who closes a connection on which bytes are still coming in resets it, and a client that is sending then never sees
its answer. So the answer is sent at once; then what comes is read and dropped, for a while.
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
_OPEN_SECS = 0.25  # before the client is told that nothing more will be sent
_ANSWER_SECS = 0.1  # until an answer is surely written; reading before that would ask a waiting client for its body
SHORT_BYTES = 256 * 1024  # a body that is read to its end, so that the connection stays of use

_finder = ThreadPoolExecutor(1, "linger")


async def headers(request: Request, timeouts: ClientTimeouts) -> list[Header]:
    """What an answer says of its connection when the body was not read, or could not be; to be called before it is given."""
    if request.unread and "HTTP_EXPECT" in request.environ and not request.waits:
        with (
            suppress(Refused),
            timeouts.wait(IDLE_SECS),
        ):  # who must be asked first is: the beginning is read and dropped
            await request.chunk()
    return [responses.CLOSE] if request.spoiled or (request.unread and not _stays(request)) else []


def _stays(request: Request) -> bool:
    """Whether the connection is of use afterwards: what is left is short, and on its way."""
    length = request.environ.get("CONTENT_LENGTH", "")
    told = "HTTP_TRANSFER_ENCODING" not in request.environ and "HTTP_EXPECT" not in request.environ
    return told and len(length) < 10 and int(length or 0) <= SHORT_BYTES


async def linger(request: Request, timeouts: ClientTimeouts) -> None:
    """Read and drop what is left of the body; to be called when the answer was given to the server."""
    if request.waits:
        await asyncio.sleep(_ANSWER_SECS)
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
