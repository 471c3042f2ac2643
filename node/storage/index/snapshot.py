"""A view of the index at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice, takewhile
from typing import NamedTuple

import lmdb

from node.storage.index.rows import EXPIRY, NUMBER, Entry, Stat, Totals


class Databases(NamedTuple):
    """The databases of the index; the table in `node.storage.index.index` says what they hold."""

    keys: lmdb._Database
    segments: lmdb._Database
    files: lmdb._Database
    expiry: lmdb._Database
    meta: lmdb._Database


class Snapshot:
    """A view of the index at one moment. `totals` and `stats` are the writer's, of the same moment."""

    __slots__ = ("_databases", "_txn", "raw", "stats", "totals")

    def __init__(
        self, txn: lmdb.Transaction[bytes], databases: Databases, totals: Totals, stats: Mapping[int, Stat]
    ) -> None:
        self._txn = txn
        self._databases = databases
        self.totals = totals
        self.stats = stats  # by segment
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

    def files(self) -> dict[str, bytes]:
        """The keys of all value files, by token."""
        return {token.hex(): key for token, key in self._txn.cursor(db=self._databases.files)}

    def expired_keys(self, now: int, limit: int) -> list[bytes]:
        """Up to `limit` keys whose lifetime ended before `now` (ms since the epoch), the oldest first."""
        rows = islice(self._txn.cursor(db=self._databases.expiry), limit)
        return [key for _, key in takewhile(lambda row: EXPIRY.unpack(row[0])[0] <= now, rows)]
