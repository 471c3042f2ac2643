"""The few things done with files, and the one place where the errors of the OS become the node's."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from node.errors import DiskFull, StorageError, Unavailable

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FREE_SECS = 1.0  # how old the figure of free bytes may be
_NEAR_BYTES = 64 << 20  # when so little is left above the reserve, it may not be old at all


@dataclass(frozen=True)
class Places:
    """Where things are in a data directory."""

    root: Path
    log: Path
    values: Path
    staging: Path
    index: Path
    tmp: Path

    @classmethod
    def of(cls, root: Path) -> Places:
        """The places of one data directory."""
        return cls(root, *(root / name for name in ("log", "values", "staging", "index", "tmp")))


def translated(what: str, error: OSError) -> StorageError:
    """The node's error for one of the OS."""
    kind = DiskFull if error.errno in _NO_ROOM else StorageError
    return kind(f"{what}: {error.strerror or error}")


@contextmanager
def guarded(what: str) -> Iterator[None]:
    """Turn errors of the OS in the block into the node's; `what` says what was being done."""
    try:
        yield
    except OSError as error:
        raise translated(what, error) from error


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def read_at(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, fewer at the end of the file."""
    data = os.pread(fd, length, offset)
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def start_writing(fd: int) -> None:
    """Have the kernel begin to write what is dirty of a file, without waiting for it (Linux; elsewhere nothing)."""
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE)


_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file that may be gone already."""
    with suppress(FileNotFoundError):
        path.unlink()


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


class Pace:
    """Holds work in the background to a number of bytes per second, and ends it when `stop` is set."""

    SLICE = 256 * 1024  # bytes done at a stretch; other threads run in between

    def __init__(self, rate: float, stop: threading.Event) -> None:
        self._rate = rate
        self._stop = stop
        self._owed = 0

    def spend(self, count: int) -> None:
        """Note that `count` bytes were done; sleeps when that was fast. Raises `Unavailable` when stopped."""
        self._owed += count
        if self._owed >= self.SLICE or self._stop.is_set():
            if self._stop.wait(self._owed / self._rate):
                raise Unavailable("the storage is closing")
            self._owed = 0
