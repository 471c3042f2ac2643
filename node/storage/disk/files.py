"""The few things done with files. Here errors of the OS become errors of the node."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from node.errors import DiskFull, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def storage_error(what: str, error: OSError) -> StorageError:
    """The node's error for an error of the OS; `what` says what can't be done."""
    kind = DiskFull if error.errno in _NO_ROOM else StorageError
    return kind(f"{what}: {error.strerror or error}")


@contextmanager
def guarded(what: str, *, may_be_missing: bool = False) -> Iterator[None]:
    """Turn errors of the OS into errors of the node, but for `FileNotFoundError` when the file `may_be_missing`."""
    try:
        yield
    except OSError as error:
        if may_be_missing and isinstance(error, FileNotFoundError):
            raise
        raise storage_error(what, error) from error


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of `data` at `offset`. Raises `OSError`."""
    written = os.pwrite(fd, data, offset)
    while written < len(data):
        written += os.pwrite(fd, data[written:], offset + written)


def read_at(fd: int, length: int, offset: int) -> bytes:
    """`length` bytes at `offset`, fewer at the end of the file. Raises `OSError`."""
    data = os.pread(fd, length, offset)
    while 0 < len(data) < length:
        more = os.pread(fd, length - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def start_writing(fd: int) -> None:
    """Tell the kernel to write the dirty pages of a file now, without waiting. Does nothing outside Linux."""
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE)


_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises `OSError`."""
    with suppress(FileNotFoundError):
        path.unlink()
