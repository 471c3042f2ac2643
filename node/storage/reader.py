"""Reads values, in another process than the agent that writes them. Safe for many threads.

A value is read by one look at the index. The record in the log tells key, seq and checksum, and the name of a value
file is never used again. So a file that was exchanged or removed meanwhile shows, and the reader looks again with care.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from broker import logs
from broker.clock import now_ms
from broker.messages.store import Kind
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.storage.disk.files import storage_error
from node.storage.disk.layout import Layout
from node.storage.index import state
from node.storage.index.index import MAP_BYTES, Index
from node.storage.index.rows import Entry
from node.storage.log import records
from node.storage.log.records import Header
from node.storage.log.segments import SegmentFile
from node.storage.value_files import ValueFile

log = logs.get(__name__)

_OPEN_SEGMENTS = 64
_TIDY_SECS = 5.0
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


class Reader:
    """The values of a data directory. Make it after any fork."""

    def __init__(self, directory: Path, *, map_bytes: int = MAP_BYTES) -> None:
        """The index may come later: until then `get` raises `StorageUnavailable`."""
        self._places = Layout.of(directory)
        self._map_bytes = map_bytes
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
        if time.monotonic() >= self._look_at or self._index is None:
            self._look()
        index = self._index
        if index is None:
            raise StorageUnavailable("the index is not there yet")
        try:
            raw = index.get(key)
            if raw is None:
                return None
            entry = Entry.unpack(raw)
            if not _readable(entry):
                return None
            if entry.token:
                try:
                    return self._open_value_file(entry, key)
                except FileNotFoundError:
                    return self._get_with_care(index, key, gone=entry.seq)
            segment = self._segments.get(entry.segment)
            if segment is not None:
                value = _read(segment, entry, key)
                if value is not None:
                    with suppress(KeyError):  # another thread has let go of it
                        self._segments.move_to_end(entry.segment)
                    return value
            return self._get_with_care(index, key)
        except StorageUnavailable:
            if index is self._index:
                raise
            return self.get(key)  # another index took its place just now

    def close(self) -> None:
        """Close the index; values that were returned before stay readable."""
        self._stop.set()
        with self._opening:
            before, self._index = self._index, None
            self._look_at = float("inf")
        if before is not None:
            before.close()
        self._segments.clear()

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
                index = Index(self._places.index, readonly=True, map_bytes=self._map_bytes)
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
                uid = b"" if entry.token else view.uid(entry.segment)
            if entry.seq == gone:
                raise Corrupt(f"the file of version {entry.version} is missing")
            try:
                if entry.token:
                    return self._open_value_file(entry, key)
                segment = SegmentFile(self._places.log, entry.segment)
            except FileNotFoundError:
                gone = entry.seq  # superseded just now, or lost: the index knows
                continue
            if segment.head.uid == uid:
                self._keep(segment)
                value = _read(segment, entry, key)
                if value is None:
                    raise Corrupt(f"the record of version {entry.version} in segment {entry.segment} is damaged")
                return value
            # Compaction is between its commit and its renaming.
            if time.monotonic() > deadline:
                raise StorageUnavailable(f"segment {entry.segment} is being exchanged")
            time.sleep(0.001)

    def _open_value_file(self, entry: Entry, key: bytes) -> StoredValue:
        """Raises `FileNotFoundError` when the file is gone, `StorageError`."""
        try:
            file = ValueFile(self._places.values, entry.token)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error("a value can't be opened", error) from error
        header = file.header
        if header.key != key or header.version != entry.version or header.size != entry.size:
            raise Corrupt(f"value file {entry.token} says it is another value")
        return StoredValue(header, None, file)

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


def _read(segment: SegmentFile, entry: Entry, key: bytes) -> StoredValue | None:
    """The value from the log, or None when what is there is not this record."""
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
    return StoredValue(header, value, None)
