"""`GET|HEAD /get_key/{key}` on a node: the bytes of a value, as RFC 9110 wants them served.

Every byte is checked before it is sent: the record of a value in the log as a whole, a value file block by block. What
can be checked in little time is checked before the response begins, so that damage leads to status 500. Damage farther
on in a large value ends the response before its Content-Length and closes the connection.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import parse_qsl

from broker import keys, logs
from broker.http import request_fields, responses, signed_addresses, signing, values
from broker.http.ranges import Span
from broker.http.responses import Header, Response
from broker.http.signing import Secrets
from broker.http.values import Plan
from broker.refusals import NotFound, SlowClient, Unavailable
from broker.server import connections
from broker.server.client_timeouts import ClientTimeouts
from broker.server.granian_requests import AsgiSend
from broker.server.networks import Networks
from broker.server.request import Request
from node.errors import Corrupt, StorageError
from node.storage.disk.damages import DamageReport, DamageReports
from node.storage.reader import Reader, StoredValue
from node.storage.value_files import BLOCK_BYTES

log = logs.get(__name__)

CHUNK_BYTES = 8 * BLOCK_BYTES  # read and sent at once
WHOLE_BYTES = 2 * CHUNK_BYTES  # a response of up to this size is put together in memory
CHECKED_FIRST_BYTES = 64 << 20  # a response of up to this size is checked in full before it begins
NEWER_SECS = 0.2  # by then the master has heard of the value that it did not know
_FEW = 32  # up to this number of responses at once, each holds more in memory


class _Newer(Exception):
    """Raised when the value is newer than the one that the master sent its client for."""


class CopyAddress(NamedTuple):
    """What an address says of a value that is on several nodes."""

    version: int
    following: str  # the address at another node; "" when there is none

    @classmethod
    def read(cls, query: str) -> CopyAddress | None:
        """What stands in a signed query, which was verified; None for that of a value on one node."""
        if f"{signing.VERSION}=" not in query:
            return None
        fields = dict(parse_qsl(query))
        version = fields.get(signing.VERSION, "")
        return cls(int(version), fields.get(signing.NEXT, "")) if version.isascii() and version.isdecimal() else None


class Downloads:
    """The handler of reads from one data directory."""

    def __init__(
        self,
        node: str,
        reader: Reader,
        secrets: Secrets,
        trusted: Networks | None,
        *,
        timeouts: ClientTimeouts,
        threads: int,
        damages: DamageReports,
        scheme: str = "http",
    ) -> None:
        """Reads of `trusted` clients need no signature. The disk is read on `threads` threads.

        Values that can't be read are reported to `damages`.

        `scheme` is that of the master: https or http.
        """
        self._node = node
        self._scheme = scheme
        self._reader = reader
        self._secrets = secrets
        self._trusted = trusted
        self._timeouts = timeouts
        self._damages = damages
        self._threads = ThreadPoolExecutor(threads, "read")
        self._streams = 0

    async def __call__(self, request: Request) -> Response | Download:
        """Respond to one request. Raises `Refused`, `InvalidKey`, `BadSignature` or `StorageError`."""
        environ = request.environ
        key = request_fields.key_of(environ, "/get_key/")
        query = environ["QUERY_STRING"]
        if self._trusted is not None and "signature=" not in query:
            self._trusted.require(request.client)
        else:
            unsigned = self._trusted is not None and request.client in self._trusted
            now = time.time()
            back = signed_addresses.way_back(
                self._secrets, key, query, self._node, now=now, open_reads=unsigned, scheme=self._scheme
            )
            if back:
                return responses.redirect(back)
        loop = asyncio.get_running_loop()
        if "signature=" in query and (copy := CopyAddress.read(query)):
            return await self._read_copy(request, key, copy, loop)
        return await loop.run_in_executor(self._threads, self._read, request, key)

    async def _read_copy(
        self, request: Request, key: str, copy: CopyAddress, loop: asyncio.AbstractEventLoop
    ) -> Response | Download:
        """Respond for a value that is on several nodes. The client is sent to another one when it is not here."""
        try:
            return await loop.run_in_executor(self._threads, self._read, request, key, copy.version)
        except _Newer:
            # The master did not know of it just now. Who reads it must not read an older one at another node later.
            if copy.following:
                return responses.redirect(copy.following)
            await asyncio.sleep(NEWER_SECS)
            return await loop.run_in_executor(self._threads, self._read, request, key)
        except (StorageError, Unavailable) as error:
            if not copy.following:
                raise
            log.warning("reader is sent to another node", key=keys.encode(key), version=copy.version, reason=error)
            return responses.redirect(copy.following)

    def _read(self, request: Request, key: str, version: int = 0) -> Response | Download:
        """Respond with the value that is here. With a `version`, raises `Unavailable` for an older one or none.

        Raises `_Newer` for a newer one.
        """
        try:
            found = self._reader.get(keys.encode(key))
        except Corrupt as error:
            self._report(keys.encode(key), 0, error)
            raise
        if found is None and not version:
            raise NotFound(f"this node has no key {key}")
        if found is None or found.version < version:
            if found is not None:
                found.close()
            self._report(keys.encode(key), version, "a reader was sent here for it")
            raise Unavailable(f"this node does not have the version of {key} that it should have; try again")
        if version and found.version > version:
            found.close()
            raise _Newer
        try:
            plan = values.plan(request.environ, values.resource(key, found))
            body = _body(found, plan)
            if body is not None:
                found.close()
                return Response(plan.status, plan.headers, body)
            return Download(self, request, found, plan)
        except Corrupt as error:
            found.close()
            self._report(found.key, found.version, error)
            raise
        except BaseException:
            found.close()
            raise

    def _report(self, key: bytes, version: int, reason: object) -> None:
        """Tell the agent of a value that can't be read."""
        self._damages.report(DamageReport(key, version, str(reason)))


def _body(found: StoredValue, plan: Plan) -> bytes | None:
    """The whole body when it is small, else None. Not too large ones are checked first. Raises `StorageError`."""
    if not plan.ranges or found.data is not None:
        return plan.body(found.data)
    length = sum(stop - start for start, stop in plan.ranges)
    if length <= WHOLE_BYTES:
        pieces = [found.pread(p.stop - p.start, p.start) if isinstance(p, Span) else p for p in plan.pieces()]
        return b"".join(pieces)
    if length <= CHECKED_FIRST_BYTES:
        for span in plan.ranges:
            for start, stop in _chunks(span, CHUNK_BYTES):
                found.pread(stop - start, start)
    return None


def _chunks(span: Span, size: int) -> Iterator[Span]:
    """A range in pieces that end where blocks end, so that each block is read and checked once."""
    start, stop = span
    while start < stop:
        end = min(stop, start - start % BLOCK_BYTES + size)
        yield Span(start, end)
        start = end


class Download:
    """A response with a large body, sent a chunk at a time."""

    def __init__(self, owner: Downloads, request: Request, found: StoredValue, plan: Plan) -> None:
        self.status = plan.status
        self.headers: list[Header] = plan.headers
        self._owner = owner
        self._request = request
        self._found = found
        self._plan = plan

    async def send(self, send: AsgiSend) -> None:
        """Send the body. When that fails, the client gets fewer bytes than its Content-Length."""
        gone = asyncio.ensure_future(self._request.gone())
        self._owner._streams += 1
        try:
            await self._send(send, gone)
        except StorageError as error:
            log.error(
                "value damaged; response cut short", key=self._found.key, version=self._found.version, reason=error
            )
            owner, loop = self._owner, asyncio.get_running_loop()
            await loop.run_in_executor(owner._threads, owner._report, self._found.key, self._found.version, error)
        except SlowClient:
            log.info("client took a value too slowly", key=self._found.key, client=self._request.client)
            await asyncio.get_running_loop().run_in_executor(self._owner._threads, _cut, self._request.client)
        finally:
            self._owner._streams -= 1
            gone.cancel()
            self._found.close()

    async def _send(self, send: AsgiSend, gone: asyncio.Future[None]) -> None:
        loop = asyncio.get_running_loop()
        timeouts = self._owner._timeouts
        waited, sent = 0.0, 0
        pieces = self._pieces()
        reading = loop.run_in_executor(self._owner._threads, next, pieces, b"")
        while piece := await reading:
            # The next one is read while this one is sent.
            reading = loop.run_in_executor(self._owner._threads, next, pieces, b"")
            since = time.monotonic()
            try:
                with timeouts.wait(timeouts.left(waited, sent)):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            except BaseException:
                await asyncio.wait([reading])  # it uses the file, which is closed next
                raise
            waited += time.monotonic() - since
            sent += len(piece)
            if gone.done():
                await asyncio.wait([reading])
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _pieces(self) -> Iterator[bytes]:
        size = CHUNK_BYTES if self._owner._streams <= _FEW else BLOCK_BYTES
        for piece in self._plan.pieces():
            if isinstance(piece, Span):
                for start, stop in _chunks(piece, size):
                    yield self._found.pread(stop - start, start)
            else:
                yield piece


def _cut(client: str) -> None:
    """Break the connection of a client, which the server would keep with what it has to send."""
    connection = connections.find(client)
    if connection is not None:
        connections.cut(connection)
