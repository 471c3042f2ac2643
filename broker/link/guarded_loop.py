"""An event loop as one connection sees it that shares the loop with others."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Callback = Callable[..., object]


class GuardedLoop:
    """Tells of what goes wrong in callbacks of a connection, and calls none of them once it is closed.

    A loop of one's own would end with the error. A shared one goes on, with a connection in an unknown state.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_error: Callable[[Exception], None]) -> None:
        self._loop = loop
        self._on_error = on_error
        self._read: set[int] = set()  # descriptors that are watched
        self._written: set[int] = set()
        self.closed = False

    def close(self) -> None:
        """Watch and call nothing any more. Sockets that are still watched end: nobody else would end them."""
        self.closed = True
        watched = self._read | self._written
        for fd in list(self._read):
            self.remove_reader(fd)
        for fd in list(self._written):
            self.remove_writer(fd)
        for fd in watched:
            # The other end may be gone already; the resolver's descriptors are no sockets.
            with suppress(OSError), socket.socket(fileno=os.dup(fd)) as end:
                end.shutdown(socket.SHUT_RDWR)

    def _guarded(self, callback: Callback) -> Callback:
        def call(*arguments: object) -> None:
            if self.closed:
                return
            try:
                callback(*arguments)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the connection's
                self._on_error(error)

        return call

    # The part of an asyncio loop that pika uses; everything else is the loop's own.

    def add_reader(self, fd: int, callback: Callback, *arguments: object) -> None:
        self._read.add(fd)
        self._loop.add_reader(fd, self._guarded(callback), *arguments)

    def remove_reader(self, fd: int) -> bool:
        self._read.discard(fd)
        return self._loop.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callback, *arguments: object) -> None:
        self._written.add(fd)
        self._loop.add_writer(fd, self._guarded(callback), *arguments)

    def remove_writer(self, fd: int) -> bool:
        self._written.discard(fd)
        return self._loop.remove_writer(fd)

    def call_soon(self, callback: Callback, *arguments: object) -> asyncio.Handle:
        return self._loop.call_soon(self._guarded(callback), *arguments)

    def call_soon_threadsafe(self, callback: Callback, *arguments: object) -> asyncio.Handle:
        return self._loop.call_soon_threadsafe(self._guarded(callback), *arguments)

    def call_later(self, delay: float, callback: Callback, *arguments: object) -> asyncio.TimerHandle:
        return self._loop.call_later(delay, self._guarded(callback), *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)
