"""The segments of the value log: files `log/00000001.seg` …, each a head and then records.

The head is 64 bytes, two copies of: magic 4 | number u32 | uid 8 | first seq u64 | CRC u32. The uid is random, and new
whenever the file is written anew. It shows whether an index entry and a file belong together. `first` is the seq that
came next when the segment was begun. Seqs go on from there even when every earlier record is gone.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from node.errors import Broken, Corrupt
from node.storage.disk.files import guarded, read_at, storage_error, sync_directory, write_at
from node.storage.log import records
from node.storage.log.records import Header

HEAD_BYTES = 64
_HEAD = struct.Struct("<4sI8sQI")
_MAGIC = b"PZS1"
_CHUNK = 1 << 20
_GROUP_BYTES = 32 << 20


class Head(NamedTuple):
    """The head of a segment."""

    number: int
    uid: bytes
    first: int  # seq


class Piece(NamedTuple):
    """A stretch of a segment: a record, or bytes that are no record (`header` is None)."""

    offset: int
    length: int
    header: Header | None
    value: bytes | None  # None: not what was written, or no record


def path(directory: Path, number: int) -> Path:
    """The path of segment `number`."""
    return directory / f"{number:08d}.seg"


def numbers(directory: Path) -> list[int]:
    """The numbers of all segments, ascending."""
    with guarded("the log's directory can't be read"):
        return sorted(int(name[:-4]) for name in os.listdir(directory) if name.endswith(".seg") and name[:-4].isdigit())


def new_head(number: int, first: int) -> tuple[Head, bytes]:
    """A head with a new uid, and its bytes."""
    head = Head(number, secrets.token_bytes(8), first)
    packed = _HEAD.pack(_MAGIC, *head, 0)[:-4]
    packed += records.crc32c(packed).to_bytes(4, "little")
    return head, packed.ljust(HEAD_BYTES // 2, b"\0") * 2


def read_head(fd: int) -> Head | None:
    """The head of an open segment; None when both copies are bad."""
    data = read_at(fd, HEAD_BYTES, 0)
    for at in (0, HEAD_BYTES // 2):
        packed = data[at : at + _HEAD.size]
        if len(packed) == _HEAD.size:
            magic, number, uid, first, crc = _HEAD.unpack(packed)
            if magic == _MAGIC and records.crc32c(packed[:-4]) == crc:
                return Head(number, uid, first)
    return None


def scan(fd: int, base: int, start: int, end: int) -> Iterator[Piece]:
    """Everything between two offsets, in order. Goes on after bytes that are no record."""
    window, origin = b"", start
    offset = start
    while offset < end:
        at = offset - origin
        wanted = records.PREFIX.size
        piece = None
        for _ in range(3):  # the prefix must be in the window, then the header, then the value
            if len(window) - at < wanted:
                window, origin, at = read_at(fd, min(max(wanted, _CHUNK), end - offset), offset), offset, 0
                if len(window) < wanted:
                    break
            lengths = records.lengths_at(window, at)
            if lengths is None or offset + lengths.record > end:
                break
            if len(window) - at >= lengths.record:
                piece = _record(window, at, base, offset, lengths.record)
                break
            # Read a long value only when the header is a good one.
            if len(window) - at >= lengths.head and records.parse(window, at, base, offset) is None:
                break
            wanted = lengths.record if len(window) - at >= lengths.head else lengths.head
        if piece is None:
            good = _next_record(fd, base, offset + 1, end)
            piece = Piece(offset, good - offset, header=None, value=None)
        yield piece
        offset += piece.length


def groups(pieces: Iterable[Piece], count: int, size: int = _GROUP_BYTES) -> Iterator[list[Piece]]:
    """Lists of `count` pieces, or of about `size` bytes; one empty list when there are no pieces at all."""
    group: list[Piece] = []
    length = 0
    none = True
    for piece in pieces:
        group.append(piece)
        length += piece.length
        if len(group) == count or length >= size:
            yield group
            group, length, none = [], 0, False
    if group or none:
        yield group


def _record(window: bytes, at: int, base: int, offset: int, length: int) -> Piece | None:
    head = records.parse(window, at, base, offset)
    if head is None:
        return None
    return Piece(offset, length, header=head.header, value=head.value(window))


def _next_record(fd: int, base: int, start: int, end: int) -> int:
    """The offset of the next good head of a record; `end` when there is none."""
    offset = start
    while offset < end:
        window = read_at(fd, min(_CHUNK + records.MAX_RECORD_HEAD, end - offset), offset)
        at = window.find(records.MAGIC)
        while 0 <= at < _CHUNK:
            lengths = records.lengths_at(window, at) if len(window) - at >= records.PREFIX.size else None
            if lengths and offset + at + lengths.record <= end and records.parse(window, at, base, offset + at):
                return offset + at
            at = window.find(records.MAGIC, at + 1)
        offset += _CHUNK
    return end


class ActiveSegment:
    """The segment that records are appended to, open for writing."""

    def __init__(self, directory: Path, head: Head, fd: int, size: int) -> None:
        self.number = head.number
        self.uid = head.uid
        self.first = head.first
        self.base = records.base(head.uid)
        self.size = size
        self._directory = directory
        self._fd = fd

    @classmethod
    def create(cls, directory: Path, number: int, first: int) -> ActiveSegment:
        """Begin segment `number`; `first` is the seq of the next record."""
        head, packed = new_head(number, first)
        name = path(directory, number)
        with guarded("a segment of the log can't be begun"):
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                write_at(fd, packed, 0)
                os.fsync(fd)
                sync_directory(directory)
            except OSError:
                os.close(fd)
                name.unlink()
                raise
        return cls(directory, head, fd, HEAD_BYTES)

    @classmethod
    def resume(cls, directory: Path, head: Head, size: int) -> ActiveSegment:
        """Go on with a segment whose good records end at `size`; the rest is cut off."""
        with guarded("the log can't be opened"):
            fd = os.open(path(directory, head.number), os.O_RDWR)
            if os.fstat(fd).st_size != size:
                os.ftruncate(fd, size)
                os.fsync(fd)
        return cls(directory, head, fd, size)

    def append(self, data: bytes) -> None:
        """Write records and make them durable. When that fails, nothing of them is left.

        Raises `DiskFull` or `StorageError`, and `Broken` when the write could not be undone.
        """
        try:
            write_at(self._fd, data, self.size)
            os.fdatasync(self._fd)
        except OSError as error:
            self.cut()
            raise storage_error("the log can't be written", error) from error
        self.size += len(data)

    def cut(self, size: int | None = None) -> None:
        """Cut the file at `size`, by default at the end of the last batch. Raises `Broken`."""
        self.size = self.size if size is None else size
        try:
            os.ftruncate(self._fd, self.size)
            os.fdatasync(self._fd)
        except OSError as error:
            raise Broken(f"a failed write to the log can't be taken back: {error}") from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def discard(self) -> None:
        """Remove the segment, which has no records."""
        self.close()
        with guarded("a segment can't be removed"):
            path(self._directory, self.number).unlink()


class SegmentFile:
    """A segment, open for reading. The file is closed when nobody holds this object any more."""

    __slots__ = ("base", "fd", "head", "size")

    def __init__(self, directory: Path, number: int) -> None:
        """Raises `FileNotFoundError` when the segment is gone, `Corrupt` when its head is bad."""
        with guarded(f"segment {number} of the log can't be read", may_be_missing=True):
            self.fd = os.open(path(directory, number), os.O_RDONLY)
            head = read_head(self.fd)
            self.size = os.fstat(self.fd).st_size
        if head is None or head.number != number:
            raise Corrupt(f"segment {number} of the log has a bad head")
        self.head = head
        self.base = records.base(head.uid)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)
