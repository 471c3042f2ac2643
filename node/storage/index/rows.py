"""The rows of the index as plain data: the entry of a key, a held version, the figures of a segment and of the node."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from broker import keys
from broker.messages.store import Kind

_ENTRY = struct.Struct("<IQIQQQQBQ")
_LENGTH = struct.Struct(">H")
VERSION = struct.Struct(">QB")
_DELETED = struct.Struct(">Q")
NUMBER = struct.Struct(">I")
EXPIRY = struct.Struct(">QQ")
END = struct.Struct(">?QQ")
_EXPIRED = 0x10
_PURGES = 0x20
_DROPS = 0x40
_MARK_BYTES = 128  # of a tombstone, without its key


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
    since: int = 0  # ms since the epoch: when it took the place of the record before it
    purges: bool = False  # a tombstone that no older version may be brought back from
    drops: bool = False  # a tombstone for this node alone: other nodes have its version

    @property
    def place(self) -> Place:
        """Which of the key's records it is."""
        return Place(self.version, self.kind)

    def pack(self) -> bytes:
        """The bytes for LMDB."""
        flags = self.kind
        if self.expired:
            flags |= _EXPIRED
        if self.purges:
            flags |= _PURGES
        if self.drops:
            flags |= _DROPS
        return _ENTRY.pack(*self[:7], flags, self.since) + bytes.fromhex(self.token)

    @staticmethod
    def unpack(raw: bytes) -> Entry:
        """The entry in bytes that `pack` made."""
        segment, offset, length, seq, version, expires, size, flags, since = _ENTRY.unpack_from(raw)
        token = raw[_ENTRY.size :].hex()
        expired, purges, drops = bool(flags & _EXPIRED), bool(flags & _PURGES), bool(flags & _DROPS)
        kind = flags & 0xF
        return Entry(segment, offset, length, seq, version, expires, size, kind, expired, token, since, purges, drops)

    @staticmethod
    def seq_and_kind(raw: bytes) -> tuple[int, int]:
        """Two fields of the entry in bytes; a replay looks at them a million times."""
        fields = _ENTRY.unpack_from(raw)
        return fields[3], fields[7] & 0xF


class Place(NamedTuple):
    """Which of the superseded records of a key. Those of one version are a value and then a tombstone."""

    version: int
    kind: int  # `broker.messages.store.Kind`


class Held(NamedTuple):
    """A superseded record that stays for a while: a value that can be brought back, or a mark.

    A mark is a tombstone, or what a value leaves whose lifetime has ended. While it stays, the record before it counts
    as superseded at the same time in any index that is built from the log.
    """

    deleted: int  # ms since the epoch: when it was superseded
    entry: Entry

    def pack(self, entry: bytes | None = None) -> bytes:
        """The bytes for LMDB; `entry` is the packed one, if that is known."""
        return _DELETED.pack(self.deleted) + (entry or self.entry.pack())

    @staticmethod
    def unpack(raw: bytes) -> Held:
        """The row in bytes that `pack` made."""
        return Held(_DELETED.unpack_from(raw)[0], Entry.unpack(raw[_DELETED.size :]))

    @property
    def is_value(self) -> bool:
        """Whether it can be brought back."""
        return self.entry.kind == Kind.PUT and not self.entry.expired

    @property
    def place(self) -> Place:
        """Which of the key's superseded records it is."""
        return self.entry.place

    def until(self, undelete_ms: int) -> int:
        """When it goes, or becomes a mark: ms since the epoch."""
        until, expires = self.deleted + undelete_ms, self.entry.expires
        return min(until, expires) if expires and self.is_value else until

    def log_bytes(self, key: bytes) -> int:
        """Bytes of the log that it needs. The record of a mark becomes a tombstone."""
        return self.entry.length if self.is_value else min(self.entry.length, len(key) + _MARK_BYTES)


def held_prefix(key: bytes) -> bytes:
    """What the rows of all held records of a key begin with: the key itself and a zero.

    An encoded key with a version is longer than LMDB takes. Raises `InvalidKey`.
    """
    return keys.plain(key) + b"\0"


def held_row(prefix: bytes, place: Place) -> bytes:
    """The row's key. Rows are in the order of keys, then versions."""
    return prefix + VERSION.pack(*place)


def read_held_row(row: bytes) -> tuple[bytes, Place]:
    """The encoded key, and which of its records this is."""
    at = len(row) - VERSION.size
    return keys.encode(row[: at - 1].decode()), Place(*VERSION.unpack_from(row, at))


class Ends(NamedTuple):
    """Held records that end at nearly the same time, all of them values or all of them marks.

    Some may have gone before.
    """

    row: bytes  # the key in the database `ends`
    names: list[bytes]  # rows of the database `held`


def pack_names(names: list[bytes]) -> bytes:
    """The bytes for LMDB."""
    return b"".join([_LENGTH.pack(len(name)) + name for name in names])


def unpack_names(raw: bytes) -> list[bytes]:
    """The names in bytes that `pack_names` made."""
    names = []
    at = 0
    while at < len(raw):
        (length,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        names.append(raw[at : at + length])
        at += length
    return names


class FileOwner(NamedTuple):
    """Whose value is in a value file."""

    key: bytes
    version: int

    def pack(self) -> bytes:
        """The bytes for LMDB."""
        return _DELETED.pack(self.version) + self.key

    @staticmethod
    def unpack(raw: bytes) -> FileOwner:
        """The owner in bytes that `pack` made."""
        return FileOwner(raw[_DELETED.size :], _DELETED.unpack_from(raw)[0])


@dataclass(slots=True)
class Stat:
    """What a segment holds, in bytes of records where nothing else is said."""

    uid: bytes
    first: int  # the first seq that it may hold
    last: int  # the seq of its newest record
    size: int  # of the file, as far as it is in the index
    live: int = 0  # values that can be read
    expired: int = 0  # newest values of their keys whose lifetime has ended
    dead: int = 0  # values superseded or deleted, and not held
    tombs: int = 0  # tombstones that are the newest of their keys
    newest_tomb: int = 0  # ms since the epoch
    held: int = 0  # superseded records that stay for a while

    _FORMAT = struct.Struct("<8s9Q")

    def pack(self) -> bytes:
        """The bytes for LMDB."""
        return self._FORMAT.pack(*self._figures())

    def copy(self) -> Stat:
        """The same figures in another object."""
        return Stat(*self._figures())

    def _figures(self) -> tuple[bytes, int, int, int, int, int, int, int, int, int]:
        parts = self.live, self.expired, self.dead, self.tombs, self.newest_tomb, self.held
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
    held_keys: int = 0  # values that can be brought back
    held_size: int = 0  # bytes of those values
