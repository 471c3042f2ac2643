"""The formats of archives: what stands before, after and between the values, which are stored as they are.

Sizes are known before a value comes, so nothing is ever changed later. Nothing here does I/O but the list of the
members of a zip archive, which stands at its end: it is kept in a temporary file once it is long.
"""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from typing import Protocol

SPOOL_BYTES = 1 << 20  # a list of members, or of what is missing, is kept in memory up to this size
_PIECE_BYTES = 1 << 18


class Format(Protocol):
    """The format of one archive while it is written."""

    @property
    def content_type(self) -> str:
        """The Content-Type of the archive."""

    def small(self, name: str, modified: int, value: bytes) -> bytes:
        """A whole member; `modified` is in seconds since the epoch."""

    @property
    def wants_sum(self) -> bool:
        """Whether the CRC-32 of a value should be known before it."""

    def head(self, name: str, modified: int, size: int, checksum: int | None = None) -> bytes:
        """The beginning of a member whose value of `size` bytes follows in pieces; `checksum` is its CRC-32."""

    def note(self, piece: bytes) -> None:
        """Take note of a piece of the value that follows the head."""

    def tail(self) -> bytes:
        """What follows the last piece."""

    def end(self) -> Iterator[bytes]:
        """The end of the archive."""


_BLOCK = 512
_OCTAL_SIZES = 8 << 30  # from here on a size needs a record of its own
_OCTAL_TIMES = 8 << 30  # seconds, in the year 2242
_MODE = b"0000644\0"
_ID = b"0000000\0"
_MAGIC = b"ustar\00000"
_AFTER_NAME = _MODE + _ID + _ID
_BEFORE_SUM = b" " * 8  # a checksum counts as blanks while it is made
_REST = bytes(100) + _MAGIC + bytes(64) + _ID + _ID


class Tar:
    """A tar archive as POSIX.1-2001 has it (pax): an extended header where the plain one has no room."""

    content_type = "application/x-tar"
    wants_sum = False

    def __init__(self) -> None:
        self._size = 0

    def small(self, name: str, modified: int, value: bytes) -> bytes:
        """See `Format`."""
        return self.head(name, modified, len(value)) + value + self.tail()

    def head(self, name: str, modified: int, size: int, checksum: int | None = None) -> bytes:
        """See `Format`."""
        self._size = size
        encoded = name.encode("ascii")
        modified = min(max(0, modified), _OCTAL_TIMES - 1)
        prefix, short = _split(encoded)
        records = b""
        if short is None:
            records += _record(b"path", encoded)
            short = encoded[-100:]
        if size >= _OCTAL_SIZES:
            records += _record(b"size", b"%d" % size)
            size = 0
        if not records:
            return _header(prefix, short, size, modified, b"0")
        extended = _header(b"", b"././@PaxHeader", len(records), modified, b"x") + records + bytes(_padding(records))
        return extended + _header(prefix, short, size, modified, b"0")

    def note(self, piece: bytes) -> None:
        """See `Format`."""

    def tail(self) -> bytes:
        """See `Format`."""
        return bytes(-self._size % _BLOCK)

    def end(self) -> Iterator[bytes]:
        """See `Format`."""
        yield bytes(2 * _BLOCK)


def _header(prefix: bytes, name: bytes, size: int, modified: int, kind: bytes) -> bytes:
    before = name.ljust(100, b"\0") + _AFTER_NAME + b"%011o\0%011o\0" % (size, modified)
    after = kind + _REST + prefix.ljust(167, b"\0")
    checksum = sum(before) + sum(_BEFORE_SUM) + sum(after)
    return before + b"%06o\0 " % checksum + after


def _split(name: bytes) -> tuple[bytes, bytes | None]:
    """A name as the two fields of a plain header; None when it does not fit into them."""
    if len(name) <= 100:
        return b"", name
    cut = name.rfind(b"/", 0, 156)
    if cut > 0 and 0 < len(name) - cut - 1 <= 100:
        return name[:cut], name[cut + 1 :]
    return b"", None


def _record(keyword: bytes, value: bytes) -> bytes:
    """A record of an extended header. It begins with its own length."""
    rest = b" " + keyword + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest


def _padding(data: bytes) -> int:
    return -len(data) % _BLOCK


_STORED = 0
_DESCRIPTOR_FOLLOWS = 1 << 3
_MOST_32 = 0xFFFFFFFF
_MOST_16 = 0xFFFF
_VERSION, _VERSION_64 = 20, 45  # that can read a member
_UNIX = 3 << 8  # the permissions below are those of Unix
_PERMISSIONS = 0o100644 << 16
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_TIME = struct.Struct("<HHBl")  # the extra field of Unix with the time of change
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_FIRST_YEAR, _LAST_YEAR = 1980, 2107  # of the plain times


class Zip:
    """A zip archive without compression; with zip64 fields where numbers need them.

    A checksum that is not known before the value comes behind it, in a data descriptor. Readers of files find it by the
    directory. Readers of streams have to search for it, and some misread such members.
    """

    content_type = "application/zip"
    wants_sum = True

    def __init__(self) -> None:
        self._directory = SpooledTemporaryFile(max_size=SPOOL_BYTES)  # noqa: SIM115 - closed by `end`, or with this object
        self._offset = 0
        self._members = 0
        self._name, self._modified, self._start, self._size, self._sum = b"", 0, 0, 0, 0
        self._streamed = False  # the member's checksum comes behind it

    def small(self, name: str, modified: int, value: bytes) -> bytes:
        """See `Format`."""
        encoded, start = name.encode("ascii"), self._offset
        checksum = zlib.crc32(value)
        head = _local(encoded, modified, len(value), checksum, streamed=False)
        self._offset += len(head) + len(value)
        self._list(encoded, modified, start, len(value), checksum)
        return head + value

    def head(self, name: str, modified: int, size: int, checksum: int | None = None) -> bytes:
        """See `Format`."""
        self._name, self._modified, self._start, self._size = name.encode("ascii"), modified, self._offset, size
        self._streamed, self._sum = checksum is None, checksum or 0
        head = _local(self._name, modified, size, self._sum, streamed=self._streamed)
        self._offset += len(head) + size
        return head

    def note(self, piece: bytes) -> None:
        """See `Format`."""
        if self._streamed:
            self._sum = zlib.crc32(piece, self._sum)

    def tail(self) -> bytes:
        """See `Format`."""
        about = self._name, self._modified, self._start, self._size, self._sum
        if not self._streamed:
            self._list(*about)
            return b""
        sizes = "<4sLQQ" if self._size >= _MOST_32 else "<4sLLL"
        tail = struct.pack(sizes, b"PK\7\x08", self._sum, self._size, self._size)
        self._offset += len(tail)
        self._list(*about, streamed=True)
        return tail

    def _list(
        self, name: bytes, modified: int, start: int, size: int, checksum: int, *, streamed: bool = False
    ) -> None:
        """Note a member for the directory at the end."""
        large = [number for number in (size, size) if number >= _MOST_32] + ([start] if start >= _MOST_32 else [])
        extra = _time_field(modified)
        if large:
            extra += struct.pack(f"<HH{len(large)}Q", 1, 8 * len(large), *large)
        version = _VERSION_64 if large else _VERSION
        flags = _DESCRIPTOR_FOLLOWS if streamed else 0
        shown, at = min(size, _MOST_32), min(start, _MOST_32)
        plain = (b"PK\1\2", _UNIX | version, version, flags, _STORED, *_plain_time(modified), checksum, shown, shown)
        self._directory.write(_CENTRAL.pack(*plain, len(name), len(extra), 0, 0, 0, _PERMISSIONS, at) + name + extra)
        self._members += 1

    def end(self) -> Iterator[bytes]:
        """See `Format`."""
        with self._directory as directory:
            length = directory.tell()
            directory.seek(0)
            while piece := directory.read(_PIECE_BYTES):
                yield piece
        members, start = self._members, self._offset
        if members >= _MOST_16 or start >= _MOST_32 or length >= _MOST_32:
            versions = (_UNIX | _VERSION_64, _VERSION_64)
            counts = (members, members, length, start)
            yield _END_64.pack(b"PK\6\6", _END_64.size - 12, *versions, 0, 0, *counts)
            yield _LOCATOR_64.pack(b"PK\6\7", 0, start + length, 1)
        few = min(members, _MOST_16)
        yield _END.pack(b"PK\5\6", 0, 0, few, few, min(length, _MOST_32), min(start, _MOST_32), 0)


def _local(name: bytes, modified: int, size: int, checksum: int, *, streamed: bool) -> bytes:
    """The header in front of a value. What is `streamed` has its checksum and size behind it."""
    extra = _time_field(modified)
    large = size >= _MOST_32
    if large:
        extra += struct.pack("<HHQQ", 1, 16, 0, 0) if streamed else struct.pack("<HHQQ", 1, 16, size, size)
    shown = _MOST_32 if large else 0 if streamed else size
    version, flags = (_VERSION_64 if large else _VERSION), (_DESCRIPTOR_FOLLOWS if streamed else 0)
    plain = (b"PK\3\4", version, flags, _STORED, *_plain_time(modified), checksum, shown, shown)
    return _LOCAL.pack(*plain, len(name), len(extra)) + name + extra


def _plain_time(modified: int) -> tuple[int, int]:
    """Time and date of a plain header, in UTC and steps of two seconds."""
    moment = time.gmtime(min(max(0, modified), 1 << 34))
    if not _FIRST_YEAR <= moment.tm_year <= _LAST_YEAR:
        return (0, (1 << 5) + 1) if moment.tm_year < _FIRST_YEAR else (0xBF7D, 0xFF9F)
    date = (moment.tm_year - _FIRST_YEAR) << 9 | moment.tm_mon << 5 | moment.tm_mday
    return moment.tm_hour << 11 | moment.tm_min << 5 | moment.tm_sec // 2, date


def _time_field(modified: int) -> bytes:
    """The time of change to the second; it has 32 bits."""
    return _TIME.pack(0x5455, 5, 1, min(max(0, modified), 0x7FFFFFFF))
