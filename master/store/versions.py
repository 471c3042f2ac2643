"""Versions: integers that rise with time and are unique in the cluster.

A version is microseconds since the epoch times 4096, plus the number of the process that made it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

from broker.messages.horizon import NUMBERS, Horizon


class Versions:
    """Makes versions for one process. `directory` is the master's own, shared by its processes."""

    def __init__(self, directory: Path) -> None:
        self._file = os.open(directory / "processes.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.number = self._claim()
        self._guard = threading.Lock()
        self._last = 0

    def next(self, after: int = 0) -> int:
        """A version higher than `after` and than every one made here before, whatever the clock does.

        What is beyond the horizon does not count: a node would not believe what is above it.
        """
        with self._guard:
            highest = Horizon.now().version - NUMBERS
            least = max(version if version <= highest else 0 for version in (self._last, after))
            version = time.time_ns() // 1000 * NUMBERS + self.number
            if version <= least:
                version = (least // NUMBERS + 1) * NUMBERS + self.number
            self._last = version
            return version

    def _claim(self) -> int:
        """A number that no other living process has: the kernel frees a lock when its holder dies."""
        for number in range(NUMBERS):
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                return number
            except BlockingIOError:
                continue
        raise RuntimeError(f"{NUMBERS} processes use this directory")
