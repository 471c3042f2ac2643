"""The speed limit for work in the background."""

from __future__ import annotations

import threading

from node.errors import StorageUnavailable


class Throttle:
    """Limits work to `rate` bytes per second, and ends it when `stop` is set."""

    SLICE = 256 * 1024  # bytes between two pauses; other threads run then

    def __init__(self, rate: float, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._owed = 0

    def spend(self, count: int) -> None:
        """Count `count` bytes, and sleep if that was too fast. Raises `StorageUnavailable` when stopped."""
        self._owed += count
        if self._owed >= self.SLICE or self._stop.is_set():
            if self._stop.wait(self._owed / self._rate):
                raise StorageUnavailable("the storage is closing")
            self._owed = 0
