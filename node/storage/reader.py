"""Reads values, in another process than the agent that writes them. Safe for many threads.

A value is read by one look at the index. The record in the log tells key, seq and checksum, and the name of a value
file is never used again. So a file that was exchanged or removed meanwhile shows, and the reader looks again with care.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from broker import keys, lmdb_files, logs
from broker.clock import now_ms
from broker.messages.store import Kind
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.storage.disk.files import guarded, storage_error
from node.storage.disk.layout import Layout
from node.storage.index import state
from node.storage.index.index import MAP_BYTES, Index
from node.storage.index.rows import Entry
from node.storage.index.snapshot import Snapshot
from node.storage.log import records
from node.storage.log.records import Header
from node.storage.log.segments import SegmentFile
from node.storage.value_files import ValueFile

log = logs.get(__name__)

_OPEN_SEGMENTS = 64
_TIDY_SECS = 5.0
_ROWS = 20_000  # looked at for one page
_PATIENCE_SECS = 2.0  # the exchange of a segment takes less


class StoredValue:
    """A value. Its file, if it has one, is open until `close`, or until nobody holds this object any more."""

    __slots__ = ("content_type", "created", "data", "digest", "expires", "file", "key", "size", "version")

    def __init__(self, header: Header, data: bytes | None, file: ValueFile | None) -> None:
        _, self.key, self.version, _, self.created, self.expires, self.content_type, self.digest, self.size, _ = header
        self.data = data  # the whole value, or None when it is in `file`
        self.file = file

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes from `offset` on, checked; raises `Corrupt`."""
        if self.file is not None:
            return self.file.pread(length, offset)
        assert self.data is not None
        return self.data[offset : offset + length]

    def close(self) -> None:
        """Close the file, if there is one."""
        if self.file is not None:
            self.file.close()


class DeletedVersion(NamedTuple):
    """A deleted or overwritten value that can be brought back; times are in ms since the epoch."""

    key: bytes
    version: int
    size: int
    digest: bytes
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    created: int
    expires: int  # 0: never
    deleted: int
    until: int  # when it goes


class DeletedPage(NamedTuple):
    """A part of the list of deleted versions."""

    versions: list[DeletedVersion]
    last: tuple[str, int] | None  # key and version that the next page begins behind; None at the end


class _Exchanging(Exception):
    """Raised inside this module when compaction is between its commit and its renaming."""


class Reader:
    """The values of a data directory. Make it after any fork."""

    def __init__(self, directory: Path, *, map_bytes: int = MAP_BYTES, undelete_ms: int = 0) -> None:
        """The index may come later: until then `get` raises `StorageUnavailable`."""
        self._places = Layout.of(directory)
        self._map_bytes = map_bytes
        self._undelete_ms = undelete_ms
        self._index: Index | None = None
        self._index_file: tuple[int, int] | None = None
        self._look_at = 0.0  # when to look whether the index is still the same file
        self._opening = threading.Lock()
        self._segments: OrderedDict[int, SegmentFile] = OrderedDict()
        self._stop = threading.Event()
        threading.Thread(target=self._watch, name="reader watch", daemon=True).start()

    def get(self, key: bytes) -> StoredValue | None:
        """The value of an encoded key; None when there is none, or its lifetime has ended.

        Raises `Corrupt` when it is not what was written, `StorageUnavailable` while the index is not there,
        `StorageError` when the disk fails.
        """
        index = self._current()
        try:
            raw = index.get(key)
            if raw is None:
                return None
            entry = Entry.unpack(raw)
            if not _readable(entry):
                return None
            file = None
            if entry.token:
                try:
                    file = self._open_value_file(entry)
                except FileNotFoundError:
                    return self._get_with_care(index, key, gone=entry.seq)
                if not file.linked:
                    return _of_file(file, entry, key)
            segment = self._segments.get(entry.segment)
            if segment is not None:
                value = _read(segment, entry, key, file)
                if value is not None:
                    with suppress(KeyError):  # another thread has let go of it
                        self._segments.move_to_end(entry.segment)
                    return value
            return self._get_with_care(index, key)
        except StorageUnavailable:
            if index is self._index:
                raise
            return self.get(key)  # another index took its place just now

    @contextmanager
    def view(self) -> Iterator[Snapshot]:
        """A view of the index, for a moment only. Raises `StorageUnavailable` while the index is not there."""
        if time.monotonic() >= self._look_at or self._index is None:
            self._look()
        index = self._index
        if index is None:
            raise StorageUnavailable("the index is not there yet")
        with index.snapshot() as view:
            yield view

    def index_faults(self) -> list[str]:
        """What is wrong with the file of the index, for a person.

        Raises `StorageUnavailable` while the index may not be opened.
        """
        if reason := state.objection(self._places.index):
            raise StorageUnavailable(f"the index can't be looked at now: {reason}")
        return lmdb_files.faults(self._places.index)

    def close(self) -> None:
        """Close the index; values that were returned before stay readable."""
        self._stop.set()
        with self._opening:
            before, self._index = self._index, None
            self._look_at = float("inf")
        if before is not None:
            before.close()
        self._segments.clear()

    def deleted(self, prefix: str, after: tuple[str, int] | None, limit: int) -> DeletedPage:
        """Up to `limit` versions that can be brought back, of keys that begin with `prefix`, behind `after`.

        They ascend by key and version. A page may be short, and even empty, when others follow.
        Raises `StorageUnavailable`, `StorageError`.
        """
        deadline = time.monotonic() + _PATIENCE_SECS
        while True:
            index = self._current()
            try:
                with index.snapshot() as view:
                    return self._deleted_page(view, prefix, after, limit)
            except _Exchanging:
                if time.monotonic() > deadline:
                    raise StorageUnavailable("a segment is being exchanged") from None
                time.sleep(0.001)
            except StorageUnavailable:
                if index is self._index:
                    raise

    def _deleted_page(self, view: Snapshot, prefix: str, after: tuple[str, int] | None, limit: int) -> DeletedPage:
        now = now_ms()
        versions: list[DeletedVersion] = []
        for seen, (key, row) in enumerate(view.held_from(prefix, after), 1):
            until = row.until(view.undelete_ms)
            if row.is_value and until > now and (header := self._header_of(view, key, row.entry)):
                _, _, version, _, created, expires, content_type, digest, size, _ = header
                versions.append(
                    DeletedVersion(key, version, size, digest, content_type, created, expires, row.deleted, until)
                )
            if len(versions) == limit or seen == _ROWS:
                return DeletedPage(versions, (keys.decode(key), row.entry.version))
        return DeletedPage(versions, None)

    def _header_of(self, view: Snapshot, key: bytes, entry: Entry) -> Header | None:
        """The header of a record in the log; None when it is damaged. Raises `_Exchanging`, `StorageError`."""
        uid = view.uid(entry.segment)
        segment = self._segments.get(entry.segment)
        if segment is None or segment.head.uid != uid:
            try:
                segment = SegmentFile(self._places.log, entry.segment)
            except FileNotFoundError:
                raise _Exchanging from None
            if segment.head.uid != uid:
                raise _Exchanging
            self._keep(segment)
        with guarded("the log can't be read"):
            record = os.pread(segment.fd, min(entry.length, records.MAX_RECORD_HEAD), entry.offset)
        head = records.parse(record, 0, segment.base, entry.offset)
        if head is None or (head.header.key, head.header.seq) != (key, entry.seq):
            log.error("record of a deleted value is damaged", key=key, version=entry.version, segment=entry.segment)
            return None
        return head.header

    def _current(self) -> Index:
        """The index as it is now. Raises `StorageUnavailable`."""
        if time.monotonic() >= self._look_at or self._index is None:
            self._look()
        index = self._index
        if index is None:
            raise StorageUnavailable("the index is not there yet")
        return index

    def _look(self) -> None:
        """Open the index if it is not open, or is another file than it was."""
        with self._opening:
            now = time.monotonic()
            if now < self._look_at:
                return
            self._look_at = now + state.NOTICED_SECS
            try:
                status = (self._places.index / "data.mdb").stat()
            except FileNotFoundError:
                return  # being built: what was there before is still open
            except OSError as error:
                raise storage_error("the index can't be looked at", error) from error
            # A file that is open keeps its inode number, so another file has another one.
            file = (status.st_dev, status.st_ino)
            if file == self._index_file or state.objection(self._places.index):
                return
            try:
                index = Index(
                    self._places.index, readonly=True, map_bytes=self._map_bytes, undelete_ms=self._undelete_ms
                )
            except StorageError as error:
                log.warning("index can't be opened just now", error=error)
                return
            before, self._index, self._index_file = self._index, index, file
        if before is not None:
            before.close()

    def _get_with_care(self, index: Index, key: bytes, gone: int = 0) -> StoredValue | None:
        """Look up entry and file together until they match.

        `gone` is the seq of an entry whose file was not there, 0 for none.
        """
        deadline = time.monotonic() + _PATIENCE_SECS
        while True:
            with index.snapshot() as view:
                entry = view.entry(key)
                if entry is None or not _readable(entry):
                    return None
                uid = view.uid(entry.segment)
            if entry.seq == gone:
                raise Corrupt(f"the file of version {entry.version} is missing")
            file = None
            try:
                if entry.token:
                    file = self._open_value_file(entry)
                    if not file.linked:
                        return _of_file(file, entry, key)
                segment = SegmentFile(self._places.log, entry.segment)
            except FileNotFoundError:
                gone = entry.seq  # superseded just now, or lost: the index knows
                continue
            if segment.head.uid == uid:
                self._keep(segment)
                value = _read(segment, entry, key, file)
                if value is None:
                    raise Corrupt(f"the record of version {entry.version} in segment {entry.segment} is damaged")
                return value
            # Compaction is between its commit and its renaming.
            if time.monotonic() > deadline:
                raise StorageUnavailable(f"segment {entry.segment} is being exchanged")
            time.sleep(0.001)

    def _open_value_file(self, entry: Entry) -> ValueFile:
        """Raises `FileNotFoundError` when the file is gone, `StorageError`."""
        try:
            return ValueFile(self._places.values, entry.token)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error("a value can't be opened", error) from error

    def _keep(self, segment: SegmentFile) -> None:
        self._segments[segment.head.number] = segment
        while len(self._segments) > _OPEN_SEGMENTS:
            with suppress(KeyError):  # another thread was quicker
                self._segments.popitem(last=False)

    def _watch(self) -> None:
        """Follow the index while nobody reads, and let go of segments that compaction has exchanged or removed."""
        tidy_at = time.monotonic() + _TIDY_SECS
        while not self._stop.wait(state.NOTICED_SECS):
            try:
                self._look()
            except StorageError as error:
                log.warning("index can't be followed", error=error)
                self._stop.wait(_TIDY_SECS)
            if time.monotonic() < tidy_at:
                continue
            tidy_at = time.monotonic() + _TIDY_SECS
            for number, segment in list(self._segments.items()):
                if os.fstat(segment.fd).st_nlink == 0:
                    self._segments.pop(number, None)


def _readable(entry: Entry) -> bool:
    if entry.kind != Kind.PUT or entry.expired:
        return False
    return not entry.expires or entry.expires > now_ms()


def _of_file(file: ValueFile, entry: Entry, key: bytes) -> StoredValue:
    """The value in a file with a head of its own; raises `Corrupt` when that is another value's."""
    header = file.header
    if header.key != key or header.version != entry.version or header.size != entry.size:
        raise Corrupt(f"value file {entry.token} says it is another value")
    return StoredValue(header, None, file)


def _read(segment: SegmentFile, entry: Entry, key: bytes, file: ValueFile | None) -> StoredValue | None:
    """The value from the log, or None when what is there is not this record.

    The value is in `file` if that is a link, and the record says whose it is. Raises `Corrupt` for another file.
    """
    try:
        record = os.pread(segment.fd, entry.length, entry.offset)
    except OSError:
        return None  # damage, which the reader with care reports
    head = records.parse(record, 0, segment.base, entry.offset)
    if head is None:
        return None
    header, value = head.header, head.value(record)
    if value is None or header.seq != entry.seq or header.key != key or header.kind != Kind.PUT:
        return None
    if file is None:
        return StoredValue(header, value, None)
    if (header.where, header.size, header.digest) != (file.token, file.size, file.header.digest):
        raise Corrupt(f"value file {file.token} has another value than its record says")
    return StoredValue(header, None, file)
