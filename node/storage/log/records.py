"""A record of the value log as bytes: pure functions, no files.

    magic 4 | header CRC u32 | header length u32 | value length u32 | value CRC u32 | header | value

The header is a msgpack array, the fields of `Header`. Its CRC covers everything from the header length to the end of
the header. So the length and the key of a record stay readable when its value rots. The header's CRC starts from the
record's place: `base` of the file, and offset. So bytes of a record elsewhere, such as in a value that is itself a log,
are never taken for a record. CRCs are CRC32C, integers are little endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import google_crc32c
import msgpack

from broker.messages.store import DROP, PURGE, Kind, Store

MAGIC = b"PZR1"
PREFIX = struct.Struct("<4sIIII")
_LENGTHS = struct.Struct("<III")
_COVERED = 8  # the header's CRC covers the record from here

# Header and prefix fit in the head of a value file.
MAX_RECORD_HEAD = 4096
MAX_HEADER = MAX_RECORD_HEAD - PREFIX.size

crc32c = google_crc32c.value
crc32c_extend = google_crc32c.extend
_pack = msgpack.Packer(use_bin_type=True).pack
_unpack = msgpack.unpackb


class Header(NamedTuple):
    """What a record says about its value.

    A tombstone uses two fields in another way. `content_type` is `PURGE` when no older version may be brought back, and
    `DROP` when other nodes have this version. `expires` is not 0 when the tombstone stands for a value whose lifetime
    has ended, or that was dropped: then it is when that was written.
    """

    kind: int  # `broker.messages.store.Kind`
    key: bytes
    version: int
    seq: int
    created: int
    expires: int  # 0: never
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    digest: bytes
    size: int  # bytes of the value, wherever it is
    where: str  # token of the value file, "" when the value follows or there is none

    @classmethod
    def of(cls, command: Store, seq: int, token: str) -> Header:
        """The header of the record that a command writes."""
        _, key, version, created, expires, content_type, digest, size, _, _ = command
        return cls(Kind.PUT, key, version, seq, created, expires, content_type, digest, size, token)

    @classmethod
    def tombstone(cls, key: bytes, version: int, seq: int, created: int) -> Header:
        """The header of a tombstone; `created` is in ms since the epoch."""
        return cls(Kind.DELETE, key, version, seq, created, 0, "", b"", 0, "")

    @property
    def purges(self) -> bool:
        """Whether it is a tombstone whose key has no version that may be brought back."""
        return self.kind == Kind.DELETE and self.content_type == PURGE

    @property
    def drops(self) -> bool:
        """Whether it is a tombstone for this node alone: other nodes have its version."""
        return self.kind == Kind.DELETE and self.content_type == DROP

    @property
    def since(self) -> int:
        """When the record took the place of the one before it, in ms since the epoch."""
        return self.expires if self.kind == Kind.DELETE and self.expires else self.created

    def tombstone_left(self) -> Header:
        """The header of the tombstone that this value leaves when its lifetime has ended."""
        tomb = Header.tombstone(self.key, self.version, self.seq, self.expires or self.created)
        return tomb._replace(expires=self.created)

    def command(self, staged: str = "") -> Store:
        """The command that writes such a record; the value is the upload `staged`."""
        _, key, version, _, created, expires, content_type, digest, size, _ = self
        return Store(0, key, version, created, expires, content_type, digest, size, None, staged)


class Lengths(NamedTuple):
    """How many bytes a record has."""

    head: int  # prefix and header
    record: int  # head and value


class RecordHead(NamedTuple):
    """The head of a record in a buffer."""

    header: Header
    value_at: int  # position of the value in the buffer
    value_length: int
    value_crc: int

    def value(self, buffer: bytes) -> bytes | None:
        """The value behind this head in the buffer; None when it is not what was written."""
        value = buffer[self.value_at : self.value_at + self.value_length]
        return value if len(value) == self.value_length and crc32c(value) == self.value_crc else None


def base(uid: bytes) -> int:
    """The number that the CRCs of a file start from."""
    return int(crc32c(uid))


def encode(header: Header, value: bytes, base: int, offset: int) -> bytes:
    """The record, to be written at `offset` of the file whose CRCs start from `base`.

    Raises `ValueError` when the header is too long.
    """
    packed = _pack(header)
    if len(packed) > MAX_HEADER:
        raise ValueError(f"the record's header has {len(packed)} bytes; {MAX_HEADER} is the limit")
    lengths = _LENGTHS.pack(len(packed), len(value), crc32c(value))
    crc = crc32c_extend((base + offset) & 0xFFFFFFFF, lengths + packed)
    return b"%b%b%b%b%b" % (MAGIC, crc.to_bytes(4, "little"), lengths, packed, value)


def lengths_at(buffer: bytes, at: int) -> Lengths | None:
    """The lengths of the record that seems to be at `at`; None when there is none.

    The buffer must reach to the end of the prefix. Only the magic number is checked.
    """
    magic, _, header_length, value_length, _ = PREFIX.unpack_from(buffer, at)
    if magic != MAGIC or header_length > MAX_HEADER:
        return None
    head = PREFIX.size + header_length
    return Lengths(head, head + value_length)


def parse(buffer: bytes, at: int, base: int, offset: int) -> RecordHead | None:
    """The head of the record at `at` of the buffer, which is at `offset` of its file; None when there is none."""
    if len(buffer) - at < PREFIX.size:
        return None
    magic, crc, header_length, value_length, value_crc = PREFIX.unpack_from(buffer, at)
    end = at + PREFIX.size + header_length
    if magic != MAGIC or end > len(buffer):
        return None
    if crc32c_extend((base + offset) & 0xFFFFFFFF, buffer[at + _COVERED : end]) != crc:
        return None
    try:
        header = Header._make(_unpack(buffer[at + PREFIX.size : end]))
    except (ValueError, TypeError, msgpack.UnpackException):
        return None  # the CRC is right, so something else wrote it
    return RecordHead(header, end, value_length, value_crc)


def parse_file_head(buffer: bytes) -> Header | None:
    """The header at the beginning of a value file; None when it is not what was written.

    Its CRC starts from the token that it names itself: a file that is a hard link has the head of another token.
    """
    if len(buffer) < PREFIX.size:
        return None
    end = PREFIX.size + PREFIX.unpack_from(buffer)[2]
    try:
        token = Header._make(_unpack(buffer[PREFIX.size : end])).where
        head = parse(buffer, 0, base(token.encode()), 0)
    except (ValueError, TypeError, AttributeError, msgpack.UnpackException):
        return None  # bytes that nobody wrote as a header
    return head.header if head else None
