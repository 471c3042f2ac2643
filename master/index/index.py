"""The index: what the master knows of every key, in LMDB. The only module here that has LMDB files opened, the ledger's too.

The controller alone writes it; the web workers read it. It is a projection of the nodes' logs: a lost
one is filled again by replay. Its databases:

| database | key                                | value                                                  |
| -------- | ---------------------------------- | ------------------------------------------------------ |
| entries  | encoded key                        | `Entry`                                                |
| tombs    | encoded key                        | version of the deletion, time it was noted (ms)        |
| expiry   | expires (ms, 8 bytes) + version    | encoded key                                            |
| outbox   | due (ms, 8 bytes) + version        | `Discard`: a version that a node shall forget          |
| nodes    | node                               | the node's last heartbeat and when it was received     |
| meta     | `cursor:<node>`, `bytes` …         | how far a node's log has been applied; counters        |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from broker import integers, keys
from broker.messages.store import Heartbeat
from master.index.environment import open_environment, pack

_STRETCH = 10_000  # entries looked at in one transaction
_DATABASES = ("entries", "tombs", "expiry", "outbox", "nodes", "meta")


class Entry(NamedTuple):
    """What the index says of a key. Times in ms since the epoch."""

    version: int
    node: str
    generation: int  # of the node's log, see `master.index.projection`
    seq: int  # in the node's log
    created: int
    expires: int  # 0: never
    size: int  # bytes
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    digest: bytes
    value: bytes | None  # kept here when it is small

    def live(self, now: int) -> bool:
        """Whether the value's lifetime has not ended."""
        return not self.expires or now < self.expires


class Discard(NamedTuple):
    """A version of a key that a node shall forget, with every older one."""

    node: str
    key: bytes
    version: int


class Node(NamedTuple):
    """A node as last heard."""

    heartbeat: Heartbeat
    received: int  # ms, the master's clock


class Index:
    """The LMDB environment. One per process and path; never used across a fork."""

    def __init__(self, directory: Path, map_size: int, write: bool = False) -> None:
        self.directory = directory
        advice = "remove that directory: it fills itself again from the nodes"
        # Not durable: a power cut may lose the last commits, never the file; replay brings them back.
        named = ("index", "[server] index_map", advice)
        self.env, databases = open_environment(directory, map_size, write, _DATABASES, False, *named)
        self.entries, self.tombs, self.expiry, self.outbox, self.nodes, self.meta = databases

    def close(self) -> None:
        """Write everything to the disk and close the files."""
        self.env.close()

    def forget_dead(self) -> None:
        """Free what readers hold that were killed in the middle of it: pages of the index that could be used again."""
        self.env.reader_check()

    # Reading.

    def get(self, key: bytes) -> Entry | None:
        """The entry of an encoded key, also when its lifetime has ended."""
        with self.env.begin(db=self.entries) as txn:
            raw = txn.get(key)
        return None if raw is None else unpack_entry(raw)

    def get_with_tomb(self, key: bytes) -> tuple[Entry | None, int]:
        """The entry of an encoded key, and the version of its last deletion (0: none)."""
        with self.env.begin() as txn:
            raw = txn.get(key, db=self.entries)
            tomb = txn.get(key, db=self.tombs)
        return (None if raw is None else unpack_entry(raw)), (0 if tomb is None else unpack_tomb(tomb)[0])

    def scan(self, prefix: str, after: str) -> Iterator[tuple[str, Entry]]:
        """Entries in key order whose key starts with `prefix` and is greater than `after`."""
        for key, entry in self.pages(prefix, after, ""):
            if entry is not None:
                yield key, entry

    def pages(self, prefix: str, after: str, delimiter: str) -> Iterator[tuple[str, Entry | None]]:
        """As `scan`; with a delimiter, keys that have it behind the prefix are folded into one row with no entry.

        Such a row's key ends with the delimiter. What a row folds is jumped over, not read.
        """
        with self.env.begin(db=self.entries) as txn, txn.cursor() as cursor:
            found = cursor.set_range(keys.encode(max(prefix, after)))
            while found:
                key = keys.decode(cursor.key())
                if not key.startswith(prefix):
                    return
                cut = key.find(delimiter, len(prefix)) if delimiter else -1
                folder = key[: cut + len(delimiter)] if cut >= 0 else ""
                if folder:
                    if folder > after:
                        yield folder, None
                    found = cursor.set_range(keys.encode(folder + "\x7f"))
                    continue
                if key > after:
                    yield key, unpack_entry(cursor.value())
                found = cursor.next()

    def count_of(self, node: str) -> int:
        """How many keys are on a node; looks at the whole index, a stretch in each transaction."""
        count, at, found = 0, b"", True
        while found:
            with self.env.begin(db=self.entries) as txn, txn.cursor() as cursor:
                found = cursor.set_range(at)
                for _ in range(_STRETCH):
                    if not found:
                        break
                    count += unpack_entry(cursor.value()).node == node
                    found = cursor.next()
                at = cursor.key()  # b"" at the end
        return count

    def read_nodes(self) -> dict[str, Node]:
        """Every node ever heard of and not removed, by name."""
        with self.env.begin(db=self.nodes) as txn, txn.cursor() as cursor:
            return {raw_key.decode(): unpack_node(raw) for raw_key, raw in cursor}

    def read_meta(self, name: str) -> Any:
        """A value of the meta database, None when there is none."""
        with self.env.begin(db=self.meta) as txn:
            raw = txn.get(name.encode())
        return None if raw is None else msgpack.unpackb(raw)

    def stat(self) -> dict[str, int]:
        """LMDB's statistics of the entries."""
        with self.env.begin() as txn:
            return {name: int(number) for name, number in txn.stat(self.entries).items()}

    def add_bytes(self, txn: Any, change: int) -> None:
        """Keep count of the bytes stored, in a transaction of the controller."""
        raw = txn.get(b"bytes", db=self.meta)
        total = (msgpack.unpackb(raw) if raw else 0) + change
        txn.put(b"bytes", pack(min(max(0, total), integers.MAX)), db=self.meta)


def unpack_entry(raw: bytes) -> Entry:
    """The entry that `pack` made."""
    return Entry._make(msgpack.unpackb(raw))


def unpack_tomb(raw: bytes) -> tuple[int, int]:
    """Version of a deletion and the time it was noted, in ms."""
    version, noted = struct.unpack(">QQ", raw)
    return version, noted


def unpack_node(raw: bytes) -> Node:
    """A node as last heard."""
    heartbeat, received = msgpack.unpackb(raw)
    return Node(Heartbeat._make(heartbeat), received)
