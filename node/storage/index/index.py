"""The node's index: an LMDB environment that has the place of the newest record of every key.

It is derived from the log, and replaceable.

| database   | key → value                                                                       |
| ---------- | --------------------------------------------------------------------------------- |
| `keys`     | key → `Entry` of its newest record, a value or a tombstone                        |
| `segments` | number u32 big-endian → `Stat`, what the segment holds                            |
| `files`    | token, 16 bytes → `FileOwner`: whose value is in the value file                   |
| `expiry`   | expires u64, seq u64, big-endian → key, for values whose lifetime has not ended   |
| `held`     | `held_row` → `Held`, a superseded record that stays for a while                   |
| `ends`     | mark?, end u64, random u64, big-endian → the rows of `held` that end from then on |
| `meta`     | `totals` → `Totals`; `epochs` → msgpack list of (seq, id)                         |

One process writes (the agent), others read. Commits are not flushed: `node.storage.index.state` decides whether an
index may be opened.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb
import msgpack

from broker import lmdb_files, logs, process
from broker.errors import NoAddressSpace
from broker.messages.store import Epoch
from node.errors import DiskFull, StorageError, StorageUnavailable, TooSmall
from node.storage.disk.files import guarded
from node.storage.index import state
from node.storage.index.rows import NUMBER, Stat, Totals
from node.storage.index.snapshot import Databases, Snapshot
from node.storage.index.update import IndexUpdate

log = logs.get(__name__)

MAP_BYTES = 1 << 30  # of address space at first; the file takes only what it needs
_NO_ROOM_BYTES = 1 << 20
_READERS = 128  # transactions that one process may have open at once
_OPTIONS = {"sync": False, "max_dbs": 16, "max_readers": 1024, "max_spare_txns": 1}  # readers of all processes


class Index:
    """An open index. The process that writes has `stats`, `totals` and `epochs` in memory, too.

    A reader holds a shared lock on the directory, which `node.storage.recovery` waits for.
    """

    def __init__(
        self, directory: Path, *, readonly: bool = False, map_bytes: int = MAP_BYTES, undelete_ms: int = 0
    ) -> None:
        """Maps `map_bytes` at first. Superseded records are held for `undelete_ms`.

        Raises `StorageError`, and `TooSmall` for too little address space.
        """
        self._directory = directory
        self.undelete_ms = undelete_ms
        self._map_bytes = map_bytes
        # One permit for each transaction. Whoever changes the map takes all of them first.
        self._permits: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._remapping = threading.Lock()
        self._closed = False
        self.stats: dict[int, Stat] = {}
        self.totals = Totals()
        self.epochs: list[Epoch] = []
        self._lock = -1
        with _translated(), guarded("the index can't be opened"), ExitStack() as undo:
            undo.callback(self._unlock)
            if readonly:
                self._lock = process.hold(directory, shared=True)
            self._env = lmdb_files.open_map(directory, map_bytes, readonly=readonly, create=not readonly, **_OPTIONS)
            undo.callback(self._env.close)
            databases = (self._env.open_db(name.encode(), create=not readonly) for name in Databases._fields)
            self._databases = Databases(*databases)
            self._keys = self._databases.keys
            if not readonly:
                self._load()
            elif not os.path.samestat(os.fstat(self._lock), directory.stat()):
                raise StorageUnavailable("another index has taken its place")
            undo.pop_all()
        for _ in range(_READERS):
            self._permits.put(None)

    def _load(self) -> None:
        with self._env.begin() as txn:
            self.stats = {NUMBER.unpack(k)[0]: Stat.unpack(v) for k, v in txn.cursor(db=self._databases.segments)}
            meta = {bytes(key): msgpack.unpackb(value) for key, value in txn.cursor(db=self._databases.meta)}
        self.totals = Totals(*meta.get(b"totals", ()))
        self.epochs = [Epoch(seq, epoch) for seq, epoch in meta.get(b"epochs", ())]

    # Reading.

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A view of the index as it is now. Hold it for a moment only: others may wait for its end."""
        self._permits.get()
        try:
            with _translated(), self._begin() as txn:
                yield Snapshot(txn, self._databases, self.totals, self.stats, self.undelete_ms)
        finally:
            self._permits.put(None)

    def get(self, key: bytes) -> bytes | None:
        """The packed entry of a key, without a snapshot."""
        permits = self._permits
        permits.get()
        try:
            if not self._closed:
                with self._env.begin(self._keys) as txn:
                    return txn.get(key)
        except lmdb.MapResizedError as error:
            log.debug("index was grown by its writer", reason=error)  # `snapshot` sees to it
        except lmdb.Error as error:
            raise _error(error) from error
        finally:
            permits.put(None)
        with self.snapshot() as view:
            return view.raw(key)

    def _begin(self) -> lmdb.Transaction[bytes]:
        if self._closed:
            raise StorageUnavailable("the index is closed")
        for _ in range(10):
            try:
                return self._env.begin(self._keys)
            except lmdb.MapResizedError:
                # Another process has grown the map. Others need this one's permit to see to that.
                self._permits.put(None)
                try:
                    self._remap(0)
                finally:
                    self._permits.get()
        raise StorageUnavailable("the index grows faster than it can be followed")

    def check_readers(self) -> None:
        """Free the slots of killed readers. Without that, LMDB never uses the pages again that they saw."""
        with _translated():
            self._env.reader_check()

    # Writing.

    @contextmanager
    def update(self) -> Iterator[IndexUpdate]:
        """A change on top of a snapshot, committed at the end of the block. Raises `DiskFull` or `StorageError`."""
        with self.snapshot() as view:
            change = IndexUpdate(view)
            yield change
        self.commit(change)

    def commit(self, change: IndexUpdate) -> None:
        """Apply a change, all or nothing. Raises `DiskFull` or `StorageError`; nothing has changed then."""
        totals = change.totals
        while True:
            try:
                with _translated(), self._env.begin(write=True) as txn:
                    self._write(txn, change, totals)
                break
            except _MapFull:
                self._grow(2 * self._map_bytes)
            except StorageError as error:
                if self._was_cut_short(error):
                    raise DiskFull(f"the index can't be written: {error}") from error
                raise
        for number, stat in change.stats.items():
            if stat is None:
                self.stats.pop(number, None)
            else:
                self.stats[number] = stat
        self.totals = totals
        if change.epochs is not None:
            self.epochs = change.epochs

    def _write(self, txn: lmdb.Transaction[bytes], change: IndexUpdate, totals: Totals) -> None:
        put, delete = txn.put, txn.delete
        keys, segments, files, expiry, meta, held, ends = self._databases
        for key, entry in change.entries.items():
            if entry is None:
                delete(key, db=keys)
            else:
                put(key, entry.pack(), db=keys)
        held_rows = change.held_rows()
        for database, rows in (
            (files, change.files),
            (expiry, change.expiry),
            (held, held_rows),
            (ends, change.ends()),
        ):
            for name, owner in rows.items():
                if owner is None:
                    delete(name, db=database)
                else:
                    put(name, owner, db=database)
        for number, stat in change.stats.items():
            if stat is None:
                delete(NUMBER.pack(number), db=segments)
            else:
                put(NUMBER.pack(number), stat.pack(), db=segments)
        put(b"totals", msgpack.packb(totals), db=meta)
        if change.epochs is not None:
            put(b"epochs", msgpack.packb(change.epochs), db=meta)

    def _was_cut_short(self, error: StorageError) -> bool:
        """Whether LMDB could write only a part of its pages, since the disk is full: it says "Input/output error"."""
        if os.strerror(errno.EIO) not in str(error):
            return False
        with guarded("the filesystem can't be asked for its free space"):
            figures = os.statvfs(self._directory)
        return figures.f_bavail * figures.f_frsize < _NO_ROOM_BYTES

    def _grow(self, size: int) -> None:
        with _translated():
            lmdb_files.check_room(size)
        log.info("index grows", map_bytes=size)
        self._map_bytes = size
        self._remap(size)

    def _remap(self, size: int) -> None:
        """Change the size of the map (0: as in the file) when no transaction is open in this process."""
        with self._remapping:
            for _ in range(_READERS):
                self._permits.get()
            try:
                with _translated():
                    self._env.set_mapsize(size)
            finally:
                for _ in range(_READERS):
                    self._permits.put(None)

    def _unlock(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def set_directory(self, directory: Path) -> None:
        """Note that the directory was renamed."""
        self._directory = directory

    def close(self, *, clean: bool = False) -> None:
        """Close the index. `clean` flushes it first, so that any later start may trust it."""
        with self._remapping:
            for _ in range(_READERS):
                self._permits.get()
            self._closed = True
            try:
                with _translated():
                    if clean:
                        self._env.sync(True)
                    self._env.close()
            finally:
                self._unlock()
                for _ in range(_READERS):
                    self._permits.put(None)
        if clean:
            state.note(self._directory, clean=True, undelete_ms=self.undelete_ms)


class _MapFull(Exception):
    """Raised inside this module when the map has to grow."""


def _error(error: lmdb.Error) -> StorageError:
    if isinstance(error, lmdb.DiskError):
        return DiskFull(f"the index can't be written: {error}")
    return StorageError(f"the index can't be used: {error}")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except lmdb.MapFullError as error:
        raise _MapFull from error
    except NoAddressSpace as error:
        raise TooSmall(f"the index can't be mapped: {error}. Raise that limit") from error
    except lmdb.Error as error:
        raise _error(error) from error
