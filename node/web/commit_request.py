"""Tells the master of an upload, and brings back the response for the client."""

from __future__ import annotations

import asyncio
import ssl
import time

from broker import logs
from broker.errors import PulzarError
from broker.http import request_fields, signing
from broker.http.peer_client import PeerClient, PeerFailed
from broker.http.responses import NO_FRAMES, Response
from broker.messages.upload import PATH, SIGNATURE, UploadCommit

log = logs.get(__name__)

_MARGIN_SECS = 5.0  # for the way, beside the timeout of the master
_COPIED_BYTES = 20 << 20  # at least, in a second, from node to node
_PAUSE_SECS = 0.2  # between two attempts to reach the master
_RELAYED = ("Content-Type", "ETag", "Retry-After")


class Unreachable(PulzarError):
    """Raised when the master did not get the commit; nothing was stored."""


class ResponseLost(PulzarError):
    """Raised when the master got the commit and its response did not come; the value may be stored."""


class Committer:
    """Tells the master of uploads. Used on one event loop."""

    def __init__(self, secret: bytes, timeout: float, scheme: str, trusted: ssl.SSLContext) -> None:
        """`timeout` is the one of the master for a PUT, in seconds; `scheme` says how it is reached: https or http."""
        self._secret = secret
        self._scheme = scheme
        self._trusted = trusted
        self._timeout = timeout

    async def commit(self, address: str, key: str, query: str, upload: UploadCommit) -> Response:
        """Ask the master at `address` to store the upload under its key; returns the response for the client.

        `query` is the signed one of the client's request: it says what is permitted.
        Raises `Unreachable` or `ResponseLost`.
        """
        body = upload.encode()
        headers = [("Content-Type", "application/json"), (SIGNATURE, signing.sign_body(self._secret, body))]
        exchange = await self._connected(address)
        try:
            try:
                exchange.begin("POST", f"{PATH}{request_fields.quote_key(key)}?{query}", headers, len(body))
                await exchange.send(body)
            except PeerFailed as error:
                raise Unreachable(f"the master could not be told: {error}") from error
            try:
                # Where the value is to be on several nodes, the others fetch it from this one meanwhile.
                response = await exchange.response(self._timeout + _MARGIN_SECS + upload.size / _COPIED_BYTES)
            except PeerFailed as error:
                raise ResponseLost(f"the master's answer did not come: {error}") from error
            length = ("Content-Length", str(len(response.body)))
            return Response(response.status, [*response.picked(_RELAYED), length, NO_FRAMES], response.body)
        finally:
            exchange.close()

    async def _connected(self, address: str) -> PeerClient:
        """A connection to the master. It may be restarting, and a large upload is worth a wait."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return await PeerClient.connect(
                    f"{self._scheme}://{address}", self._timeout + _MARGIN_SECS, self._trusted
                )
            except PeerFailed as error:
                if time.monotonic() + _PAUSE_SECS > deadline:
                    raise Unreachable(f"the master {error}") from error
                log.debug("master not reached", address=address, reason=error)
                await asyncio.sleep(_PAUSE_SECS)
