"""An answer that is sent while it is made."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

from broker import logs
from broker.http.responses import Header
from master.extensions.client_socket import ClientSocket
from master.extensions.errors import ClientGone, Failed

log = logs.get(__name__)

WINDOW_BYTES = 4 << 20  # sent and not yet arrived
_PAUSE_SECS = 0.005


class StreamingResponse:
    """Status 200, headers, and the pieces of a body."""

    def __init__(
        self,
        name: str,
        headers: list[Header],
        begun: bytes,
        pieces: AsyncGenerator[bytes, None],
        client: str,
        gone: asyncio.Future[None],
        patience: float,
    ) -> None:
        """`name` is that of the extension, `begun` the beginning of the body.

        `patience` is for how many seconds a client may take nothing.
        """
        self._name = name
        self._headers = headers
        self._begun = begun
        self._pieces = pieces
        self._client = client
        self._gone = gone
        self._patience = patience

    async def send(self, protocol: Any) -> None:
        """Send it; when it can't be finished the client sees that it was not."""
        sent = 0
        with ClientSocket(self._client) as peer:
            try:
                transport = protocol.response_stream(200, self._headers)
                await transport.send_bytes(self._begun)
                sent += len(self._begun)
                async for piece in self._pieces:
                    await transport.send_bytes(piece)
                    sent += len(piece)
                    await self._until_taken(peer, sent)
            except ClientGone as error:
                log.info("the client of an extension is gone", extension=self._name, sent=sent, reason=error)
                peer.cut()
            except Failed as error:
                log.error(
                    "an extension's answer was cut short",
                    extension=self._name,
                    sent=sent,
                    reason=error,
                    traceback=error.detail,
                )
                peer.cut()
            except BaseException:
                peer.cut()
                raise
            finally:
                await self._pieces.aclose()

    async def _until_taken(self, peer: ClientSocket, sent: int) -> None:
        """Wait while too much of the answer is on its way."""
        last = peer.received()
        moved = time.monotonic()
        while (received := peer.received()) is not None and sent - received > WINDOW_BYTES:
            if received != last:
                last, moved = received, time.monotonic()
            if self._gone.done():
                raise ClientGone("it closed the connection")
            if time.monotonic() - moved > self._patience:
                raise ClientGone(f"it took nothing for {self._patience:g} s")
            await asyncio.sleep(_PAUSE_SECS)
