"""Passes an upload on to a node.

Most clients can't send a body twice, and many don't follow a redirect of a PUT at all. So what is sent
without waiting to be told where is passed on while it comes in, up to a limit.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from broker import logs
from broker.exchange import Exchange, PeerFailed, Reply
from broker.http import Header
from broker.incoming import Incoming
from broker.refusals import Unavailable

log = logs.get(__name__)

TIMEOUT_SECS = 60.0  # in which a node takes something, or answers
_PASSED_ON = (
    "CONTENT_TYPE", "HTTP_CONTENT_ENCODING", "HTTP_CONTENT_MD5", "HTTP_X_CHECKSUM_SHA256",
    "HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_IF_UNMODIFIED_SINCE",
)  # fmt: skip
PASSED_BACK = ("ETag", "Retry-After")


async def relay(location: str, begun: list[bytes], incoming: Incoming, length: int | None) -> Reply:
    """PUT what was read of the body and the rest of it at `location`; the node's answer.

    `length` is that of the whole body, None when it is not known. Raises `Broken`, `SlowClient` or `Unavailable`;
    then the node knows the body for cut off, too.
    """
    url = urlsplit(location)
    try:
        exchange = await Exchange.connect(url.netloc, TIMEOUT_SECS)
        try:
            exchange.begin("PUT", f"{url.path}?{url.query}", _headers(incoming.environ), length)
            for piece in begun:
                await exchange.send(piece)
            while not exchange.answered and (piece := await incoming.chunk()):
                await exchange.send(piece)
            if not exchange.answered and length is None:
                await exchange.send(b"")
            return await exchange.reply()
        finally:
            exchange.close()
    except PeerFailed as error:
        log.warning("upload could not be passed on", node=url.netloc, error=error)
        raise Unavailable(f"the node could not take the value: {error}") from error


def _headers(environ: dict[str, Any]) -> list[Header]:
    return [(_name(name), environ[name]) for name in _PASSED_ON if environ.get(name)]


def _name(variable: str) -> str:
    return variable.removeprefix("HTTP_").replace("_", "-").title()
