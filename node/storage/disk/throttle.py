"""Holds work in the background to a number of bytes per second."""

from __future__ import annotations

import threading

from node.errors import StorageUnavailable


class Throttle:
    """Holds work in the background to a number of bytes per second, and ends it when `stop` is set."""

    SLICE = 256 * 1024  # bytes done at a stretch; other threads run in between

    def __init__(self, rate: float, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._owed = 0

    def spend(self, count: int) -> None:
        """Note that `count` bytes were done; sleeps when that was fast. Raises `StorageUnavailable` when stopped."""
        self._owed += count
        if self._owed >= self.SLICE or self._stop.is_set():
            if self._stop.wait(self._owed / self._rate):
                raise StorageUnavailable("the storage is closing")
            self._owed = 0
