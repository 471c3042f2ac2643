"""How much a run has in its scratch directory, counted a part at a time, so that the zygote is never long at it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

_AT_ONCE = 1000  # entries in one look
_BLOCK_BYTES = 512


class ScratchUse:
    """The bytes on the disk of some directories. Files with several names count once for each."""

    def __init__(self, directories: list[str]) -> None:
        self._directories = directories
        self._sizes: Iterator[int] = iter(())
        self._sum = 0

    def exceeds(self, limit: int) -> bool:
        """Look at some more entries; whether those of this round have more than `limit` bytes already."""
        for _ in range(_AT_ONCE):
            size = next(self._sizes, -1)
            if size < 0:  # the next look begins again
                self._sizes, self._sum = self._walk(), 0
                return False
            self._sum += size
            if self._sum > limit:
                return True
        return False

    def _walk(self) -> Iterator[int]:
        waiting = list(self._directories)
        while waiting:
            with suppress(OSError), os.scandir(waiting.pop()) as entries:  # gone, or made unreadable
                for entry in entries:
                    with suppress(OSError):  # gone meanwhile
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        yield entry.stat(follow_symlinks=False).st_blocks * _BLOCK_BYTES
