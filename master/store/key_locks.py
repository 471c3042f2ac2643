"""One writer per key at a time, across the requests and processes of the master.

Between the look at the index and the commit of what was written, nobody else may write the same key. So
a create-only PUT wins or loses before anything is sent, and versions of a key rise in the order in which
they were decided. Requests of one process wait in a line. Between processes there is a lock on one byte of a file. The
key's checksum says which byte; the kernel frees it when its holder dies.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

_POLL_SECS = 0.002


class KeyLocks:
    """The locks of one process, for its event loop.

    `directory` is the master's own; `alone` says that no other process takes locks there.
    """

    def __init__(self, directory: Path, alone: bool = False) -> None:
        self._alone = alone
        # Opened once and never closed: closing any descriptor of a file frees all locks a process has on it.
        self._file = os.open(directory / "keys.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._held: dict[int, deque[asyncio.Future[bool]]] = {}  # byte → who waits for it

    def hold(self, key: bytes, timeout: float) -> AbstractAsyncContextManager[bool]:
        """Hold the key's lock in the block; yields False when it did not get it within `timeout` seconds."""
        return _Hold(self, zlib.crc32(key), timeout)

    @asynccontextmanager
    async def hold_all(self, keys: Collection[bytes], timeout: float) -> AsyncIterator[bool]:
        """As `hold`, for several keys. Everybody takes their locks in one order, so nobody waits in a circle."""
        deadline = time.monotonic() + timeout
        async with AsyncExitStack() as stack:
            held = True
            for byte in sorted({zlib.crc32(key) for key in keys}):
                held = held and await stack.enter_async_context(
                    _Hold(self, byte, max(0.0, deadline - time.monotonic()))
                )
            yield held

    async def acquire(self, byte: int, timeout: float) -> bool:
        """Take the lock of a byte, for `release`; False when that was not possible within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        if byte not in self._held:
            self._held[byte] = deque()
        elif not await self._wait(byte, timeout):
            return False
        locked = False
        try:
            locked = self._alone or self._try_lock(byte) or await self._lock_byte(byte, deadline)
        finally:
            if not locked:
                self._pass_on(byte)
        return locked

    def release(self, byte: int) -> None:
        """Give back what was acquired."""
        if not self._alone:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)
        self._pass_on(byte)

    async def _wait(self, byte: int, timeout: float) -> bool:
        """Become the request of this process that holds it; False when that was not possible in time."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._held[byte].append(turn)
        timer = loop.call_later(timeout, _give_up, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._pass_on(byte)
            raise
        finally:
            timer.cancel()

    def _pass_on(self, byte: int) -> None:
        line = self._held[byte]
        while line:
            turn = line.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        del self._held[byte]

    async def _lock_byte(self, byte: int, deadline: float) -> bool:
        while not self._try_lock(byte):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECS)
        return True

    def _try_lock(self, byte: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except BlockingIOError:  # another process has it
            return False
        return True


class _Hold:
    """A block that holds the lock of a byte. As a generator it would cost each PUT 10 µs more."""

    __slots__ = ("_byte", "_held", "_locks", "_timeout")

    def __init__(self, locks: KeyLocks, byte: int, timeout: float) -> None:
        self._locks = locks
        self._byte = byte
        self._timeout = timeout
        self._held = False

    async def __aenter__(self) -> bool:
        self._held = await self._locks.acquire(self._byte, self._timeout)
        return self._held

    async def __aexit__(self, *_error: object) -> None:
        if self._held:
            self._locks.release(self._byte)


def _give_up(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
