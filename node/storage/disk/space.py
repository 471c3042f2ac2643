"""How much room the filesystem of a data directory has."""

from __future__ import annotations

import os
import time
from pathlib import Path

from node.storage.disk.files import guarded

_FREE_SECS = 1.0  # how old the figure of free bytes may be
_NEAR_BYTES = 64 << 20  # when so little is left above the reserve, it may not be old at all


class Space:
    """How much room there is, asked of the OS once a second unless it gets short."""

    def __init__(self, directory: Path, reserve: int) -> None:
        self._directory = directory
        self._reserve = reserve
        self._free = 0
        self._asked = float("-inf")

    def free(self) -> int:
        """Free bytes of the filesystem, less what was noted as taken since it was asked."""
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
        """Ask the OS again the next time."""
        self._asked = float("-inf")

    def short(self, wanted: int) -> bool:
        """Whether less than the reserve would be left after `wanted` more bytes."""
        return self.free() - wanted < self._reserve
