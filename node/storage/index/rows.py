"""What the index keeps, as plain data: the entry of a key, the figures of a segment, a change to commit."""

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
    expires: int
    size: int
    kind: int
    expired: bool  # its lifetime has ended and it counts as garbage
    token: str  # of the value file, "" when the value is in the log

    def pack(self) -> bytes:
        """As it is kept."""
        flags = self.kind | _EXPIRED if self.expired else self.kind
        return _ENTRY.pack(*self[:7], flags) + bytes.fromhex(self.token)

    @staticmethod
    def unpack(raw: bytes) -> Entry:
        """The entry that `pack` was given."""
        segment, offset, length, seq, version, expires, size, flags = _ENTRY.unpack_from(raw)
        token = raw[_ENTRY.size :].hex()
        return Entry(segment, offset, length, seq, version, expires, size, flags & 0xF, flags >= _EXPIRED, token)


@dataclass(slots=True)
class Stat:
    """What a segment holds, in bytes of records unless said otherwise."""

    uid: bytes
    first: int  # seq: the first it may hold
    last: int  # seq of its newest record
    size: int  # of the file, as far as it is in the index
    live: int = 0  # values that can be read
    expired: int = 0  # newest values of their keys whose lifetime has ended
    dead: int = 0  # values superseded or deleted
    tombs: int = 0  # tombstones that are the newest of their keys
    newest_tomb: int = 0  # ms since the epoch

    _FORMAT = struct.Struct("<8s8Q")

    def pack(self) -> bytes:
        """As it is kept."""
        return self._FORMAT.pack(
            self.uid, self.first, self.last, self.size, self.live, self.expired, self.dead, self.tombs, self.newest_tomb
        )

    def copy(self) -> Stat:
        """The same figures, to be changed."""
        return Stat(
            self.uid, self.first, self.last, self.size, self.live, self.expired, self.dead, self.tombs, self.newest_tomb
        )

    @classmethod
    def unpack(cls, raw: bytes) -> Stat:
        """The figures that `pack` was given."""
        return cls(*cls._FORMAT.unpack(raw))


class Totals(NamedTuple):
    """Figures of the whole node."""

    seq: int = 0  # of the newest record
    keys: int = 0  # values that can be read
    size: int = 0  # bytes of those values


class Commit(NamedTuple):
    """What one transaction changes; None removes."""

    entries: dict[bytes, Entry | None]
    files: dict[str, bytes | None]
    expiry: dict[bytes, bytes | None]
    stats: dict[int, Stat | None]
    totals: Totals
    epochs: list[tuple[int, str]] | None = None  # None: as they were
