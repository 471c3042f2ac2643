"""A view of the index at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from typing import NamedTuple

import lmdb
import msgpack

from broker.messages.store import Kind
from node.storage.index.rows import (
    END,
    EXPIRY,
    NUMBER,
    Ends,
    Entry,
    FileOwner,
    Held,
    Place,
    Stat,
    Totals,
    held_prefix,
    held_row,
    read_held_row,
    unpack_names,
)


class Databases(NamedTuple):
    """The databases of the index; the table in `node.storage.index.index` says what they hold."""

    keys: lmdb._Database
    segments: lmdb._Database
    files: lmdb._Database
    expiry: lmdb._Database
    meta: lmdb._Database
    held: lmdb._Database
    ends: lmdb._Database


class Snapshot:
    """A view of the index at one moment. `totals` and `stats` are the writer's, of the same moment."""

    __slots__ = ("_databases", "_txn", "raw", "stats", "totals", "undelete_ms")

    def __init__(
        self,
        txn: lmdb.Transaction[bytes],
        databases: Databases,
        totals: Totals,
        stats: Mapping[int, Stat],
        undelete_ms: int = 0,
    ) -> None:
        self._txn = txn
        self._databases = databases
        self.totals = totals
        self.stats = stats  # by segment
        self.undelete_ms = undelete_ms  # how long superseded records are held
        self.raw = txn.get  # key → packed entry

    def entry(self, key: bytes) -> Entry | None:
        """The entry of a key."""
        raw = self.raw(key)
        return None if raw is None else Entry.unpack(raw)

    def uid(self, number: int) -> bytes | None:
        """The uid that the file of a segment should have; None when there is no such segment."""
        raw = self._txn.get(NUMBER.pack(number), db=self._databases.segments)
        return None if raw is None else Stat.unpack(raw).uid

    def entries(self, after: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """Up to `limit` keys behind the key `after`, ascending, and their entries."""
        cursor = self._txn.cursor()
        rows = islice(cursor, limit) if cursor.set_range(after + b"\0") else ()
        return [(key, Entry.unpack(raw)) for key, raw in rows]

    def seq(self) -> int:
        """The seq of the newest record, as it was written: `totals` are the writer's alone."""
        raw = self._txn.get(b"totals", db=self._databases.meta)
        return 0 if raw is None else Totals(*msgpack.unpackb(raw)).seq

    def files(self) -> dict[str, FileOwner]:
        """Whose value is in each value file, by token; of held values, too."""
        return {token.hex(): FileOwner.unpack(raw) for token, raw in self._txn.cursor(db=self._databases.files)}

    def find(self, key: bytes, version: int) -> Entry | None:
        """The entry of a version of a key, which may be held; None when it is no value."""
        entry = self.entry(key)
        if entry is None or entry.kind != Kind.PUT or entry.version != version:
            row = self.held(held_row(held_prefix(key), Place(version, int(Kind.PUT))))
            entry = row.entry if row else None
        return None if entry is None or entry.expired else entry

    def held(self, name: bytes) -> Held | None:
        """The held record in a row of the database `held`."""
        raw = self._txn.get(name, db=self._databases.held)
        return None if raw is None else Held.unpack(raw)

    def held_of(self, key: bytes) -> Iterator[Held]:
        """All held records of a key, ascending."""
        prefix = held_prefix(key)
        cursor = self._txn.cursor(db=self._databases.held)
        rows = iter(cursor) if cursor.set_range(prefix) else iter(())
        return (Held.unpack(raw) for _, raw in takewhile(lambda row: row[0].startswith(prefix), rows))

    def held_from(self, prefix: str, after: tuple[str, int] | None) -> Iterator[tuple[bytes, Held]]:
        """The keys with this beginning and their held records, ascending, behind the version `after` of a key."""
        start = prefix.encode()
        if after:
            start = max(start, held_row(after[0].encode() + b"\0", Place(after[1], 255)))
        cursor = self._txn.cursor(db=self._databases.held)
        rows = iter(cursor) if cursor.set_range(start) else iter(())
        mine = takewhile(lambda row: row[0].startswith(prefix.encode()), rows)
        return ((read_held_row(row)[0], Held.unpack(raw)) for row, raw in mine)

    def ends(self, now: int, limit: int, *, marks: bool, after: bytes = b"") -> list[Ends]:
        """The held values, or marks, that end until `now` (ms since the epoch), the first ones first.

        Those of up to `limit` rows behind the row `after`.
        """
        cursor = self._txn.cursor(db=self._databases.ends)
        start = after + b"\0" if after else END.pack(marks, 0, 0)
        rows = iter(cursor) if cursor.set_range(start) else iter(())
        last = END.pack(marks, now, (1 << 64) - 1)
        return [Ends(row, unpack_names(raw)) for row, raw in islice(takewhile(lambda row: row[0] <= last, rows), limit)]

    def tokens(self) -> list[bytes]:
        """The tokens of all value files, 16 bytes each."""
        return list(self._txn.cursor(db=self._databases.files).iternext(values=False))

    def expired_keys(self, now: int, limit: int) -> list[bytes]:
        """Up to `limit` keys whose lifetime ended before `now` (ms since the epoch), the oldest first."""
        rows = islice(self._txn.cursor(db=self._databases.expiry), limit)
        return [key for _, key in takewhile(lambda row: EXPIRY.unpack(row[0])[0] <= now, rows)]
