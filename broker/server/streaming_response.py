"""A response that is sent while it is made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from granian.rsgi import HTTPProtocol  # type: ignore[attr-defined]

from broker import logs
from broker.errors import ClientGone
from broker.http.responses import Header
from broker.refusals import Refused
from broker.server.client_socket import ClientSocket
from broker.server.request import Request

log = logs.get(__name__)

WINDOW_BYTES = 4 << 20  # sent, and not yet acknowledged by the client's side
_POLL_SECS = 0.005


@dataclass(frozen=True, kw_only=True)
class StreamingResponse:
    """A good response whose body comes in pieces."""

    name: str  # what it is, for the log
    headers: list[Header]
    beginning: bytes  # of the body
    pieces: AsyncGenerator[bytes, None]  # the rest of it
    client: str  # address and port
    gone: asyncio.Future[None]  # done when the client has closed the connection
    max_pause: float  # seconds that a client may take nothing
    status: int = 200

    async def send(self, protocol: HTTPProtocol) -> None:
        """Send all of it. When that fails, cut the connection, so that the client sees that it is not complete."""
        sent = 0
        with ClientSocket(self.client) as peer:
            try:
                transport = protocol.response_stream(self.status, self.headers)
                await transport.send_bytes(self.beginning)
                sent += len(self.beginning)
                async for piece in self.pieces:
                    await transport.send_bytes(piece)
                    sent += len(piece)
                    await self._wait_for_room(peer, sent)
            except ClientGone as error:
                log.info("the client of a response is gone", response=self.name, sent=sent, reason=error)
                peer.cut()
            except Refused as error:
                fields = {"traceback": error.detail} if error.detail else {}
                log.error("a response was cut short", response=self.name, sent=sent, reason=error, **fields)
                peer.cut()
            except BaseException:
                peer.cut()
                raise
            finally:
                await self.pieces.aclose()

    async def _wait_for_room(self, peer: ClientSocket, sent: int) -> None:
        """Returns when at most `WINDOW_BYTES` are on their way; raises `ClientGone`."""
        last = peer.received()
        moved = time.monotonic()
        while (received := peer.received()) is not None and sent - received > WINDOW_BYTES:
            if received != last:
                last, moved = received, time.monotonic()
            if self.gone.done():
                raise ClientGone("it closed the connection")
            if time.monotonic() - moved > self.max_pause:
                raise ClientGone(f"it took nothing for {self.max_pause:g} s")
            await asyncio.sleep(_POLL_SECS)


async def note_gone(request: Request, gone: asyncio.Future[None]) -> None:
    """Waits until the client of a request has closed its connection, and says so in `gone`."""
    await request.gone()
    if not gone.done():
        gone.set_result(None)
