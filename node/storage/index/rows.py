"""The rows of the index as plain data: the entry of a key, the figures of a segment and of the node."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

_ENTRY = struct.Struct("<IQIQQQQB")
NUMBER = struct.Struct(">I")
EXPIRY = struct.Struct(">QQ")
_EXPIRED = 0x10


class Entry(NamedTuple):
    """Where the newest record of a key is, and what matters of it."""

    segment: int
    offset: int
    length: int  # bytes of the record
    seq: int
    version: int
    expires: int  # ms since the epoch, 0: never
    size: int  # bytes of the value
    kind: int  # `broker.messages.store.Kind`
    expired: bool  # its lifetime has ended, and it counts as garbage
    token: str  # of the value file, "" when the value is in the log

    def pack(self) -> bytes:
        """The bytes for LMDB."""
        flags = self.kind | _EXPIRED if self.expired else self.kind
        return _ENTRY.pack(*self[:7], flags) + bytes.fromhex(self.token)

    @staticmethod
    def unpack(raw: bytes) -> Entry:
        """The entry in bytes that `pack` made."""
        segment, offset, length, seq, version, expires, size, flags = _ENTRY.unpack_from(raw)
        token = raw[_ENTRY.size :].hex()
        return Entry(segment, offset, length, seq, version, expires, size, flags & 0xF, flags >= _EXPIRED, token)


@dataclass(slots=True)
class Stat:
    """What a segment holds, in bytes of records where nothing else is said."""

    uid: bytes
    first: int  # the first seq that it may hold
    last: int  # the seq of its newest record
    size: int  # of the file, as far as it is in the index
    live: int = 0  # values that can be read
    expired: int = 0  # newest values of their keys whose lifetime has ended
    dead: int = 0  # values superseded or deleted
    tombs: int = 0  # tombstones that are the newest of their keys
    newest_tomb: int = 0  # ms since the epoch

    _FORMAT = struct.Struct("<8s8Q")

    def pack(self) -> bytes:
        """The bytes for LMDB."""
        return self._FORMAT.pack(*self._figures())

    def copy(self) -> Stat:
        """The same figures in another object."""
        return Stat(*self._figures())

    def _figures(self) -> tuple[bytes, int, int, int, int, int, int, int, int]:
        parts = self.live, self.expired, self.dead, self.tombs, self.newest_tomb
        return self.uid, self.first, self.last, self.size, *parts

    @classmethod
    def unpack(cls, raw: bytes) -> Stat:
        """The figures in bytes that `pack` made."""
        return cls(*cls._FORMAT.unpack(raw))


class Totals(NamedTuple):
    """The figures of the whole node."""

    seq: int = 0  # of the newest record
    keys: int = 0  # readable values
    size: int = 0  # bytes of those values
