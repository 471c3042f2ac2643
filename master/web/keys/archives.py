"""`GET|HEAD /archive/{prefix}?format=tar|zip`: all values below a prefix as one archive, made while it is sent.

What can't be read is left out, and a last member, `MISSING`, tells the key and the reason.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from tempfile import SpooledTemporaryFile
from typing import IO

from broker import keys, logs
from broker.clock import now_ms
from broker.contract.kinds import Choice
from broker.contract.parameters import Parameter
from broker.errors import ClientGone
from broker.http.peer_client import PeerFailed
from broker.http.peer_reads import PeerRead
from broker.http.responses import Response
from broker.refusals import Unavailable
from broker.server.request import Request
from broker.server.streaming_response import StreamingResponse, note_gone
from master.cluster.nodes import Nodes, missing
from master.index.index import Index
from master.web.keys import parameters
from master.web.keys.archive_formats import SPOOL_BYTES, Format, Tar, Zip
from master.web.keys.archive_values import ArchiveValues, Row
from master.web.keys.redirects import Redirects

log = logs.get(__name__)

PATH = "/archive/"
MISSING = "MISSING"  # the last member, when something is missing
FORMATS: dict[str, Callable[[], Format]] = {"tar": Tar, "zip": Zip}
FORMAT = Parameter("format", Choice(*FORMATS, what="format of archives"), "The format of the archive.", default="tar")
_PIECE_BYTES = 1 << 18
MOST = 16  # archives that one web worker sends at once; each costs it time, also when its client reads slowly
BUSY_SECS = 10  # after which to ask again


class Archives:
    """The handler of archives in a web worker."""

    def __init__(self, index: Index, network: Nodes, redirects: Redirects, secs: float) -> None:
        """A client may take nothing for `secs` seconds, and so may a node stand still."""
        self._index = index
        self._network = network
        self._redirects = redirects
        self._secs = secs
        self._streams = 0

    async def __call__(self, request: Request) -> Response | StreamingResponse:
        """Respond to one request; raises `Refused` or `InvalidKey`."""
        environ = request.environ
        prefix = parameters.prefix_of(environ, PATH)
        given = FORMAT.read(parameters.parameters(environ["QUERY_STRING"]))
        if self._network.may_lack_keys():  # an archive would not tell that it lacks them
            raise missing(prefix, self._network)
        source = ArchiveValues(self._index, self._redirects, self._secs)
        first = await source.stretch(prefix)
        if not first:
            raise parameters.nothing_below(prefix)
        form = FORMATS[given]()
        headers = [
            ("Content-Type", form.content_type),
            ("Content-Disposition", f'attachment; filename="{_file_name(prefix)}.{given}"'),
            ("Cache-Control", "no-cache"),
        ]
        if environ["REQUEST_METHOD"] == "HEAD":
            return Response(200, headers)
        if self._streams >= MOST:
            busy = f"{MOST} archives are being sent, which is the most at once; try again in a while"
            raise Unavailable(busy, BUSY_SECS)
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pieces = self._counted(_watched(request, gone, self._pieces(prefix, form, source, first)))
        beginning = await anext(pieces)
        try:
            beginning += await anext(pieces)
        except StopAsyncIteration:  # this is all
            return Response(200, [*headers, ("Content-Length", str(len(beginning)))], beginning)
        return StreamingResponse(
            name=f"archive of {prefix or 'all keys'}",
            headers=headers,
            beginning=beginning,
            pieces=pieces,
            client=request.client,
            gone=gone,
            max_pause=self._secs,
        )

    async def _counted(self, pieces: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The pieces, while the archive counts among those that are being sent."""
        self._streams += 1
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            self._streams -= 1

    async def _pieces(
        self, prefix: str, form: Format, source: ArchiveValues, first: list[Row]
    ) -> AsyncGenerator[bytes, None]:
        """The archive; raises `Unavailable` when it can't go on."""
        folder = prefix[: prefix.rfind("/") + 1]
        ready = _Ready()
        with SpooledTemporaryFile(max_size=SPOOL_BYTES) as lost:
            async with aclosing(source.members(prefix, first, summed=form.wants_sum)) as members:
                async for key, entry, value, reason, checksum in members:
                    name, modified = key[len(folder) :], entry.created // 1000
                    if isinstance(value, bytes):
                        ready.add(form.small(name, modified, value))
                    elif value is None:
                        log.warning("value left out of an archive", key=keys.encode(key), reason=reason)
                        lost.write(f"{name}: {reason}\n".encode("ascii", "backslashreplace"))
                    else:
                        ready.add(form.head(name, modified, entry.size, checksum))
                        async for piece in _checked(key, value):
                            form.note(piece)
                            yield ready.take() + piece
                        ready.add(form.tail())
                    if ready.size >= _PIECE_BYTES:
                        yield ready.take()
                        await asyncio.sleep(0)  # values of the index alone would keep other requests waiting
            if length := lost.tell():
                checksum = _sum(lost)
                ready.add(form.head(self._missing_name(folder), now_ms() // 1000, length, checksum))
                lost.seek(0)
                while piece := lost.read(_PIECE_BYTES):
                    form.note(piece)
                    yield ready.take() + piece
                ready.add(form.tail())
        for piece in form.end():
            yield ready.take() + piece

    def _missing_name(self, folder: str) -> str:
        """The name of the last member; no key has it."""
        name = MISSING
        while len(folder + name) <= keys.MAX_BYTES and self._index.get(keys.encode(folder + name)) is not None:
            name += "_"
        return name


def _sum(file: IO[bytes]) -> int:
    """The CRC-32 of a file from its beginning."""
    file.seek(0)
    checksum = 0
    while piece := file.read(_PIECE_BYTES):
        checksum = zlib.crc32(piece, checksum)
    return checksum


class _Ready:
    """Parts of the archive that are ready to be sent."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.size = 0  # bytes

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self.size += len(part)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        self.size = 0
        return taken


async def _checked(key: str, value: PeerRead) -> AsyncGenerator[bytes, None]:
    """The pieces of a value; raises `Unavailable` when it breaks off."""
    try:
        async for piece in value.pieces():
            yield piece
    except PeerFailed as error:
        raise Unavailable(f"the value of {key} broke off: {error}") from error


async def _watched(
    request: Request, gone: asyncio.Future[None], pieces: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The pieces, while it is noted whether the client is gone."""
    watch = asyncio.ensure_future(note_gone(request, gone))
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if gone.done():
                    raise ClientGone("it closed the connection")
                yield piece
    finally:
        watch.cancel()


def _file_name(prefix: str) -> str:
    """The name of an archive's file: the last folder of the prefix, or its last name."""
    name = prefix.strip("/").rpartition("/")[2] or "keys"
    return "".join("_" if character in '"\\/' else character for character in name)
