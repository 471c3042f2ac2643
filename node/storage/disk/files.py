"""The few things done with files, and the one place where the errors of the OS become the node's."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from node.errors import DiskFull, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
