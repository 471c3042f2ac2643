"""The SHA-256 of sealed segments and value files, each computed once, so that a snapshot reads no old file.

They are in an LMDB environment, `digests/`: path → `_ROW` of inode, size, mtime in ns and digest. A digest counts only
while the file has the same three. The environment is replaceable: whatever is wrong with it, it begins empty.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import lmdb

from broker import lmdb_files, logs
from broker.errors import NoAddressSpace
from node.errors import StorageError
from node.storage.disk.files import guarded
from node.storage.index import state

log = logs.get(__name__)

MAP_BYTES = 1 << 28
CHUNK_BYTES = 1 << 18
_ROW = struct.Struct("<QQQ32s")
T = TypeVar("T")
_GROUP = 1000  # rows written or looked through in one transaction


class Digests:
    """The digests of a data directory. Thread-safe, but for `close`."""

    def __init__(self, directory: Path) -> None:
        """`directory` is that of the environment. Raises `StorageError`."""
        self._directory = directory
        self._guard = threading.Lock()
        self._map_bytes = MAP_BYTES
        self.unknown: deque[str] = deque()  # paths of new files, below the data directory
        self.complete = False  # whether files from before this start were looked for
        if objection := state.objection(directory):
            log.debug("digests begin anew", reason=objection)
            shutil.rmtree(directory, ignore_errors=True)
        self._open()

    def _open(self) -> None:
        with guarded("the digests can't be opened"):
            try:
                self._directory.mkdir(exist_ok=True)
                self._env = lmdb_files.open_map(self._directory, self._map_bytes, sync=False, max_readers=16)
            except (lmdb.Error, NoAddressSpace) as error:
                raise StorageError(f"the digests can't be opened: {error}") from error
        state.note(self._directory, clean=False, undelete_ms=0)

    def get(self, path: str, status: os.stat_result) -> bytes | None:
        """The digest of a file that has this status; None when it is not known."""
        with self._guard, self._env.begin() as txn:
            row = txn.get(path.encode())
        if row is None or len(row) != _ROW.size:
            return None
        *seen, digest = _ROW.unpack(row)
        return digest if seen == _seen(status) else None

    def former(self, path: str, status: os.stat_result) -> bytes | None:
        """The digest that a file had before its time changed, of as many bytes; None when it is not known.

        A value file is never written again, nor is a segment: compaction makes a new file of it.
        """
        with self._guard, self._env.begin() as txn:
            row = txn.get(path.encode())
        if row is None or len(row) != _ROW.size:
            return None
        inode, size, _, digest = _ROW.unpack(row)
        same = size == status.st_size and (inode == status.st_ino or path.startswith("values/"))
        return digest if same else None

    def put(self, rows: Iterable[tuple[str, os.stat_result, bytes]]) -> None:
        """Note the digests of files: path, status and digest of each. Without room for them they are forgotten."""
        for group in _groups(rows):
            with self._guard:
                try:
                    self._put(group)
                except (lmdb.Error, OSError, NoAddressSpace) as error:
                    log.warning("digests can't be kept; files are read again", files=len(group), error=error)

    def _put(self, group: Iterable[tuple[str, os.stat_result, bytes]]) -> None:
        while True:
            try:
                with self._env.begin(write=True) as txn:
                    for path, status, digest in group:
                        txn.put(path.encode(), _ROW.pack(*_seen(status), digest))
                return
            except lmdb.MapFullError:
                lmdb_files.check_room(2 * self._map_bytes)
                self._map_bytes *= 2
                self._env.set_mapsize(self._map_bytes)

    def paths(self) -> Iterator[str]:
        """The paths of all files with a digest, ascending."""
        after = b""
        while True:
            with self._guard, self._env.begin() as txn, txn.cursor() as cursor:
                group = list(islice(cursor.iternext(values=False), _GROUP)) if cursor.set_range(after + b"\0") else []
            if not group:
                return
            yield from (path.decode() for path in group)
            after = group[-1]

    def forget(self, paths: Iterable[str]) -> None:
        """Drop the digests of files that are gone."""
        for group in _groups(paths):
            with self._guard, self._env.begin(write=True) as txn:
                for path in group:
                    txn.delete(path.encode())

    def close(self) -> None:
        """Close the environment so that the next start may trust it."""
        with self._guard:
            self._env.sync(True)
            self._env.close()
        state.note(self._directory, clean=True, undelete_ms=0)


def of_file(path: Path, pace: Callable[[int], None]) -> tuple[os.stat_result, bytes]:
    """Status and SHA-256 of a file that nobody changes; `pace` gets the bytes of each read.

    Raises `FileNotFoundError`, `StorageError`.
    """
    digest = hashlib.sha256()
    with guarded(f"{path} can't be read", may_be_missing=True), path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            pace(len(chunk))
        return os.fstat(file.fileno()), digest.digest()


def _seen(status: os.stat_result) -> list[int]:
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _groups(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while group := list(islice(iterator, _GROUP)):
        yield group
