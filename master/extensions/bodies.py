"""Bodies of requests to extensions, in temporary files that last as long as the request."""

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
_THREADS = 4  # that write bodies

T = TypeVar("T")


def empty(directory: Path) -> Path:
    """An empty directory for the files of one process. Removes the files of an earlier process."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


class Bodies:
    """Receives bodies for one web worker. The disk is used on threads, never on the event loop."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        """A body may have up to `max_bytes`."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._threads = ThreadPoolExecutor(_THREADS, "body")

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[str]:
        """The path of a file with the whole body, which is removed at the end of the context.

        Raises `TooLarge` (before the body is read, if its length is known), `BrokenBody`, `SlowClient` or `NoRoom`.
        """
        length = request_fields.content_length(request.environ)
        if length is not None and length > self._max_bytes:
            raise self._too_large(f"{length} bytes")
        file, path = await self._do(lambda: tempfile.mkstemp(prefix="body-", dir=self._directory))
        try:
            try:
                await self._write(request, file, length)
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

    async def _write(self, request: Request, file: int, length: int | None) -> None:
        total = 0
        buffer = bytearray()
        while chunk := await request.chunk():
            total += len(chunk)
            if total > self._max_bytes:
                raise self._too_large(f"more than {self._max_bytes} bytes")
            buffer += chunk
            if len(buffer) >= _WRITE_BYTES:
                piece, buffer = buffer, bytearray()
                await self._do(lambda piece=piece: _write_all(file, piece))  # type: ignore[misc]
        await self._do(lambda: _write_all(file, buffer))
        if length is not None and total != length:
            raise BrokenBody(f"the body ended after {total} of {length} bytes; nothing was run")

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _too_large(self, given: str) -> TooLarge:
        allowed = f"[extensions] max_body allows {self._max_bytes}"
        return TooLarge(f"the body has {given}, and {allowed}; store it under a key and give the key")


def _write_all(file: int, data: bytes | bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
