"""Files copied, and their digests taken on the way."""

from __future__ import annotations

import ctypes
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from backup.errors import SourceUnreadable

CHUNK_BYTES = 4 << 20
_START_BYTES = 32 << 20  # the kernel is asked to begin to write after so many
_WRITE = 2  # SYNC_FILE_RANGE_WRITE
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)


class Throttle:
    """Limits work to `rate` bytes per second; 0 is no limit."""

    def __init__(self, rate: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self._rate = rate
        self._sleep = sleep
        self._begun = time.monotonic()
        self._spent = 0

    def spend(self, count: int) -> None:
        """Count `count` bytes, and wait if that was too fast."""
        self._spent += count
        if self._rate and (ahead := self._spent / self._rate - (time.monotonic() - self._begun)) > 0:
            self._sleep(ahead)


class Copier:
    """Copies files in large pieces. While one piece is written, its digest is taken on another thread."""

    def __init__(self, throttle: Throttle, done: Callable[[int], None]) -> None:
        """`done` is told how many bytes were read or written, again and again."""
        self._throttle = throttle
        self._done = done
        self._hasher = ThreadPoolExecutor(1)
        self._buffer = memoryview(bytearray(CHUNK_BYTES))

    def copy(self, source: Path, to: Path) -> str:
        """Copy the bytes into a new file; returns their SHA-256. The file is not flushed.

        Raises `SourceUnreadable`, and `OSError` when the new one can't be written.
        """
        out = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            return self._read(source, out)
        finally:
            os.close(out)

    def digest(self, source: Path) -> str:
        """The SHA-256 of a file's bytes. Raises `SourceUnreadable`."""
        return self._read(source, None)

    def close(self) -> None:
        """End the thread."""
        self._hasher.shutdown()

    def _fill(self, file: FileIO, source: Path) -> int:
        """Fill the buffer; returns how many bytes it has."""
        try:
            return file.readinto(self._buffer)
        except OSError as error:
            raise SourceUnreadable(f"{source} can't be read: {error.strerror or error}") from error

    def _read(self, source: Path, out: int | None) -> str:
        digest = hashlib.sha256()
        begun = 0
        with _opened(source) as file:
            while count := self._fill(file, source):
                piece = self._buffer[:count]
                if out is None or count < CHUNK_BYTES // 4:  # handing a small piece over costs more than its digest
                    digest.update(piece)
                    if out is not None:
                        _write(out, piece)
                else:
                    hashed = self._hasher.submit(digest.update, piece)
                    try:
                        _write(out, piece)
                    finally:
                        hashed.result()
                    begun += count
                    if begun >= _START_BYTES:
                        start_writing(out)
                        begun = 0
                self._throttle.spend(count)
                self._done(count)
        if out is not None and begun:
            start_writing(out)
        return digest.hexdigest()


def _opened(source: Path) -> FileIO:
    try:
        file = FileIO(source)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
    except OSError as error:
        raise SourceUnreadable(f"{source} can't be read: {error.strerror or error}") from error
    return file


def _write(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]


def start_writing(fd: int) -> None:
    """Have the kernel begin to write the dirty pages of a file, without waiting. Does nothing outside Linux."""
    if _sync_file_range is not None:
        _sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WRITE)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable. Raises `OSError`."""
    _sync(path, os.O_RDONLY)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. Raises `OSError`."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_filesystem(path: Path) -> None:
    """Make everything on the filesystem of `path` durable. Raises `OSError`."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if _syncfs is None:
            os.sync()
        elif _syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(fd)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
