"""Uploads: files in `staging/` with the layout of a value file, their heads still empty.

The data server writes them. The agent's storage makes them value files by renaming them into `values/`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.clock import DAY_SECS
from node.errors import DiskFull
from node.storage.disk.files import guarded, remove, start_writing, write_at
from node.storage.disk.layout import Layout
from node.storage.disk.space import Space
from node.storage.value_files import HEAD_BYTES, Sums

log = logs.get(__name__)

ABANDONED_SECS = DAY_SECS  # uploads untouched for this long are removed
_REQUEST = "room-"
_ROOM_PAUSE_SECS = 0.05
_WRITE_BEHIND_BYTES = 32 << 20  # the kernel writes so much at a time, so the flush at the end is short


class StagedUpload(NamedTuple):
    """An upload that is complete and durable."""

    token: str
    size: int
    sha256: bytes
    md5: bytes  # b"" unless asked for


class Upload:
    """One upload. Use it as a context manager: an unfinished upload is removed at the end of the block."""

    def __init__(self, directory: Path, md5: bool, take: Callable[[int], None] | None = None, token: str = "") -> None:
        """`token` is its name, "" for a new one.

        `take` gets the number of bytes before each write, and -1 at the end; it may raise `DiskFull`.
        Raises `DiskFull` or `StorageError`.
        """
        self.token = token or secrets.token_hex(16)
        self.size = 0
        self._behind = 0  # the kernel was told to write the bytes up to here
        self._path = directory / self.token
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False) if md5 else None
        self._sums = Sums()
        self._finished = False
        self._take = take
        self._fd = -1
        with guarded("an upload can't be begun"):
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                # Room for the head, so that the agent needs none for it.
                write_at(self._fd, bytes(HEAD_BYTES), 0)
            except OSError:
                self.abort()
                raise

    def write(self, chunk: bytes) -> None:
        """Append bytes. Raises `DiskFull` or `StorageError`; then the upload is of no use."""
        if self._take is not None:
            self._take(len(chunk))
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

    def finish(self) -> StagedUpload:
        """Make the upload durable and close it. Raises `DiskFull` or `StorageError`."""
        with guarded("the upload can't be written"):
            write_at(self._fd, self._sums.table(), HEAD_BYTES + self.size)
            os.fsync(self._fd)
        self._close()
        self._finished = True
        return StagedUpload(self.token, self.size, self._sha256.digest(), self._md5.digest() if self._md5 else b"")

    def abort(self) -> None:
        """Remove the upload, finished or not. Does nothing when it has become a value file."""
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
            if self._take is not None:
                self._take(-1)


class RoomRequests:
    """Requests for room by processes that can't end held values; the agent can. Each is an empty file in `tmp/`."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the node's data directory."""
        self._directory = Layout.of(directory).tmp

    def ask(self, wanted: int, secs: float) -> None:
        """Ask for `wanted` bytes above the reserve; returns when the agent has looked, or after `secs`."""
        name = self._directory / f"{_REQUEST}{wanted}-{secrets.token_hex(8)}"
        try:
            name.touch(exist_ok=False)
        except OSError as error:
            log.debug("room can't be asked for", reason=error)
            return
        end = time.monotonic() + secs
        while name.exists() and time.monotonic() < end:
            time.sleep(_ROOM_PAUSE_SECS)
        with guarded("a request for room can't be removed"):
            remove(name)

    def wanted(self) -> dict[Path, int]:
        """The bytes that are asked for, by file. Raises `StorageError`."""
        with guarded("requests for room can't be read"):
            names = [name for name in os.listdir(self._directory) if name.startswith(_REQUEST)]
        sizes = [(name, name.removeprefix(_REQUEST).partition("-")[0]) for name in names]
        return {self._directory / name: int(size) for name, size in sizes if size.isascii() and size.isdecimal()}


class Staging:
    """The uploads of a data directory. Thread-safe."""

    def __init__(self, directory: Path, reserve: int = 0, patience: float = 0.0) -> None:
        """`directory` is the node's data directory; `reserve` bytes of its filesystem stay free.

        Without room the agent is asked for some, and has `patience` seconds to make it.
        """
        self._requests = RoomRequests(directory)
        self._patience = patience
        self._directory = directory / "staging"
        self._space = Space(directory, reserve)
        self._guard = threading.Lock()
        self._promised = 0  # bytes that unfinished uploads will still write
        with guarded("the staging directory can't be made"):
            self._directory.mkdir(parents=True, exist_ok=True)

    def create(self, size: int | None = None, *, md5: bool = False, token: str = "") -> Upload:
        """Begin an upload of `size` bytes, None: not known; `md5` asks for that sum, too. `token`: its name.

        Raises `DiskFull` when there is no room for it beside the unfinished uploads.
        """
        left = size or 0  # of the bytes promised to it

        def take(count: int) -> None:
            nonlocal left
            if count > left:
                self._ask_for(count - left)
            with self._guard:
                if count > left:
                    self._check(count - left)
                if count < 0:  # it is over
                    self._promised -= left
                    left = 0
                    return
                self._promised -= min(count, left)
                left -= min(count, left)
                self._space.take(count)

        self._ask_for(left)
        with self._guard:
            self._check(left)
            self._promised += left
        try:
            return Upload(self._directory, md5, take, token)
        except BaseException:
            take(-1)
            raise

    def remove(self, token: str) -> None:
        """Remove an upload. Does nothing when it is not there, or has become a value file. Raises `StorageError`."""
        with guarded("an upload can't be removed"):
            remove(self._directory / token)

    def _ask_for(self, wanted: int) -> None:
        """Ask the agent for room if there is none, without keeping other uploads waiting."""
        if self._patience:
            with self._guard:
                missing = self._space.short(wanted + self._promised)
                wanted += self._promised
            if missing:
                self._requests.ask(wanted, self._patience)
                self._space.forget()

    def _check(self, wanted: int) -> None:
        if self._space.short(wanted + self._promised):
            raise DiskFull(
                f"{self._space.free()} bytes are free, {self._promised} of them for uploads on their way: "
                f"too few for {wanted} more"
            )


def remove_abandoned(directory: Path) -> None:
    """Remove the uploads in the staging directory that are untouched for `ABANDONED_SECS`."""
    with guarded("the staging directory can't be read"):
        for file in os.scandir(directory):
            if time.time() - file.stat().st_mtime > ABANDONED_SECS:
                log.info("abandoned upload removed", token=file.name)
                remove(Path(file.path))
