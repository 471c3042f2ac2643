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
| meta    | `restoring`, `forgotten`, `draining` | nodes, see `Tables`                                    |
| meta    | `repair`, `unsure`                 | `RepairState`, `Unsure`                                |
| folders | "/" + folder                       | keys and bytes beneath it; see below                   |
| events  | number                             | what has happened, see `master.index.events`           |
| meta    | `stream`, `jobs`                   | the stream of these, and how many of the ledger it has |
| meta    | `away`, `published`                | nodes out of synch, and what RabbitMQ has of events    |
| meta    | `bytes`                            | bytes stored, for a Pulzar before `folders`            |

A transaction writes each folder in which it changed something once, at its end. It puts its own number into the row of
the empty folder. When the newest transaction of the file is another one, a Pulzar before `folders` was here meanwhile:
all folders are counted anew when the index is opened for writing.
"""

from __future__ import annotations

import struct
import time
from binascii import a2b_base64
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Self, cast

import lmdb
import msgpack

from broker import integers, keys, lmdb_files, logs
from broker.clock import now_ms
from broker.messages.store import Heartbeat, Result
from master.errors import IndexUnusable
from master.index import checkpoint_file, checkpoints, events, folders
from master.index.checkpoints import Checkpoints
from master.index.environment import Contents, Environment, Room, Transaction, pack, stamped
from master.index.events import Event, Position
from master.index.folders import Usage

log = logs.get(__name__)

_STRETCH = 10_000  # entries counted in one transaction
_LAST = (1 << 64) - 1
_OVERFLOWS = 1000  # bytes of a value; LMDB may give such a row pages of its own
_ADVICE = "remove that directory: it fills itself again from the nodes"
_TABLES = ("entries", "tombs", "expiry", "outbox", "nodes", "meta", "folders", "events")
# Not durable: a power cut leaves the last checkpoint, and replay brings the rest.
_CONTENTS = Contents("index", "[server] index_map", _ADVICE, _TABLES, durable=False)


class Holder(NamedTuple):
    """A node that has the value of an entry."""

    node: str
    generation: int  # of the node's log, see `master.index.projection`


class Entry(NamedTuple):
    """What the index says of a key. Times in ms since the epoch.

    One holder is in `node` and `generation`; others are in `copies`. All of them have the same version.
    """

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
    copies: tuple[Holder, ...] = ()  # further holders; a row has this field only when there are any

    @classmethod
    def of(cls, result: Result, node: str, generation: int) -> Self:
        """The entry of a value that a node says it has stored."""
        _, _, _, seq, _, _, version, created, expires, content_type, digest, size, value = result
        fields = version, node, generation, seq, created, expires, size, content_type, digest, value, ()
        return tuple.__new__(cls, fields)

    @property
    def holders(self) -> tuple[Holder, ...]:
        """All nodes that have the value, at least one."""
        return (Holder(self.node, self.generation), *self.copies)

    @property
    def nodes(self) -> list[str]:
        """The names of all holders."""
        return [self.node, *(holder.node for holder in self.copies)]

    def on(self, node: str) -> bool:
        """Whether a node is a holder."""
        return self.node == node or any(holder.node == node for holder in self.copies)

    def generation_on(self, node: str) -> int | None:
        """The generation of a node's log in which it said that it has the value; None when it is no holder."""
        if self.node == node:
            return self.generation
        return next((holder.generation for holder in self.copies if holder.node == node), None)

    def having(self, holder: Holder) -> Self:
        """The same entry with one more holder, or with that of the same node in another generation."""
        if holder.node == self.node:
            return self._replace(generation=holder.generation)
        others = [each for each in self.copies if each.node != holder.node]
        return self._replace(copies=(*others, holder))

    def without(self, node: str) -> Self | None:
        """The same entry without a node as holder; None when it was the only one."""
        if self.node != node:
            return self._replace(copies=tuple(holder for holder in self.copies if holder.node != node))
        if not self.copies:
            return None
        first, *others = self.copies
        # Nobody asks for the place of a copy in its node's log.
        return self._replace(node=first.node, generation=first.generation, seq=0, copies=tuple(others))

    def live(self, now: int) -> bool:
        """Whether the value's lifetime has not ended at `now`, in ms."""
        return not self.expires or now < self.expires


class Deletion(NamedTuple):
    """The newest deletion of a key."""

    version: int
    noted: int  # ms, when the master heard of it
    purged: int = 0  # up to this version, none may be brought back

    @classmethod
    def read(cls, raw: bytes) -> Self:
        """The deletion of a row; an older Pulzar wrote no `purged`."""
        return cls(*struct.unpack(f">{len(raw) // 8}Q", raw))

    def row(self) -> bytes:
        """The deletion as a row, in a Pulzar before `purged`, too, unless it is needed."""
        return struct.pack(">QQQ", *self) if self.purged else struct.pack(">QQ", self.version, self.noted)


class Discard(NamedTuple):
    """A version of a key that a node must forget, with every older one."""

    node: str
    key: bytes
    version: int
    purge: bool = False  # none of them may be brought back
    # Not 0: a newer version has holders elsewhere, and has taken the place of this one on a node with that generation
    # of its log. It is told when one of them is sure to have the newer version, see `master.index.discards`.
    generation: int = 0
    drop: bool = False  # other nodes have enough copies: this node alone forgets the version


class Node(NamedTuple):
    """What a node said of itself in its last heartbeat."""

    heartbeat: Heartbeat
    received: int  # ms, the master's clock


@dataclass
class RepairState:
    """How far the repair of copies is, for people."""

    lacking: int = 0  # values that lacked copies in the last look at everything
    under_way: int = 0  # copies that nodes are making
    copies: int = 0  # made since the controller started
    bytes: int = 0  # of these
    rate: int = 0  # bytes per second, in the last 10 s
    lost: list[str] = field(default_factory=list)  # nodes that were not heard from for `repair_after`
    draining: dict[str, int] = field(
        default_factory=dict
    )  # nodes → values that are not enough elsewhere; -1: not known
    reasons: Counter[str] = field(default_factory=Counter)  # why copies were not made, in the last two minutes
    needed: bool = False  # there may be values on several nodes
    surplus: int = 0  # values with more copies than they are to have, in the last look at everything
    removed: int = 0  # copies that were too many and are gone, since the controller started
    move: tuple[str, str, int] | None = None  # from which node to which values are moved, and bytes that are left
    looked: int = -1  # `Unsure.changes` when the last look at everything began in which nothing was uncertain; -1: none


class Unsure(NamedTuple):
    """The nodes whose copies the index names, and may have lost: each shows another log, or one not looked at yet."""

    nodes: list[str]
    changes: int  # rises whenever a node becomes one of them


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


_SIZE = Entry._fields.index("size")
_COPIES = Entry._fields.index("copies")


def _entry(raw: bytes) -> Entry:
    """An entry from its row. Every request and every row of a list does this, and `_make` takes three times as long."""
    fields = msgpack.unpackb(raw)
    if len(fields) == _COPIES:
        fields.append(())
    else:
        fields[_COPIES] = tuple(map(Holder._make, fields[_COPIES]))
    return tuple.__new__(Entry, fields)


def _fields(entry: Entry) -> tuple[object, ...]:
    """What stands in the row of an entry."""
    return entry if entry.copies else entry[:_COPIES]


class NodeKeys(NamedTuple):
    """How many keys a node has."""

    total: int
    alone: int  # those of them that no other node has


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
        return None if raw is None else _entry(raw)

    def entries(self, after: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
        """Encoded keys and entries in key order, behind the key `after`."""
        return ((key, _entry(raw)) for key, raw in self._behind("entries", after))

    def deletion(self, key: bytes) -> Deletion | None:
        """The newest deletion of an encoded key that is still remembered."""
        raw = self._txn.get(key, db=self._databases["tombs"])
        return None if raw is None else Deletion.read(raw)

    def deletions(self, after: bytes = b"") -> Iterator[tuple[bytes, Deletion]]:
        """Encoded keys and deletions in key order, behind the key `after`."""
        return ((key, Deletion.read(raw)) for key, raw in self._behind("tombs", after))

    def _behind(self, table: str, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        return ((key, raw) for key, raw in self._up(table, start=after) if key != after)

    def ended_lifetimes(self, now: int, most: int) -> list[Lifetime]:
        """Lifetimes that have ended at `now`, in ms: the oldest, at most so many."""
        return [Lifetime._make((*struct.unpack(">QQ", row), key)) for row, key in self._due("expiry", now, most)]

    def due_discards(self, now: int, most: int) -> list[tuple[bytes, Discard]]:
        """What nodes must be told at `now`, in ms: the oldest, at most so many, each with the name of its row."""
        return [(row, Discard(*msgpack.unpackb(raw))) for row, raw in self._due("outbox", now, most)]

    def _due(self, table: str, now: int, most: int) -> Iterator[tuple[bytes, bytes]]:
        last = stamped(now, _LAST)
        for row, value in islice(self._up(table), most):
            if row > last:
                return
            yield row, value

    def nodes(self) -> dict[str, Node]:
        """Every node ever heard of and not forgotten, by name."""
        return {name.decode(): _node(raw) for name, raw in self._up("nodes")}

    def node(self, name: str) -> Node | None:
        """A node that was heard of and not forgotten."""
        raw = self._get("nodes", name.encode())
        return None if raw is None else _node(raw)

    def cursor(self, node: str) -> Cursor | None:
        """How far a node's log has been applied; None when nothing is known of it."""
        raw = self._get("meta", _cursor_key(node))
        if raw is None:
            return None
        seq, generation, epochs, *rest = msgpack.unpackb(raw)  # an older Pulzar wrote no `covered`
        return Cursor(seq, generation, tuple((epoch_seq, epoch) for epoch_seq, epoch in epochs), *rest)

    def usage(self, folder: str = "") -> Usage:
        """What lies beneath a folder, `a/` or `a/b/`; for "" all there is."""
        return Usage.read(self._get("folders", folders.row_key(folder.encode())))

    def counted(self) -> bool:
        """Whether the newest transaction has counted all folders."""
        return folders.number_of(self._get("folders", folders.ROOT)) == self._txn.id()

    def incomplete(self) -> list[str] | None:
        """The nodes of whose logs the index may lack keys; None for a new index, which can't say."""
        return self._names(b"restoring")

    def forgotten(self) -> list[str]:
        """The nodes that are gone for good and whose entries are being removed."""
        return self._names(b"forgotten") or []

    def repair(self) -> RepairState:
        """How far the repair of copies is."""
        raw = self._get("meta", b"repair")
        if raw is None:
            return RepairState()
        state = RepairState(*msgpack.unpackb(raw))  # an older Pulzar wrote fewer fields
        state.reasons = Counter(state.reasons)
        if state.move:
            source, target, left = state.move
            state.move = source, target, left
        return state

    def unsure(self) -> Unsure:
        """The nodes whose copies may be gone."""
        raw = self._get("meta", b"unsure")
        return Unsure([], 0) if raw is None else Unsure(*msgpack.unpackb(raw))

    def doubts(self) -> list[str]:
        """Why values may lack copies that `RepairState.lacking` does not count, for a person."""
        unsure, state = self.unsure(), self.repair()
        if not state.needed:
            return []
        found = [f"node {node} may have lost its copies: its log is compared with the index" for node in unsure.nodes]
        if not found and state.looked != unsure.changes:
            found.append("values may lack copies: they are looked through just now")
        return found

    def draining(self) -> list[str]:
        """The nodes whose values are moved away, and that take no new ones."""
        return self._names(b"draining") or []

    def newest_event(self) -> Position:
        """The newest event; the stream is 0 in an index that no writer has opened."""
        with self._cursor("events") as cursor:
            number = int.from_bytes(cursor.key(), "big") if cursor.last() else 0
        stream, first = self._stream()
        return Position(stream, max(number, first - 1))

    def events(self, after: Position) -> Iterator[tuple[int, Event]] | None:
        """The events behind one, the oldest first, each with its number.

        None when that is not known, or some of those behind it are gone.
        """
        newest = self.newest_event()
        if after.stream != newest.stream or after.number > newest.number:
            return None
        if after.number < newest.number:
            with self._cursor("events") as cursor:
                found = cursor.first() and next(events.unpacked(int.from_bytes(cursor.key(), "big"), cursor.value()))
            if not found or found[0] > after.number + 1:
                return None
        return self._events(after.number)

    def _events(self, after: int) -> Iterator[tuple[int, Event]]:
        for key, row in self._up("events", start=events.row_key(after + 1)):
            for number, event in events.unpacked(int.from_bytes(key, "big"), row):
                if number > after:
                    yield number, event

    def _stream(self) -> tuple[int, int]:
        """The stream of events, and the number of its first one."""
        raw = self._get("meta", b"stream")
        if raw is None:
            return 0, 1
        stream, first = msgpack.unpackb(raw)
        return stream, first

    def told_of_jobs(self) -> int:
        """The number of the ledger's newest event that is among the events here."""
        raw = self._get("meta", b"jobs")
        return 0 if raw is None else int(msgpack.unpackb(raw))

    def away(self) -> list[str]:
        """The nodes of which the events say that they are out of synch."""
        return self._names(b"away") or []

    def published(self) -> Position | None:
        """The newest event up to which RabbitMQ has all of them; None when they are not published."""
        raw = self._get("meta", b"published")
        return None if raw is None else Position(*msgpack.unpackb(raw))

    def _names(self, name: bytes) -> list[str] | None:
        raw = self._get("meta", name)
        return None if raw is None else list(msgpack.unpackb(raw))


class WritableTables(Tables):
    """A transaction that writes the index; of the controller alone.

    Entries are put and dropped by two methods only, which count them in their folders.
    """

    __slots__ = ("_changes", "_counted", "_happened", "_kept", "_pack")

    def __init__(self, environment: Environment, kept_events: int) -> None:
        """`kept_events`: how many of them are kept, at least."""
        super().__init__(environment, write=True)
        self._kept = kept_events
        self._changes = folders.Changes()
        self._happened: list[Event] = []
        self._pack = msgpack.Packer().pack  # `packb` makes a new one for each row
        self._counted = False  # all folders, in this transaction

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            try:
                self._settle()
                if self._happened:
                    self._write_events()
            except BaseException:
                self._txn.abort()
                raise
        super().__exit__(*error)

    def tell(self, *happened: Event) -> None:
        """Have these events behind all others, once the transaction is committed."""
        self._happened += happened

    def _write_events(self) -> None:
        before = last = self.newest_event().number
        for last, row in events.rows(self._happened, before):
            self._txn.put(events.row_key(last), row, append=True, db=self._databases["events"])
        if events.is_time_to_trim(before, last):
            with self._cursor("events") as cursor:
                events.trim(cursor, last - self._kept)

    def begin_stream(self, now: int) -> None:
        """Begin a stream of events, since some may be lost. Numbers go on; `now` is in ms since the epoch."""
        stream, _ = self._stream()
        first = self.newest_event().number + 1
        self._txn.drop(self._databases["events"], delete=False)
        self._put("meta", b"stream", pack((max(now, stream + 1), first)))

    def set_told_of_jobs(self, number: int) -> None:
        """Note the number of the ledger's newest event that is among the events here."""
        self._put("meta", b"jobs", pack(number))

    def set_away(self, nodes: Sequence[str]) -> None:
        """Note the nodes of which the events say that they are out of synch."""
        self._put("meta", b"away", pack(nodes))

    def set_published(self, position: Position | None) -> None:
        """Note up to which event RabbitMQ has all of them; None: they are not published."""
        if position is None:
            self._delete("meta", b"published")
        else:
            self._put("meta", b"published", pack(position))

    def _settle(self) -> None:
        """Write what has changed in the folders."""
        get, put, database = self._txn.get, self._txn.put, self._databases["folders"]
        number = self._txn.id()
        changes = self._changes.take()
        root = get(folders.ROOT, db=database)
        all_changes = changes.pop(folders.ROOT)
        right = known = self._counted or folders.number_of(root) in (number - 1, number)
        for key, change in changes.items():
            count, size = folders.sums(get(key, db=database), *change)
            if count > 0 and size >= 0:
                put(key, folders.row(count, size), db=database)
            else:
                self._delete("folders", key)
                right &= count == size == 0
        count, size = folders.sums(root, *all_changes)
        right &= count >= 0 and size >= 0
        if known and not right:
            log.error("folders were counted wrong; the next start counts them anew")
        put(folders.ROOT, folders.row(max(0, count), max(0, size), number if right else 0), db=database)
        self._set_bytes(size)

    def _set_bytes(self, size: int) -> None:
        """What a Pulzar before `folders` reads, should it come back."""
        self._put("meta", b"bytes", pack(min(max(0, size), integers.MAX)))

    def usage(self, folder: str = "") -> Usage:
        """As that of `Tables`, with what this transaction has changed."""
        self._settle()
        return super().usage(folder)

    def count_folders(self) -> None:
        """Count all folders anew."""
        began = time.monotonic()
        self._txn.drop(self._databases["folders"], delete=False)
        entries = ((key, msgpack.unpackb(raw)[_SIZE]) for key, raw in self._up("entries"))
        for folder, (count, size) in folders.counted(entries):
            self._put("folders", folders.row_key(folder), folders.row(count, size))
        self._counted = True
        if found := self.usage().keys:
            log.info("folders counted", keys=found, seconds=round(time.monotonic() - began, 3))

    def add_entry(self, key: bytes, new: Entry) -> bool:
        """Write the entry of an encoded key that has none; its lifetime is listed. False when it has one already."""
        if not self._txn.put(key, self._pack(_fields(new)), overwrite=False, db=self._databases["entries"]):
            return False
        self._changes.add(key, 1, new.size)
        if new.expires:
            self._put("expiry", stamped(new.expires, new.version), key)
        return True

    def put_entry(self, key: bytes, old: Entry | None, new: Entry) -> None:
        """Write the entry of an encoded key in place of `old`; its lifetime is listed."""
        if old and old.value and len(old.value) > _OVERFLOWS:
            # LMDB would leave a shorter row in the pages that this one has for itself: the audit finds that wrong.
            self._delete("entries", key)
        self._txn.put(key, self._pack(_fields(new)), db=self._databases["entries"])
        if old is None:
            self._changes.add(key, 1, new.size)
        else:
            if old.size != new.size:
                self._changes.add(key, 0, new.size - old.size)
            self._drop_lifetime(old)
        if new.expires:
            self._put("expiry", stamped(new.expires, new.version), key)

    def drop_entry(self, key: bytes, entry: Entry) -> None:
        """Remove the entry of an encoded key, and its lifetime."""
        if self._delete("entries", key):
            self._changes.add(key, -1, -entry.size)
        self._drop_lifetime(entry)

    def _drop_lifetime(self, entry: Entry) -> None:
        if entry.expires:
            self._delete("expiry", stamped(entry.expires, entry.version))

    def drop_lifetime(self, lifetime: Lifetime) -> None:
        """Remove a lifetime from the list of those that end."""
        self._delete("expiry", stamped(lifetime.expires, lifetime.version))

    def set_deletion(self, key: bytes, deletion: Deletion) -> None:
        """Remember the newest deletion of an encoded key."""
        self._put("tombs", key, deletion.row())

    def drop_deletion(self, key: bytes) -> None:
        """Remember no deletion of an encoded key."""
        self._delete("tombs", key)

    def add_discard(self, discard: Discard, due: int) -> None:
        """Put a row into the outbox; it leaves from `due` on, in ms since the epoch."""
        row = pack(discard if discard.drop else discard[:-1] if discard.generation else discard[:-2])
        while not self._put("outbox", stamped(due, discard.version), row, overwrite=False):
            if self._get("outbox", stamped(due, discard.version)) == row:
                break
            due += 1  # another node must forget the same version

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

    def set_incomplete(self, nodes: Sequence[str]) -> None:
        """Note the nodes of whose logs the index may lack keys."""
        self._put("meta", b"restoring", pack(nodes))

    def set_draining(self, nodes: Sequence[str]) -> None:
        """Note the nodes whose values are moved away."""
        self._put("meta", b"draining", pack(nodes))

    def set_repair(self, state: RepairState) -> None:
        """Note how far the repair of copies is."""
        self._put("meta", b"repair", pack([*vars(state).values()]))

    def set_unsure(self, unsure: Unsure) -> None:
        """Note the nodes whose copies may be gone."""
        self._put("meta", b"unsure", pack(unsure))

    def set_forgotten(self, nodes: Sequence[str]) -> None:
        """Note the nodes that are gone for good and whose entries are being removed."""
        self._put("meta", b"forgotten", pack(nodes))


class Index:
    """The index in a directory. One per process and path; never used across a fork.

    `map_size` is in bytes. Raises `IndexUnusable` when the files can't be opened.
    """

    def __init__(self, directory: Path, map_size: int, write: bool = False) -> None:
        self.directory = directory
        if write:
            _check(directory)
        self._environment = Environment(directory, map_size, _CONTENTS, write)
        self._env, self._entries = self._environment.env, self._environment.databases["entries"]
        self._folders = self._environment.databases["folders"]
        self._kept_events = events.kept(map_size)
        self._checkpoints: Checkpoints | None = None
        if write:
            try:
                self._begin_writing()
            except BaseException:
                self._environment.close()
                raise

    def _begin_writing(self) -> None:
        try:
            self._checkpoints = Checkpoints(self.directory, self._env, self.read_nodes)
            lost = self._checkpoints.lost
            with self.read() as tables:
                begin = lost or not tables.newest_event().stream
            if begin:
                with self.write() as tables:
                    tables.begin_stream(now_ms())
                    if self._checkpoints.unsure:
                        tables.set_incomplete(sorted({*self._checkpoints.unsure, *tables.nodes()}))
            if lost:
                self._checkpoints.settled()
        except (lmdb.Error, OSError) as error:
            raise IndexUnusable(f"there can be no checkpoint of the index in {self.directory}: {error}") from error
        self._count_folders()

    def _count_folders(self) -> None:
        """Count all folders anew, unless the newest transaction has counted them."""
        try:
            with self.read() as tables:
                if tables.counted():
                    return
            with self.write() as tables:
                tables.count_folders()
        except lmdb.Error as error:
            raise IndexUnusable(f"the folders of the index in {self.directory} can't be counted: {error}") from error

    def close(self) -> None:
        """Write everything to the disk and close the files. Raises `OSError`."""
        try:
            if self._checkpoints:
                self._checkpoints.close()
        finally:
            self._environment.close()

    def make_durable(self) -> None:
        """Make a checkpoint now: what is committed survives a power cut. For the writer, between its transactions."""
        if self._checkpoints:
            self._checkpoints.make()

    def tick(self) -> None:
        """Begin a checkpoint in the background, if it is time. For the writer, between its transactions."""
        if self._checkpoints:
            self._checkpoints.make_when_due()

    def survives(self, nodes: Iterable[str]) -> bool:
        """Whether a checkpoint knows all these nodes."""
        return self._checkpoints is not None and self._checkpoints.nodes.issuperset(nodes)

    def forget_dead(self) -> None:
        """Free the pages that killed readers still hold, so that they can be used again."""
        self._env.reader_check()

    def read(self) -> Tables:
        """A transaction that reads; a context manager."""
        return Tables(self._environment)

    def write(self) -> WritableTables:
        """A transaction that commits at the end of its block, or aborts when something is raised in it."""
        return WritableTables(self._environment, self._kept_events)

    def get(self, key: bytes) -> Entry | None:
        """The entry of an encoded key, also when its lifetime has ended."""
        with self._env.begin(db=self._entries) as transaction:  # every request does this
            raw = transaction.get(key)
        return None if raw is None else _entry(raw)

    def scan(self, prefix: str, after: str) -> Iterator[tuple[str, Entry]]:
        """Entries in key order whose key starts with `prefix` and is greater than `after`."""
        for key, entry in self.pages(prefix, after, ""):
            if isinstance(entry, Entry):
                yield key, entry

    def search(self, prefix: str, after: str, text: str) -> Iterator[tuple[str, Entry | None]]:
        """As `scan`, without the entries of keys that do not have `text` behind the prefix, in whatever case.

        Every key is looked at, and its row read only when it is found: half the time of `scan` for the others.
        """
        first, beginning, lowest = _first(max(prefix, after)), prefix.encode(), after.encode()
        wanted, behind = text.lower().encode(), len(beginning)
        with self._env.begin(db=self._entries) as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(first):
                return
            for encoded, raw in cursor.iternext():
                name = a2b_base64(encoded.translate(keys.TO_STANDARD) + b"==")
                if not name.startswith(beginning):
                    return
                if name > lowest:
                    found = name.lower().find(wanted, behind) >= 0
                    yield name.decode("ascii"), _entry(raw) if found else None

    def pages(self, prefix: str, after: str, delimiter: str) -> Iterator[tuple[str, Entry | Usage | None]]:
        """As `scan`; with a delimiter, keys that have it behind the prefix are folded into one row.

        The key of such a row ends with the delimiter. Folded keys are jumped over, not read. When the delimiter is a
        slash the row is a folder, and has its usage, else None. All rows are those of one moment.
        """
        first = _first(max(prefix, after))
        with self._env.begin(db=self._entries) as transaction, transaction.cursor() as cursor:
            found = cursor.set_range(first)
            while found:
                found = False
                for encoded, raw in cursor.iternext():
                    key = a2b_base64(encoded.translate(keys.TO_STANDARD) + b"==").decode("ascii")
                    if not key.startswith(prefix):
                        return
                    cut = key.find(delimiter, len(prefix)) if delimiter else -1
                    if cut >= 0:
                        folder = key[: cut + len(delimiter)]
                        if folder > after:
                            yield folder, self._folded(transaction, folder) if delimiter == "/" else None
                        found = cursor.set_range(keys.encode(folder + "\x7f"))
                        break
                    if key > after:
                        yield key, _entry(raw)

    def _folded(self, transaction: lmdb.Transaction[bytes], folder: str) -> Usage:
        return Usage.read(transaction.get(folders.row_key(folder.encode()), db=self._folders))

    def read_nodes(self) -> dict[str, Node]:
        """Every node ever heard of and not forgotten, by name."""
        with self.read() as tables:
            return tables.nodes()

    def count_of(self, node: str) -> NodeKeys:
        """Count the keys on a node. Looks at the whole index, a stretch in each transaction."""
        total = alone = 0
        after: bytes | None = b""
        while after is not None:
            with self.read() as tables:
                stretch = list(islice(tables.entries(after), _STRETCH))
            for _, entry in stretch:
                if entry.on(node):
                    total += 1
                    alone += not entry.copies
            after = stretch[-1][0] if stretch else None
        return NodeKeys(total, alone)

    def room(self) -> Room:
        """How much of the file is in use."""
        return self._environment.room()

    def stat(self) -> dict[str, int]:
        """LMDB's statistics of the entries."""
        with self._env.begin() as transaction:
            return cast("dict[str, int]", transaction.stat(self._entries))


def _check(directory: Path) -> None:
    """Raises `IndexUnusable` when the file in a directory must not be opened by a writer."""
    try:
        if objection := checkpoint_file.objection(directory, same_master=True):
            raise IndexUnusable(f"the index in {directory} can't be opened: {objection}. Start the master anew")
        if not (directory / lmdb_files.DATA).exists():
            checkpoints.begin(directory, checkpoint_file.read(directory))
    except OSError as error:
        raise IndexUnusable(f"the index in {directory} can't be opened: {error}") from error


def _first(text: str) -> bytes:
    """Where keys from `text` on begin in the table of entries; `text` may be no key at all."""
    text = text[: keys.MAX_BYTES]
    if not text.isascii():
        cut = next(at for at, character in enumerate(text) if not character.isascii())
        text = text[:cut] + "\x7f"  # behind all keys that begin like it
    return keys.encode(text)


def _node(raw: bytes) -> Node:
    heartbeat, received = msgpack.unpackb(raw)
    return Node(Heartbeat(*heartbeat), received)  # an older Pulzar wrote fewer fields


def _cursor_key(node: str) -> bytes:
    return b"cursor:" + node.encode()
