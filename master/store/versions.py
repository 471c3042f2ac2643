"""Versions that a process of the master makes, see `broker.messages.versions`."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from broker.messages.versions import MASTER_NUMBERS, VersionMaker


class Versions(VersionMaker):
    """Makes versions with a number that no other living process of this master has."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the master's own, shared by its processes. Raises `RuntimeError` without a free number."""
        self._file = os.open(directory / "processes.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        super().__init__(self._claim())

    def _claim(self) -> int:
        """A number that no other living process has: the kernel frees a lock when its holder dies."""
        for number in MASTER_NUMBERS:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                return number
            except BlockingIOError:
                continue  # another process has this number
        raise RuntimeError(f"{len(MASTER_NUMBERS)} processes use this directory")
