"""Reads values, in a process of its own beside the agent that writes them. Safe for many threads.

A value in the log is read by the index entry alone: its record tells key, seq and checksum, so a file that
compaction has exchanged meanwhile shows by not matching, and then the longer way looks again with care.
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
from node.storage.disk.files import translated
from node.storage.disk.layout import Layout
from node.storage.index import state
from node.storage.index.index import MAP_BYTES, Index
from node.storage.index.rows import Entry
from node.storage.log import records
from node.storage.log.records import Header
from node.storage.log.segments import Opened
from node.storage.value_files import ValueFile

log = logs.get(__name__)

_OPEN_SEGMENTS = 64
_TIDY_SECS = 5.0
_PATIENCE_SECS = 2.0  # an exchange of a segment takes less


class Found:
    """A value. When it is in a file, that is open until `close`, or until nobody holds this any more."""

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

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Reader:
    """The values of a data directory; to be made after any fork."""

    def __init__(self, directory: Path, *, map_bytes: int = MAP_BYTES) -> None:
        """The index may come later: until then `get` raises `StorageUnavailable`."""
        self._places = Layout.of(directory)
        self._map_bytes = map_bytes
        self._index: Index | None = None
        self._index_file: tuple[int, int] | None = None
        self._look_at = 0.0  # when to look whether the index is still the same file
        self._opening = threading.Lock()
        self._segments: OrderedDict[int, Opened] = OrderedDict()
        self._stop = threading.Event()
        threading.Thread(target=self._tidy, name="reader tidy", daemon=True).start()

    def get(self, key: bytes) -> Found | None:
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
            if not entry.token:
                opened = self._segments.get(entry.segment)
                if opened is not None:
                    found = _read(opened, entry, key)
                    if found is not None:
                        self._used(entry.segment)
                        return found
            return self._get_with_care(index, key)
        except StorageUnavailable:
            if index is self._index:
                raise
            return self.get(key)  # another index took its place just now

    def _used(self, number: int) -> None:
        with suppress(KeyError):  # another thread has let go of it
            self._segments.move_to_end(number)

    def close(self) -> None:
        """End it; values found before stay readable."""
        self._stop.set()
        with self._opening:
            index, self._index = self._index, None
            self._look_at = float("inf")
        if index is not None:
            index.close()
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
                raise translated("the index can't be looked at", error) from error
            # A file that is open keeps its inode number, so another one is told by it.
            found = (status.st_dev, status.st_ino)
            if found == self._index_file or state.objection(self._places.index):
                return
            before = self._index
            try:
                self._index = Index(self._places.index, readonly=True, map_bytes=self._map_bytes)
            except StorageError as error:
                log.warning("index can't be opened just now", error=error)
                return
            self._index_file = found
        if before is not None:
            before.close()

    def _get_with_care(self, index: Index, key: bytes) -> Found | None:
        """Entry and file looked up together until they match. For files, and when the quick way did not do."""
        deadline = time.monotonic() + _PATIENCE_SECS
        gone = 0
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
                    return _open(self._places.values, entry, key)
                opened = Opened(self._places.log, entry.segment)
            except FileNotFoundError:
                gone = entry.seq  # superseded just now, or lost: the index knows
                continue
            except OSError as error:
                raise translated("a value can't be opened", error) from error
            if opened.head.uid == uid:
                self._keep(opened)
                found = _read(opened, entry, key)
                if found is None:
                    raise Corrupt(f"the record of version {entry.version} in segment {entry.segment} is damaged")
                return found
            # Compaction is between its commit and its renaming.
            if time.monotonic() > deadline:
                raise StorageUnavailable(f"segment {entry.segment} is being exchanged")
            time.sleep(0.001)

    def _keep(self, opened: Opened) -> None:
        self._segments[opened.head.number] = opened
        while len(self._segments) > _OPEN_SEGMENTS:
            with suppress(KeyError):
                self._segments.popitem(last=False)

    def _tidy(self) -> None:
        """Let go of segments that compaction has exchanged or removed, so that their space is free."""
        while not self._stop.wait(_TIDY_SECS):
            for number, opened in list(self._segments.items()):
                if os.fstat(opened.fd).st_nlink == 0:
                    self._segments.pop(number, None)


def _readable(entry: Entry) -> bool:
    if entry.kind != Kind.PUT or entry.expired:
        return False
    return not entry.expires or entry.expires > now_ms()


def _read(opened: Opened, entry: Entry, key: bytes) -> Found | None:
    """The value from the log, or None when what is there is not this record."""
    try:
        record = os.pread(opened.fd, entry.length, entry.offset)
    except OSError:
        return None
    decoded = records.decode(record, opened.base, entry.offset)
    if decoded is None:
        return None
    header, value = decoded
    if value is None or header.seq != entry.seq or header.key != key or header.kind != Kind.PUT:
        return None
    return Found(header, value, None)


def _open(directory: Path, entry: Entry, key: bytes) -> Found:
    file = ValueFile(directory, entry.token)
    header = file.header
    if header.key != key or header.version != entry.version or header.size != entry.size:
        raise Corrupt(f"value file {entry.token} says it is another value")
    return Found(header, None, file)
