"""The free space on the filesystem of a data directory."""

from __future__ import annotations

import os
import time
from pathlib import Path

from node.storage.disk.files import guarded

_FREE_SECS = 1.0  # how old the figure of free bytes may be
_LEAST_ROOM_BYTES = 2 << 20
_MOST_ROOM_BYTES = 1 << 30
_NEAR_BYTES = 64 << 20  # with less than this above the reserve, the figure must be new


class Space:
    """The free space, asked of the OS once a second, and each time when it gets short."""

    def __init__(self, directory: Path, reserve: int) -> None:
        self._directory = directory
        self._reserve = reserve
        self._free = 0
        self._asked = float("-inf")

    def free(self) -> int:
        """Free bytes of the filesystem, less those taken since the OS was asked. Raises `StorageError`."""
        now = time.monotonic()
        if now - self._asked >= _FREE_SECS or self._free < self._reserve + _NEAR_BYTES:
            with guarded("the filesystem can't be asked for its free space"):
                figures = os.statvfs(self._directory)
            self._free = figures.f_bavail * figures.f_frsize
            self._asked = now
        return self._free

    def take(self, count: int) -> None:
        """Note that `count` bytes were written."""
        self._free -= count

    def forget(self) -> None:
        """Ask the OS the next time."""
        self._asked = float("-inf")

    def headroom(self) -> int:
        """Bytes above the reserve that are made free at once when the disk is full. Raises `StorageError`."""
        with guarded("the filesystem can't be asked for its size"):
            figures = os.statvfs(self._directory)
        return min(max(figures.f_blocks * figures.f_frsize // 100, _LEAST_ROOM_BYTES), _MOST_ROOM_BYTES)

    def short(self, wanted: int) -> bool:
        """Whether `wanted` more bytes would leave less than the reserve. Raises `StorageError`."""
        return self.free() - wanted < self._reserve
