"""Reads bodies of requests into staged uploads. The disk is written on threads, the network read on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from broker.refusals import Unavailable
from broker.server.request import Request
from node.storage.staging import Upload

CHUNK_BYTES = 1 << 20  # written at once
MOST = 2_000  # uploads at once
_FEW = 32  # up to this number of uploads, each holds more in memory
_SMALL_CHUNK_BYTES = 1 << 17

T = TypeVar("T")
Along = Callable[[bytes], Awaitable[None]]


class UploadBodies:
    """All uploads of one data server."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, "upload")
        self._count = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A block that takes one upload. Raises `Unavailable` when there are too many."""
        if self._count >= MOST:
            raise Unavailable(f"this node takes {MOST} uploads at once, and has them; try again")
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1

    async def do(self, work: Callable[[], T]) -> T:
        """Do something with a file on a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def receive(self, request: Request, upload: Upload, along: Along | None = None) -> None:
        """Read the body into the upload; each chunk goes to `along` as well.

        Raises `BrokenBody` for a body that is cut off, `SlowClient` or `StorageError`.
        """
        writing: asyncio.Future[None] | None = None
        gathered: list[bytes] = []
        size = 0
        try:
            while piece := await request.chunk():
                gathered.append(piece)
                size += len(piece)
                if size < (CHUNK_BYTES if self._count <= _FEW else _SMALL_CHUNK_BYTES):
                    continue
                if writing is not None:
                    await writing
                # Written, hashed and sent on while the next chunk comes in.
                writing = self._write(upload, b"".join(gathered), along)
                gathered, size = [], 0
            if gathered:
                if writing is not None:
                    await writing
                writing = self._write(upload, b"".join(gathered), along)
        finally:
            if writing is not None:
                await writing

    def _write(self, upload: Upload, chunk: bytes, along: Along | None) -> asyncio.Future[None]:
        written = asyncio.get_running_loop().run_in_executor(self._threads, upload.write, chunk)
        return written if along is None else asyncio.ensure_future(_both(written, along(chunk)))


async def _both(written: Awaitable[None], sent: Awaitable[None]) -> None:
    await sent
    await written
