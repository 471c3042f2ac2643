"""Bodies of requests to extensions, in temporary files: never in memory, and never left."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from broker import http
from broker.connections import Connections
from broker.refusals import BadRequest, NoRoom
from master.extensions.errors import TooLarge
from master.incoming import Incoming

FOLDER = "extensions"  # in the master's own directory
_WRITE_BYTES = 1 << 20
_DRAIN_SECS = 2.0


def empty(directory: Path) -> Path:
    """A directory with nothing in it, for the files of one process; what is left of an earlier one goes."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


class Bodies:
    """Of one web worker."""

    def __init__(self, directory: Path, most: int, connections: Connections) -> None:
        """`most` is how many bytes a body may have."""
        self._directory = directory
        self._most = most
        self._connections = connections

    @asynccontextmanager
    async def received(self, incoming: Incoming) -> AsyncIterator[str]:
        """The path of a file with the whole body; it is there until the end of the context.

        Raises `TooLarge`, before the body is read when its length is known, `BadRequest` when it was cut off, `NoRoom`.
        """
        length = http.content_length(incoming.environ)
        if length is not None and length > self._most:
            raise self._too_large(f"{length} bytes", begun=False)
        # Each of these may wait for the disk, which the loop must not.
        file, path = await asyncio.to_thread(tempfile.mkstemp, prefix="body-", dir=self._directory)
        try:
            try:
                await self._write(incoming, file, length)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise NoRoom("the master's disk has no room for the body") from error
            finally:
                await asyncio.to_thread(os.close, file)
            yield path
        finally:
            with suppress(FileNotFoundError):  # the extension moved it somewhere else
                await asyncio.to_thread(os.unlink, path)

    async def _write(self, incoming: Incoming, file: int, length: int | None) -> None:
        total = 0
        waiting = bytearray()
        while length != 0 and (chunk := await incoming.chunk()):
            total += len(chunk)
            if total > self._most:
                await _drain(incoming)
                raise self._too_large(f"more than {self._most} bytes", begun=True)
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(_write_all, file, bytes(waiting))
                waiting.clear()
        await asyncio.to_thread(_write_all, file, bytes(waiting))
        if length is not None and total != length:
            raise BadRequest(f"the body ended after {total} of {length} bytes; nothing was run")
        if length is None:
            incoming.name_peers()
            if await asyncio.to_thread(self._connections.cut_off, incoming.environ):
                raise BadRequest("the connection broke in the middle of the body; nothing was run")

    def _too_large(self, given: str, begun: bool) -> TooLarge:
        return TooLarge(
            f"the body has {given}, and [extensions] max_body allows {self._most}; store it under a key and give the key",
            begun,
        )


async def _drain(incoming: Incoming) -> None:
    """Read on for a while: a client whose connection breaks while it sends does not look for an answer."""
    until = time.monotonic() + _DRAIN_SECS
    while await incoming.chunk() and time.monotonic() < until:
        continue


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
