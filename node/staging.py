"""Uploads on their way: files in `staging/` with the layout of a value file, its head still empty.

The data server writes them; the agent's storage takes them over by renaming them into `values/`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from pathlib import Path
from typing import NamedTuple

from broker import logs
from node.disk import Space, guarded, remove, start_writing, write_at
from node.errors import DiskFull
from node.values import HEAD_BYTES, Sums

log = logs.get(__name__)

ABANDONED_SECS = 86_400  # an upload not touched for so long has nobody who waits for it
_WRITE_BEHIND_BYTES = 32 << 20  # so that the flush at the end finds little left to do


class Staged(NamedTuple):
    """An upload that is complete and durable."""

    token: str
    size: int
    sha256: bytes
    md5: bytes  # b"" unless asked for


class Upload:
    """One upload. Use as a context manager: what is not finished by the end of the block is removed."""

    def __init__(self, directory: Path, md5: bool) -> None:
        self.token = secrets.token_hex(16)
        self.size = 0
        self._behind = 0  # how far the kernel was asked to begin writing
        self._path = directory / self.token
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._sums = Sums()
        self._finished = False
        self._fd = -1
        with guarded("an upload can't be begun"):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                # Room for the head, so that taking the upload over needs none.
                write_at(self._fd, bytes(HEAD_BYTES), 0)
            except OSError:
                self.abort()
                raise

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises `DiskFull` or `StorageError`; the upload is of no use then."""
        with guarded("the upload can't be written"):
            write_at(self._fd, chunk, HEAD_BYTES + self.size)
        self.size += len(chunk)
        self._sha256.update(chunk)
        if self._md5:
            self._md5.update(chunk)
        self._sums.update(chunk)
        if self.size - self._behind >= _WRITE_BEHIND_BYTES:
            self._behind = self.size
            start_writing(self._fd)

    def finish(self) -> Staged:
        """Make it durable and close it. Raises `DiskFull` or `StorageError`."""
        with guarded("the upload can't be written"):
            write_at(self._fd, self._sums.table(), HEAD_BYTES + self.size)
            os.fsync(self._fd)
        self._close()
        self._finished = True
        return Staged(self.token, self.size, self._sha256.digest(), self._md5.digest() if self._md5 else b"")

    def abort(self) -> None:
        """Remove it, finished or not; does nothing when the storage has taken it over."""
        self._close()
        with guarded("an upload can't be removed"):
            remove(self._path)

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._finished:
            self.abort()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Staging:
    """The uploads of a data directory."""

    def __init__(self, directory: Path, reserve: int = 0) -> None:
        """`directory` is the node's data directory; `reserve` bytes of its filesystem are to stay free."""
        self._directory = directory / "staging"
        self._space = Space(directory, reserve)
        with guarded("the staging directory can't be made"):
            self._directory.mkdir(parents=True, exist_ok=True)

    def create(self, size: int = 0, *, md5: bool = False) -> Upload:
        """Begin an upload; `size` is what is expected, when known. Raises `DiskFull` when that has no room."""
        if self._space.short(size):
            raise DiskFull(f"{self._space.free()} bytes are free, too few for {size} more")
        return Upload(self._directory, md5)


def remove_abandoned(directory: Path) -> None:
    """Remove the uploads in the staging directory that nobody waits for any more."""
    with guarded("the staging directory can't be read"):
        for file in os.scandir(directory):
            if time.time() - file.stat().st_mtime > ABANDONED_SECS:
                log.info("abandoned upload removed", token=file.name)
                remove(Path(file.path))
