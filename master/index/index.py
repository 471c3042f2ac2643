"""The index: what the master knows of every key, in LMDB.

The controller alone writes it; the web workers read it. It is a projection of the nodes' logs: a lost
one is filled again by replay. Only this module knows its tables:

| table   | key                                | value                                                  |
| ------- | ---------------------------------- | ------------------------------------------------------ |
| entries | encoded key                        | `Entry`                                                |
| tombs   | encoded key                        | `Deletion`                                             |
| expiry  | expires (ms, 8 bytes) + version    | encoded key                                            |
| outbox  | due (ms, 8 bytes) + version        | `Discard`                                              |
| nodes   | node                               | `Node`                                                 |
| meta    | `cursor:<node>`                    | `Cursor`                                               |
| meta    | `bytes`, `restoring`, `forgotten`  | bytes stored; nodes, see `Tables`                      |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, cast

import msgpack

from broker import integers, keys
from broker.messages.store import Heartbeat, Result
from master.index.environment import Contents, Environment, Transaction, pack, stamped

_STRETCH = 10_000  # entries counted in one transaction
_LAST = (1 << 64) - 1
_ADVICE = "remove that directory: it fills itself again from the nodes"
_TABLES = ("entries", "tombs", "expiry", "outbox", "nodes", "meta")
# Not durable: a power cut may lose the last commits, never the file; replay brings them back.
_CONTENTS = Contents("index", "[server] index_map", _ADVICE, _TABLES, durable=False)


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
    value: bytes | None  # only when it is small

    @classmethod
    def of(cls, result: Result, node: str, generation: int) -> Self:
        """The entry of a value that a node says it has stored."""
        rest = result.created, result.expires, result.size, result.content_type, result.digest, result.value
        return cls(result.version, node, generation, result.seq, *rest)

    def live(self, now: int) -> bool:
        """Whether the value's lifetime has not ended at `now`, in ms."""
        return not self.expires or now < self.expires


class Deletion(NamedTuple):
    """The newest deletion of a key."""

    version: int
    noted: int  # ms, when the master heard of it


class Discard(NamedTuple):
    """A version of a key that a node must forget, with every older one."""

    node: str
    key: bytes
    version: int


class Node(NamedTuple):
    """What a node said of itself in its last heartbeat."""

    heartbeat: Heartbeat
    received: int  # ms, the master's clock


class Cursor(NamedTuple):
    """How far a node's log has been applied."""

    seq: int = 0
    generation: int = 1
    epochs: tuple[tuple[int, str], ...] = ()  # (seq, id) of the epochs this cursor has passed, oldest first
    prune: bool = False  # after the replay, entries of older generations are removed
    covered: int = 0  # up to this seq the index knows every key, though the log is being applied again

    @property
    def complete_to(self) -> int:
        """Up to this seq, the index knows every key of the log."""
        return max(self.seq, self.covered)


class Lifetime(NamedTuple):
    """The end of a value's lifetime."""

    expires: int  # ms since the epoch
    version: int
    key: bytes


class Tables(Transaction):
    """A transaction that reads the index."""

    __slots__ = ()

    def entry(self, key: bytes) -> Entry | None:
        """The entry of an encoded key, also when its lifetime has ended."""
        raw = self._txn.get(key, db=self._databases["entries"])  # each result does this, so no call more
        return None if raw is None else Entry._make(msgpack.unpackb(raw))

    def entries(self, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Encoded keys and entries in key order, behind the key `after`."""
        return ((key, Entry._make(msgpack.unpackb(raw))) for key, raw in self._behind("entries", after))

    def deletion(self, key: bytes) -> Deletion | None:
        """The newest deletion of an encoded key that is still remembered."""
        raw = self._txn.get(key, db=self._databases["tombs"])
        return None if raw is None else Deletion._make(struct.unpack(">QQ", raw))

    def deletions(self, after: bytes = b"") -> Iterator[tuple[bytes, Deletion]]:
        """Encoded keys and deletions in key order, behind the key `after`."""
        return ((key, Deletion._make(struct.unpack(">QQ", raw))) for key, raw in self._behind("tombs", after))

    def _behind(self, table: str, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        return ((key, raw) for key, raw in self._up(table, start=after) if key != after)

    def ended_lifetimes(self, now: int, most: int) -> list[Lifetime]:
        """Lifetimes that have ended at `now`, in ms: the oldest, at most so many."""
        return [Lifetime._make((*struct.unpack(">QQ", row), key)) for row, key in self._due("expiry", now, most)]

    def due_discards(self, now: int, most: int) -> list[tuple[bytes, Discard]]:
        """What nodes must be told at `now`, in ms: the oldest, at most so many, each with the name of its row."""
        return [(row, Discard._make(msgpack.unpackb(raw))) for row, raw in self._due("outbox", now, most)]

    def _due(self, table: str, now: int, most: int) -> Iterator[tuple[bytes, bytes]]:
        last = stamped(now, _LAST)
        for row, value in islice(self._up(table), most):
            if row > last:
                return
            yield row, value

    def nodes(self) -> dict[str, Node]:
        """Every node ever heard of and not forgotten, by name."""
        found = {}
        for name, raw in self._up("nodes"):
            heartbeat, received = msgpack.unpackb(raw)
            found[name.decode()] = Node(Heartbeat._make(heartbeat), received)
        return found

    def cursor(self, node: str) -> Cursor | None:
        """How far a node's log has been applied; None when nothing is known of it."""
        raw = self._get("meta", _cursor_key(node))
        if raw is None:
            return None
        seq, generation, epochs, *rest = msgpack.unpackb(raw)  # an older Pulzar wrote no `covered`
        return Cursor(seq, generation, tuple((epoch_seq, epoch) for epoch_seq, epoch in epochs), *rest)

    def stored_bytes(self) -> int:
        """The sizes of all values together."""
        raw = self._get("meta", b"bytes")
        return 0 if raw is None else int(msgpack.unpackb(raw))

    def incomplete(self) -> list[str] | None:
        """The nodes of whose logs the index may lack keys; None for a new index, which can't say."""
        return self._names(b"restoring")

    def forgotten(self) -> list[str]:
        """The nodes that are gone for good and whose entries are being removed."""
        return self._names(b"forgotten") or []

    def _names(self, name: bytes) -> list[str] | None:
        raw = self._get("meta", name)
        return None if raw is None else list(msgpack.unpackb(raw))


class WritableTables(Tables):
    """A transaction that writes the index; of the controller alone."""

    __slots__ = ()

    def put_entry(self, key: bytes, old: Entry | None, new: Entry) -> None:
        """Write the entry of an encoded key in place of `old`; its lifetime is listed."""
        self._txn.put(key, msgpack.packb(new), db=self._databases["entries"])
        if old is not None:
            self._drop_lifetime(old)
        if new.expires:
            self._put("expiry", stamped(new.expires, new.version), key)

    def drop_entry(self, key: bytes, entry: Entry) -> None:
        """Remove the entry of an encoded key, and its lifetime."""
        self._delete("entries", key)
        self._drop_lifetime(entry)

    def _drop_lifetime(self, entry: Entry) -> None:
        if entry.expires:
            self._delete("expiry", stamped(entry.expires, entry.version))

    def drop_lifetime(self, lifetime: Lifetime) -> None:
        """Remove a lifetime from the list of those that end."""
        self._delete("expiry", stamped(lifetime.expires, lifetime.version))

    def set_deletion(self, key: bytes, deletion: Deletion) -> None:
        """Remember the newest deletion of an encoded key."""
        self._put("tombs", key, stamped(deletion.version, deletion.noted))

    def drop_deletion(self, key: bytes) -> None:
        """Remember no deletion of an encoded key."""
        self._delete("tombs", key)

    def add_discard(self, discard: Discard, due: int) -> None:
        """Put a row into the outbox; it leaves from `due` on, in ms since the epoch."""
        self._put("outbox", stamped(due, discard.version), pack(discard))

    def drop_discard(self, row: bytes) -> None:
        """Remove a row from the outbox."""
        self._delete("outbox", row)

    def set_node(self, heartbeat: Heartbeat, received: int) -> None:
        """Note a node as last heard, at `received`, in ms since the epoch."""
        self._put("nodes", heartbeat.node.encode(), pack((heartbeat, received)))

    def drop_node(self, node: str) -> None:
        """Remove what a node said of itself."""
        self._delete("nodes", node.encode())

    def set_cursor(self, node: str, cursor: Cursor) -> None:
        """Note how far a node's log has been applied."""
        self._put("meta", _cursor_key(node), pack(cursor))

    def drop_cursor(self, node: str) -> None:
        """Know nothing of a node's log any more."""
        self._delete("meta", _cursor_key(node))

    def add_bytes(self, change: int) -> None:
        """Add to the sizes of all values together."""
        total = self.stored_bytes() + change
        self._put("meta", b"bytes", pack(min(max(0, total), integers.MAX)))

    def set_incomplete(self, nodes: Sequence[str]) -> None:
        """Note the nodes of whose logs the index may lack keys."""
        self._put("meta", b"restoring", pack(nodes))

    def set_forgotten(self, nodes: Sequence[str]) -> None:
        """Note the nodes that are gone for good and whose entries are being removed."""
        self._put("meta", b"forgotten", pack(nodes))


class Index:
    """The index in a directory. One per process and path; never used across a fork.

    `map_size` is in bytes. Raises `IndexUnusable` when the files can't be opened.
    """

    def __init__(self, directory: Path, map_size: int, write: bool = False) -> None:
        self.directory = directory
        self._environment = Environment(directory, map_size, _CONTENTS, write)
        self._env, self._entries = self._environment.env, self._environment.databases["entries"]

    def close(self) -> None:
        """Write everything to the disk and close the files."""
        self._environment.close()

    def forget_dead(self) -> None:
        """Free the pages that killed readers still hold, so that they can be used again."""
        self._env.reader_check()

    def read(self) -> Tables:
        """A transaction that reads; a context manager."""
        return Tables(self._environment)

    def write(self) -> WritableTables:
        """A transaction that commits at the end of its block, or aborts when something is raised in it."""
        return WritableTables(self._environment, write=True)

    def get(self, key: bytes) -> Entry | None:
        """The entry of an encoded key, also when its lifetime has ended."""
        with self._env.begin(db=self._entries) as transaction:  # every request does this
            raw = transaction.get(key)
        return None if raw is None else Entry._make(msgpack.unpackb(raw))

    def scan(self, prefix: str, after: str) -> Iterator[tuple[str, Entry]]:
        """Entries in key order whose key starts with `prefix` and is greater than `after`."""
        for key, entry in self.pages(prefix, after, ""):
            if entry is not None:
                yield key, entry

    def pages(self, prefix: str, after: str, delimiter: str) -> Iterator[tuple[str, Entry | None]]:
        """As `scan`; with a delimiter, keys that have it behind the prefix are folded into one row with no entry.

        The key of such a row ends with the delimiter. Folded keys are jumped over, not read.
        """
        with self._env.begin(db=self._entries) as transaction, transaction.cursor() as cursor:
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
                    yield key, Entry._make(msgpack.unpackb(cursor.value()))
                found = cursor.next()

    def read_nodes(self) -> dict[str, Node]:
        """Every node ever heard of and not forgotten, by name."""
        with self.read() as tables:
            return tables.nodes()

    def count_of(self, node: str) -> int:
        """Count the keys on a node. Looks at the whole index, a stretch in each transaction."""
        count = 0
        after: bytes | None = b""
        while after is not None:
            with self.read() as tables:
                stretch = list(islice(tables.entries(after), _STRETCH))
            count += sum(entry.node == node for _, entry in stretch)
            after = stretch[-1][0] if stretch else None
        return count

    def stat(self) -> dict[str, int]:
        """LMDB's statistics of the entries."""
        with self._env.begin() as transaction:
            return cast("dict[str, int]", transaction.stat(self._entries))


def _cursor_key(node: str) -> bytes:
    return b"cursor:" + node.encode()
