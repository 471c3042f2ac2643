"""The bytes of an upload on their way to the other nodes that are to have the value, while they come in.

Each node stages them, as this one does, and makes them durable. The commit of the upload says who has them. A node that
fails or stands still is left behind: the master has the value fetched by another one then.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import ssl
from collections.abc import Coroutine, Sequence

from broker import logs
from broker.http import internal_addresses
from broker.http.peer_client import PeerClient, PeerFailed, PeerResponse
from broker.messages.upload import FurtherNode, StagedCopy
from node.storage.staging import StagedUpload

log = logs.get(__name__)

STALL_SECS = 10.0  # that a node may take nothing, or not answer
REMOVE_SECS = 3.0  # the same, for what nobody needs any more
_FLUSHED_BYTES = 20 << 20  # at least, in a second


class _Stream:
    """The upload at one other node. It is over when `failed`."""

    def __init__(self, other: FurtherNode, secret: bytes) -> None:
        self.node = other.node
        self.token = secrets.token_hex(16)
        self.failed = False
        self.response: PeerResponse | None = None
        self._url = other.url
        self._secret = secret
        self._exchange: PeerClient | None = None

    async def open(self, length: int | None, trusted: ssl.SSLContext) -> None:
        exchange = self._exchange = await PeerClient.connect(self._url, STALL_SECS, trusted)
        exchange.begin("POST", self._target("POST", length), (), length)

    async def send(self, chunk: bytes) -> None:
        assert self._exchange is not None
        await self._exchange.send(chunk)
        if self._exchange.has_response:
            await self.end(chunked=False, size=0)
            raise PeerFailed(f"it refuses the upload: {self.response.body[:200]!r}" if self.response else "it refuses")

    async def end(self, *, chunked: bool, size: int) -> None:
        """Wait until the node has the upload, durable."""
        assert self._exchange is not None
        if chunked:
            await self._exchange.send(b"")
        self.response = await self._exchange.response(STALL_SECS + size / _FLUSHED_BYTES)
        if self.response.status != 201:
            raise PeerFailed(f"it answered with status {self.response.status}: {self.response.body[:200]!r}")

    def digest(self) -> str:
        """The SHA-256 of what the node has, as it says; "" when it has nothing."""
        try:
            return str(json.loads(self.response.body)["data"]["digest"]) if self.response else ""
        except (ValueError, LookupError, TypeError):  # no answer of a node
            return ""

    async def remove(self, trusted: ssl.SSLContext) -> None:
        """Have the node remove what it has staged."""
        exchange = await PeerClient.connect(self._url, REMOVE_SECS, trusted)
        try:
            exchange.begin("DELETE", self._target("DELETE", None), (), 0)
            await exchange.response(REMOVE_SECS)
        finally:
            exchange.close()

    @property
    def begun(self) -> bool:
        """Whether the node may have a part of it."""
        return self._exchange is not None

    def close(self) -> None:
        """Close the connection. An upload that is not complete is removed by its node then."""
        if self._exchange is not None:
            self._exchange.close()

    def _target(self, method: str, length: int | None) -> str:
        fields = {"token": self.token} | ({} if length is None else {"size": str(length)})
        return internal_addresses.make(self._secret, internal_addresses.STAGED, fields, self.node, method=method)


class CopyStreams:
    """The streams of one upload. Nothing that happens to them makes the upload fail."""

    def __init__(
        self, further: Sequence[FurtherNode], length: int | None, secret: bytes, trusted: ssl.SSLContext
    ) -> None:
        """`length` is that of the body, None when it is not known."""
        self._streams = [_Stream(other, secret) for other in further]
        self._length = length
        self._trusted = trusted

    async def open(self) -> None:
        """Connect to all nodes."""
        await self._each([(stream, stream.open(self._length, self._trusted)) for stream in self._streams])

    async def send(self, chunk: bytes) -> None:
        """Send bytes to all nodes that still take them; as fast as the slowest does."""
        await self._each([(stream, stream.send(chunk)) for stream in self._alive()])

    async def end(self, size: int) -> None:
        """Wait until all nodes that took it have the upload of `size` bytes, durable."""
        chunked = self._length is None
        await self._each([(stream, stream.end(chunked=chunked, size=size)) for stream in self._alive()])

    def copies(self, staged: StagedUpload) -> list[StagedCopy]:
        """The nodes that have the same bytes, durable."""
        for stream in self._alive():
            if stream.digest() != staged.sha256.hex():
                stream.failed = True
                log.error("a node has other bytes than were sent to it", node=stream.node, upload=stream.token)
        return [StagedCopy(stream.node, stream.token) for stream in self._alive()]

    async def close(self, *, keep: bool) -> None:
        """Close all connections. Nothing stays at a node that was left behind, and with `keep` false at none."""
        for stream in self._streams:
            stream.close()
        useless = [stream for stream in self._streams if stream.begun and (stream.failed or not keep)]
        await self._each([(stream, stream.remove(self._trusted)) for stream in useless])

    def _alive(self) -> list[_Stream]:
        return [stream for stream in self._streams if not stream.failed]

    async def _each(self, work: Sequence[tuple[_Stream, Coroutine[None, None, None]]]) -> None:
        await asyncio.gather(*(self._try(stream, task) for stream, task in work))

    async def _try(self, stream: _Stream, task: Coroutine[None, None, None]) -> None:
        try:
            await task
        except PeerFailed as error:
            stream.failed = True
            stream.close()
            log.warning("upload is not sent on to a node", node=stream.node, upload=stream.token, reason=error)
