"""LMDB environments of the master, the transactions over their tables, and how rows are packed.

The index and the ledger each have an `Environment`. Each derives its own transactions from `Transaction`, with a method
for every row that may be read or written. Other modules use those methods and never see a table, a key or a column.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import lmdb
import msgpack

from broker import lmdb_files
from broker.errors import NoAddressSpace
from master.errors import IndexUnusable

_MAX_READERS = 2048


class Contents(NamedTuple):
    """What an environment holds, and what error messages say about it."""

    noun: str  # what a user calls it
    setting: str  # of the size of its map
    advice: str  # what to do when it is damaged
    tables: tuple[str, ...]
    durable: bool  # whether a commit that returned survives a power cut


class Room(NamedTuple):
    """Bytes of an LMDB file."""

    used: int  # up to its last page; pages before that may be free
    most: int  # that it may have


class Environment:
    """The LMDB files of one directory. One per process and path; never used across a fork.

    `map_size` is in bytes. With `write`, directory and tables are made when they are missing. Raises `IndexUnusable`
    when the files can't be opened.
    """

    def __init__(self, directory: Path, map_size: int, contents: Contents, write: bool) -> None:
        problem = f"the {contents.noun} in {directory} can't be opened"
        try:
            if write:
                directory.mkdir(parents=True, exist_ok=True)
            self.env: lmdb.Environment = lmdb_files.open_map(
                directory,
                map_size,
                max_dbs=len(contents.tables),
                max_readers=_MAX_READERS,
                max_spare_txns=256,
                readonly=not write,
                sync=contents.durable,
                readahead=False,
                create=write,
            )
            self.databases = {name: self.env.open_db(name.encode(), create=write) for name in contents.tables}
        except NoAddressSpace as error:
            less = f"Give {contents.setting} less than {map_size:,}, or raise that limit"
            raise IndexUnusable(f"{problem}: {error}. {less}") from error
        except (lmdb.Error, OSError) as error:
            advice = f"If it is damaged, stop the master and {contents.advice}"
            raise IndexUnusable(f"{problem}: {error}. {advice}") from error

    def room(self) -> Room:
        """How much of the file is in use."""
        info = self.env.info()
        return Room((info["last_pgno"] + 1) * self.env.stat()["psize"], info["map_size"])

    def copy(self, directory: Path) -> None:
        """Write a compact copy of this moment into an empty directory, while others read and write.

        Raises `lmdb.Error`, `OSError`.
        """
        self.env.copy(str(directory), compact=True)

    def close(self) -> None:
        """Write everything to the disk and close the files."""
        self.env.close()


class Transaction:
    """One transaction over the tables of an environment.

    A context manager: at the end of the block it commits what was written, or aborts when something was raised. Its
    methods raise `lmdb.Error`. Rows that an iterator gives are read one by one: write to that table after it has ended.
    """

    __slots__ = ("_databases", "_txn")

    def __init__(self, environment: Environment, write: bool = False) -> None:
        self._databases = environment.databases
        self._txn: lmdb.Transaction[bytes] = environment.env.begin(write=write)

    def __enter__(self) -> Self:
        self._txn.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._txn.__exit__(*error)

    def _get(self, table: str, key: bytes) -> bytes | None:
        return self._txn.get(key, db=self._databases[table])

    def _put(self, table: str, key: bytes, value: bytes, overwrite: bool = True) -> bool:
        """Write a row; False when it is there already and `overwrite` is not given."""
        return self._txn.put(key, value, overwrite=overwrite, db=self._databases[table])

    def _delete(self, table: str, key: bytes) -> bool:
        """Delete a row; False when there is none."""
        return self._txn.delete(key, db=self._databases[table])

    def _cursor(self, table: str) -> lmdb.Cursor[bytes]:
        return self._txn.cursor(self._databases[table])

    def _up(self, table: str, prefix: bytes = b"", start: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Whole keys and values of a table in order: those with the prefix, from `start` on."""
        first = max(prefix, start)
        with self._cursor(table) as cursor:
            found = cursor.set_range(first) if first else cursor.first()
            while found and cursor.key().startswith(prefix):
                yield cursor.item()
                found = cursor.next()

    def _down(self, table: str, prefix: bytes, before: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Whole keys and values of a table in reverse order: those with the prefix that are less than `before`."""
        with self._cursor(table) as cursor:
            found = cursor.prev() if cursor.set_range(before) else cursor.last()
            while found and cursor.key().startswith(prefix):
                yield cursor.item()
                found = cursor.prev()


def stamped(time_ms: int, number: int) -> bytes:
    """A key of a table that is sorted by time, in ms; `number` tells rows of one time apart."""
    return struct.pack(">QQ", time_ms, number)


def pack(value: object) -> bytes:
    """A value of a table as bytes."""
    packed: bytes = msgpack.packb(value)
    return packed
