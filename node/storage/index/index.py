"""The node's index: LMDB that says of every key where its newest record is. Derived from the log, replaceable.

| database   | key → value                                                                       |
| ---------- | --------------------------------------------------------------------------------- |
| `keys`     | key → `Entry` of its newest record, a value or a tombstone                        |
| `segments` | number u32 big-endian → `Stat`, what the segment holds                            |
| `files`    | token, 16 bytes → key of the value file                                           |
| `expiry`   | expires u64, seq u64, big-endian → key, for values whose lifetime has not ended   |
| `meta`     | `totals` → `Totals`; `epochs` → msgpack list of (seq, id)                         |

One process writes (the agent), others read. Commits are not flushed: `node.storage.index.state` tells whether what is
found at a start may be used.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import msgpack

from broker import lmdb_files, logs
from broker.errors import NoAddressSpace
from node.errors import DiskFull, StorageError, StorageUnavailable, TooSmall
from node.storage.index import state
from node.storage.index.rows import EXPIRY, NUMBER, Commit, Entry, Stat, Totals

log = logs.get(__name__)

MAP_BYTES = 1 << 30  # of address space at first; the file takes only what it needs
_READERS = 128  # transactions that one process may have open at once
_MAX_READERS = 1024  # of all processes together


class Index:
    """The index, opened. `stats`, `totals` and `epochs` are kept in memory by the process that writes."""

    def __init__(self, directory: Path, *, readonly: bool = False, map_bytes: int = MAP_BYTES) -> None:
        """Raises `StorageUnavailable` when there is none to be read, `StorageError`."""
        self._directory = directory
        self._map_bytes = map_bytes
        # One permit for each transaction: who changes the map takes all of them first.
        self._permits: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._remapping = threading.Lock()
        self._closed = False
        self.stats: dict[int, Stat] = {}
        self.totals = Totals()
        self.epochs: list[tuple[int, str]] = []
        with _translated():
            self._env = lmdb_files.open_map(
                directory,
                map_bytes,
                readonly=readonly,
                create=not readonly,
                sync=False,
                max_dbs=8,
                max_readers=_MAX_READERS,
                max_spare_txns=1,
            )
            try:
                names = (b"keys", b"segments", b"files", b"expiry", b"meta")
                self._keys, self.segments, self.files, self.expiry, self._meta = (
                    self._env.open_db(name, create=not readonly) for name in names
                )
                if not readonly:
                    self._load()
            except BaseException:
                self._env.close()
                raise
        for _ in range(_READERS):
            self._permits.put(None)

    def _load(self) -> None:
        with self._env.begin() as txn:
            self.stats = {NUMBER.unpack(k)[0]: Stat.unpack(v) for k, v in txn.cursor(db=self.segments)}
            meta = {bytes(key): msgpack.unpackb(value) for key, value in txn.cursor(db=self._meta)}
        self.totals = Totals(*meta.get(b"totals", ()))
        self.epochs = [(seq, epoch) for seq, epoch in meta.get(b"epochs", ())]

    # Reading.

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """A view of the index as it is now; to be held for a moment only, others may wait for its end."""
        self._permits.get()
        try:
            with _translated(), self._begin() as txn:
                yield Snapshot(txn, self)
        finally:
            self._permits.put(None)

    def get(self, key: bytes) -> bytes | None:
        """The packed entry of a key. The short way, for readers in a hurry."""
        permits = self._permits
        permits.get()
        try:
            if not self._closed:
                with self._env.begin(self._keys) as txn:
                    raw: bytes | None = txn.get(key)
                    return raw
        except lmdb.MapResizedError as error:
            log.debug("index was grown by its writer", reason=error)  # the longer way sees to it
        except lmdb.Error as error:
            raise _error(error) from error
        finally:
            permits.put(None)
        with self.snapshot() as view:
            return view.raw(key)

    def _begin(self) -> Any:
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
        """Free what readers left behind that were killed; without that no page they saw is used again."""
        with _translated():
            self._env.reader_check()

    # Writing.

    def commit(self, change: Commit) -> None:
        """Apply a change, all or nothing. Raises `DiskFull` or `StorageError`; nothing has changed then."""
        while True:
            try:
                with _translated(), self._env.begin(write=True) as txn:
                    self._write(txn, change)
                break
            except _MapFull:
                self._grow(2 * self._map_bytes)
        for number, stat in change.stats.items():
            if stat is None:
                self.stats.pop(number, None)
            else:
                self.stats[number] = stat
        self.totals = change.totals
        if change.epochs is not None:
            self.epochs = change.epochs

    def _write(self, txn: Any, change: Commit) -> None:
        put, delete = txn.put, txn.delete
        for key, entry in change.entries.items():
            if entry is None:
                delete(key, db=self._keys)
            else:
                put(key, entry.pack(), db=self._keys)
        for token, owner in change.files.items():
            name = bytes.fromhex(token)
            if owner is None:
                delete(name, db=self.files)
            else:
                put(name, owner, db=self.files)
        for due, owner in change.expiry.items():
            if owner is None:
                delete(due, db=self.expiry)
            else:
                put(due, owner, db=self.expiry)
        for number, stat in change.stats.items():
            if stat is None:
                delete(NUMBER.pack(number), db=self.segments)
            else:
                put(NUMBER.pack(number), stat.pack(), db=self.segments)
        put(b"totals", msgpack.packb(change.totals), db=self._meta)
        if change.epochs is not None:
            put(b"epochs", msgpack.packb(change.epochs), db=self._meta)

    def _grow(self, size: int) -> None:
        with _translated():
            lmdb_files.check_room(size)
        log.info("index grows", map_bytes=size)
        self._map_bytes = size
        self._remap(size)

    def _remap(self, size: int) -> None:
        """Change the size of the map (0: as it is in the file), when no transaction is open in this process."""
        with self._remapping:
            for _ in range(_READERS):
                self._permits.get()
            try:
                with _translated():
                    self._env.set_mapsize(size)
            finally:
                for _ in range(_READERS):
                    self._permits.put(None)

    def moved(self, directory: Path) -> None:
        """Its directory was renamed."""
        self._directory = directory

    def close(self, *, clean: bool = False) -> None:
        """Close it; `clean` when it is flushed and may be trusted at any later start."""
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
                for _ in range(_READERS):
                    self._permits.put(None)
        if clean:
            state.note(self._directory, clean=True)


class Snapshot:
    """A view of the index at one moment."""

    __slots__ = ("_index", "_txn", "raw")

    def __init__(self, txn: Any, index: Index) -> None:
        self._txn = txn
        self._index = index
        self.raw: Callable[[bytes], bytes | None] = txn.get  # key → packed entry

    def entry(self, key: bytes) -> Entry | None:
        """The entry of a key."""
        raw = self.raw(key)
        return None if raw is None else Entry.unpack(raw)

    def uid(self, number: int) -> bytes | None:
        """The uid that the file of a segment should have; None when there is no such segment."""
        raw = self._txn.get(NUMBER.pack(number), db=self._index.segments)
        return None if raw is None else Stat.unpack(raw).uid

    def entries(self, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """Up to `limit` entries behind a key, in the order of their keys."""
        found: list[tuple[bytes, Entry]] = []
        cursor = self._txn.cursor()
        if cursor.set_range(after + b"\0"):
            for key, raw in cursor:
                found.append((key, Entry.unpack(raw)))
                if len(found) == limit:
                    break
        return found

    def files(self) -> dict[str, bytes]:
        """The keys of all value files, by token."""
        return {token.hex(): key for token, key in self._txn.cursor(db=self._index.files)}

    def file(self, token: str) -> bytes | None:
        """The key of a value file; None when no key has it."""
        key: bytes | None = self._txn.get(bytes.fromhex(token), db=self._index.files)
        return key

    def expired(self, now: int, limit: int) -> list[bytes]:
        """Up to `limit` keys whose lifetime ended before `now`, those that ended first first."""
        found: list[bytes] = []
        for due, key in self._txn.cursor(db=self._index.expiry):
            if EXPIRY.unpack(due)[0] > now or len(found) == limit:
                break
            found.append(key)
        return found


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
