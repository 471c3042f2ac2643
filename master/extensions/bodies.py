"""Bodies of requests to extensions, in temporary files: never in memory, and never left."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

from broker.http import request_fields
from broker.refusals import NoRoom, TooLarge
from broker.server.request import BrokenBody, Request

FOLDER = "extensions"  # in the master's own directory
_WRITE_BYTES = 1 << 20
_THREADS = 4  # which write them

T = TypeVar("T")


def empty(directory: Path) -> Path:
    """A directory with nothing in it, for the files of one process; what is left of an earlier one goes."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


class Bodies:
    """Of one web worker."""

    def __init__(self, directory: Path, most: int) -> None:
        """`most` is how many bytes a body may have."""
        self._directory = directory
        self._most = most
        self._threads = ThreadPoolExecutor(_THREADS, "body")

    @asynccontextmanager
    async def received(self, incoming: Request) -> AsyncIterator[str]:
        """The path of a file with the whole body; it is there until the end of the context.

        Raises `TooLarge`, before the body is read when its length is known, `BrokenBody` when it was cut off, `SlowClient`, `NoRoom`.
        """
        length = request_fields.content_length(incoming.environ)
        if length is not None and length > self._most:
            raise self._too_large(f"{length} bytes")
        # Each of these may wait for the disk, which the loop must not.
        file, path = await self._do(lambda: tempfile.mkstemp(prefix="body-", dir=self._directory))
        try:
            try:
                await self._write(incoming, file, length)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise NoRoom("the master's disk has no room for the body") from error
            finally:
                await self._do(lambda: os.close(file))
            yield path
        finally:
            with suppress(FileNotFoundError):  # the extension moved it somewhere else
                await self._do(lambda: os.unlink(path))

    async def _write(self, incoming: Request, file: int, length: int | None) -> None:
        total = 0
        waiting = bytearray()
        while chunk := await incoming.chunk():
            total += len(chunk)
            if total > self._most:
                raise self._too_large(f"more than {self._most} bytes")
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                piece, waiting = waiting, bytearray()
                await self._do(lambda piece=piece: _write_all(file, piece))  # type: ignore[misc]
        await self._do(lambda: _write_all(file, waiting))
        if length is not None and total != length:
            raise BrokenBody(f"the body ended after {total} of {length} bytes; nothing was run")

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _too_large(self, given: str) -> TooLarge:
        return TooLarge(
            f"the body has {given}, and [extensions] max_body allows {self._most}; store it under a key and give the key"
        )


def _write_all(file: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
