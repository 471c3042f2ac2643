"""A record of the value log as bytes: pure functions, no files.

    magic 4 | header CRC u32 | header length u32 | value length u32 | value CRC u32 | header | value

The header is a msgpack array, the fields of `Header`. Its CRC covers all from the header length to the end
of the header, so that a value that rots leaves the record's extent and its key readable. Its CRC starts
from where the record is (`base` of the file and offset): bytes of a record elsewhere, say inside a value
that is itself a log, are never taken for a record. CRCs are CRC32C, integers little endian.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import google_crc32c
import msgpack

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
    """What a record says of its value."""

    kind: int  # broker.messages.Kind
    key: bytes
    version: int
    seq: int
    created: int
    expires: int  # 0: never
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    digest: bytes
    size: int  # bytes of the value, wherever it is
    where: str  # token of the value file, "" when the value follows or there is none


class Parsed(NamedTuple):
    """The head of a record found in a buffer."""

    header: Header
    value_at: int  # position of the value in the buffer
    value_length: int
    value_crc: int


def base(uid: bytes) -> int:
    """What the CRCs of a file start from."""
    return int(crc32c(uid))


def encode(header: Header, value: bytes, base: int, offset: int) -> bytes:
    """The record, to be written at `offset` of the file whose CRCs start from `base`.

    Raises `ValueError` when the header is too long.
    """
    return recode(header, value, crc32c(value), base, offset)


def recode(header: Header, value: bytes, value_crc: int, base: int, offset: int) -> bytes:
    """As `encode`, for a value whose CRC is known."""
    packed = _pack(header)
    if len(packed) > MAX_HEADER:
        raise ValueError(f"the record's header has {len(packed)} bytes; {MAX_HEADER} is the limit")
    lengths = _LENGTHS.pack(len(packed), len(value), value_crc)
    crc = crc32c_extend((base + offset) & 0xFFFFFFFF, lengths + packed)
    return b"%b%b%b%b%b" % (MAGIC, crc.to_bytes(4, "little"), lengths, packed, value)


def length_at(buffer: bytes, at: int) -> tuple[int, int] | None:
    """Lengths of the head (prefix and header) and of the whole record that seems to be at `at`; None if none is.

    The buffer must reach to the end of the prefix. Nothing is verified but the magic.
    """
    magic, _, header_length, value_length, _ = PREFIX.unpack_from(buffer, at)
    if magic != MAGIC or header_length > MAX_HEADER:
        return None
    head = PREFIX.size + header_length
    return head, head + value_length


def parse(buffer: bytes, at: int, base: int, offset: int) -> Parsed | None:
    """The head of the record at `at` of the buffer, which is at `offset` of its file; None if it is none."""
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
        return None
    return Parsed(header, end, value_length, value_crc)


def decode(record: bytes, base: int, offset: int) -> tuple[Header, bytes | None] | None:
    """Header and value of a whole record; None when it is none, the value None when only the value is bad."""
    parsed = parse(record, 0, base, offset)
    if parsed is None:
        return None
    value = record[parsed.value_at : parsed.value_at + parsed.value_length]
    if len(value) != parsed.value_length or crc32c(value) != parsed.value_crc:
        return parsed.header, None
    return parsed.header, value
