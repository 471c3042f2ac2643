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


async def headers(incoming: Request, patience: ClientTimeouts) -> list[Header]:
    """What an answer says of its connection when the body was not read, or could not be; to be called before it is given."""
    if incoming.unread and "HTTP_EXPECT" in incoming.environ and not incoming.waits:
        with (
            suppress(Refused),
            patience.wait(IDLE_SECS),
        ):  # who must be asked first is: the beginning is read and dropped
            await incoming.chunk()
    return [responses.CLOSE] if incoming.spoiled or (incoming.unread and not _stays(incoming)) else []


def _stays(incoming: Request) -> bool:
    """Whether the connection is of use afterwards: what is left is short, and on its way."""
    length = incoming.environ.get("CONTENT_LENGTH", "")
    told = "HTTP_TRANSFER_ENCODING" not in incoming.environ and "HTTP_EXPECT" not in incoming.environ
    return told and len(length) < 10 and int(length or 0) <= SHORT_BYTES


async def linger(incoming: Request, patience: ClientTimeouts) -> None:
    """Read and drop what is left of the body; to be called when the answer was given to the server."""
    if incoming.waits:
        await asyncio.sleep(_ANSWER_SECS)
    closing = None
    if not _stays(incoming):
        closing = asyncio.get_running_loop().call_later(
            _OPEN_SECS, lambda: _finder.submit(_finish_sending, incoming.client)
        )
    until = time.monotonic() + WHOLE_SECS
    try:
        while incoming.unread and (left := until - time.monotonic()) > 0:
            with patience.wait(min(IDLE_SECS, left)):
                await incoming.chunk()
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
