"""The node's side of a commit: tells the master of an upload, and brings back what the client shall be answered."""

from __future__ import annotations

import asyncio
import json
import time
from typing import NamedTuple

from broker import logs
from broker.errors import PulzarError
from broker.http import request_fields, signing
from broker.http.peer_client import PeerClient, PeerFailed
from broker.http.responses import Response

log = logs.get(__name__)

PATH = "/skynet/commit/"
_MARGIN_SECS = 5.0  # the master answers within its own time; this is for the way
_PAUSE_SECS = 0.2  # between two attempts to reach the master
_RELAYED = ("Content-Type", "ETag", "Retry-After")


class Unreachable(PulzarError):
    """Raised when the master did not get the commit; nothing was stored."""


class AnswerLost(PulzarError):
    """Raised when the master got the commit and its answer did not come; the value may be stored."""


class FinishedUpload(NamedTuple):
    """What the master is told of an upload."""

    node: str
    staged: str
    size: int
    digest: str
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    if_match: str | None
    if_none_match: str | None
    if_unmodified_since: str | None


class Committer:
    """Of one event loop. `timeout` is the master's own, in seconds."""

    def __init__(self, secret: bytes, timeout: float) -> None:
        self._secret = secret
        self._timeout = timeout

    async def commit(self, address: str, key: str, query: str, upload: FinishedUpload) -> Response:
        """Have the master at `address` store the upload under its key; its answer, which is the client's.

        `query` is the signed one that the master sent the client here with: it says what was allowed.
        Raises `Unreachable` or `AnswerLost`.
        """
        body = json.dumps(upload._asdict()).encode()
        headers = [("Content-Type", "application/json"), ("X-Pulzar-Signature", signing.sign_body(self._secret, body))]
        exchange = await self._connected(address)
        try:
            try:
                exchange.begin("POST", f"{PATH}{request_fields.quote_key(key)}?{query}", headers, len(body))
                await exchange.send(body)
            except PeerFailed as error:
                raise Unreachable(f"the master could not be told: {error}") from error
            try:
                reply = await exchange.reply(self._timeout + _MARGIN_SECS)
            except PeerFailed as error:
                raise AnswerLost(f"the master's answer did not come: {error}") from error
            length = ("Content-Length", str(len(reply.body)))
            return Response(reply.status, [*reply.picked(_RELAYED), length], reply.body)
        finally:
            exchange.close()

    async def _connected(self, address: str) -> PeerClient:
        """A connection to the master, which may just be starting again: a large upload is worth some waiting."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return await PeerClient.connect(address, self._timeout + _MARGIN_SECS)
            except PeerFailed as error:
                if time.monotonic() + _PAUSE_SECS > deadline:
                    raise Unreachable(f"the master {error}") from error
                log.debug("master not reached", address=address, reason=error)
                await asyncio.sleep(_PAUSE_SECS)
