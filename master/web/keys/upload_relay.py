"""Passes an upload on to a node.

Most clients can't send a body twice, and many don't follow a redirect of a PUT at all. So a body that is sent
without waiting for "100 Continue" is passed on while it comes in, up to a limit.
"""

from __future__ import annotations

from broker.http.environ import Environ
from broker.http.peer_client import PeerClient, PeerResponse
from broker.http.responses import Header
from broker.server.request import Request

_FLUSHED_BYTES = 20 << 20  # at least, in a second, by a node's disk, and from node to node
_PASSED_ON = (
    "CONTENT_TYPE",
    "HTTP_CONTENT_ENCODING",
    "HTTP_CONTENT_MD5",
    "HTTP_X_CHECKSUM_SHA256",
    "HTTP_IF_MATCH",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_UNMODIFIED_SINCE",
)
PASSED_BACK = ("ETag", "Retry-After")


async def relay(
    exchange: PeerClient, target: str, request: Request, *, begun: list[bytes], length: int | None, timeout: float
) -> PeerResponse:
    """PUT a request's body at a node; returns the node's response.

    `begun` is what was read of the body already, `length` that of the whole body in bytes, None when it is not known.
    `timeout` is for the response, in seconds. Raises `PeerFailed`, `BrokenBody` or `SlowClient`; the node then
    sees that the body was cut off.
    """
    try:
        exchange.begin("PUT", target, _headers(request.environ), length)
        sent = 0
        for piece in begun:
            await exchange.send(piece)
            sent += len(piece)
        while not exchange.has_response and (piece := await request.chunk()):
            await exchange.send(piece)
            sent += len(piece)
        if not exchange.has_response and length is None:
            await exchange.send(b"")
        return await exchange.response(timeout + 2 * sent / _FLUSHED_BYTES)
    finally:
        exchange.close()


def _headers(environ: Environ) -> list[Header]:
    return [(_name(name), environ[name]) for name in _PASSED_ON if environ.get(name)]


def _name(variable: str) -> str:
    return variable.removeprefix("HTTP_").replace("_", "-").title()
