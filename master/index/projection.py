"""Applies the nodes' results to the index. The truth is in the nodes' logs; this makes the index follow.

Per node the index keeps a `Cursor`: everything of the node's log up to `seq` has been applied. The
highest version of a key wins, whatever the order in which results arrive; a deletion is a version too
and beats a value of the same version. Applying a result twice changes nothing.

A node's log is a chain of epochs, one per start of its agent. When a node shows a log that does not
continue the one the cursor belongs to (an empty disk, an older backup), the cursor goes back to 0 with a
new generation; when the replay has come to its end, entries of that node of an older generation are
gone, since nothing stands behind them. The same is done when a restore is asked for; but then the index
knows every key of the log all the while, and the cursor says up to where (`covered`).

A version from beyond the horizon, which an index of an older Pulzar may have, stands in nobody's way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from broker import keys, logs
from broker.messages.horizon import Horizon
from broker.messages.store import Kind, Result, Results, Status
from master.index.environment import pack, stamped
from master.index.index import Discard, Entry, Index, unpack_entry, unpack_tomb

log = logs.get(__name__)

DISCARD_DELAY_MS = 60_000  # a client may be on its way to a superseded value
_EPOCHS_KEPT = 64


class Cursor(NamedTuple):
    """How far a node's log has been applied."""

    seq: int = 0
    generation: int = 1
    epochs: tuple[tuple[int, str], ...] = ()  # (seq, id) of the epochs this cursor has passed, oldest first
    prune: bool = False  # when the replay ends, entries of older generations are to be removed
    covered: int = 0  # of the keys up to here the index has an entry, though the log is applied again

    @property
    def complete_to(self) -> int:
        """Up to this seq, the index knows every key of the log."""
        return max(self.seq, self.covered)


class Event(NamedTuple):
    """Something users may listen for."""

    name: str  # key.added or key.deleted
    key: bytes
    version: int
    size: int

    def body(self) -> bytes:
        """The event as JSON, which users read."""
        fields = {"event": self.name, "key": keys.decode(self.key), "version": self.version, "size": self.size}
        return json.dumps(fields).encode()


class Applied(NamedTuple):
    """What applying some results came to."""

    answers: list[tuple[str, int, Status, str]]  # origin, ticket, status, reason
    events: list[Event]
    gaps: set[str]  # nodes of which results are missing


class Projection:
    """Applies results in the transactions of its owner, the controller."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._ahead: dict[str, list[tuple[int, int]]] = {}  # node → stretches applied beyond the cursor

    def cursor(self, txn: Any, node: str) -> Cursor:
        """The node's cursor; a new one for a node that was never heard of."""
        raw = txn.get(b"cursor:" + node.encode(), db=self._index.meta)
        if raw is None:
            return Cursor()
        seq, generation, epochs, *rest = msgpack.unpackb(raw)  # an older Pulzar wrote no `covered`
        return Cursor(seq, generation, tuple((epoch_seq, epoch) for epoch_seq, epoch in epochs), *rest)

    def restart(self, txn: Any, node: str, same: bool = False) -> Cursor:
        """Have the node's log applied from its beginning; what is not in it will be removed.

        `same`: it is the log that the index was made from, so that no key is unknown meanwhile.
        """
        old = self.cursor(txn, node)
        cursor = Cursor(generation=old.generation + 1, prune=True)
        if same:
            cursor = cursor._replace(epochs=old.epochs, covered=old.complete_to)
        self._save(txn, node, cursor)
        self._ahead.pop(node, None)
        return cursor

    def drop(self, txn: Any, node: str) -> None:
        """Nothing is known of the node's log any more."""
        txn.delete(b"cursor:" + node.encode(), db=self._index.meta)
        self._ahead.pop(node, None)

    def apply(self, txn: Any, results: Sequence[Results], now: int) -> Applied:
        """Apply a batch of results, in order."""
        applied = Applied([], [], set())
        size_change = 0
        highest = Horizon.at(now).version
        for message in results:
            cursor = self.cursor(txn, message.node)
            told = len(applied.events)
            for item in message.items:
                if item.kind == Kind.EPOCH:
                    cursor = self._epoch(txn, message.node, cursor, item)
            for item in message.items:
                status = item.status
                if status in (Status.DONE, Status.STALE) and item.kind != Kind.EPOCH:
                    kept, change = self._item(txn, message.node, cursor.generation, item, now, highest, applied)
                    status = Status.DONE if kept else Status.STALE
                    size_change += change
                if item.ticket:
                    applied.answers.append((message.origin, item.ticket, status, item.reason))
            if message.request:
                del applied.events[told:]  # a replay is no news
            self._advance(txn, message, cursor, applied)
        if size_change:
            self._index.add_bytes(txn, size_change)
        return applied

    # One result.

    def _item(
        self, txn: Any, node: str, generation: int, item: Result, now: int, highest: int, applied: Applied
    ) -> tuple[bool, int]:
        """Whether the index now says what the result says, and by how much the stored bytes changed."""
        index = self._index
        raw = txn.get(item.key, db=index.entries)
        entry = None if raw is None else unpack_entry(raw)
        raw_tomb = txn.get(item.key, db=index.tombs)
        tomb = 0 if raw_tomb is None else unpack_tomb(raw_tomb)[0]
        tomb = tomb if tomb <= highest else 0
        # An entry that this node's log, applied anew, has not brought again yet stands in nobody's way.
        newer = entry is not None and item.version < entry.version <= highest
        newer = newer and not (entry and entry.node == node and entry.generation < generation)
        if item.kind == Kind.DELETE:
            return True, self._delete(txn, node, item, entry, tomb, now, highest, applied)
        if item.status == Status.STALE or item.version <= tomb or newer:
            # Not wanted any more. On the node of the current version the node itself knows that.
            if item.status == Status.DONE and not (newer and entry and entry.node == node):
                # To a deleted value nobody is on the way: the node shall know of the deletion at once.
                self._discard(txn, node, item.key, item.version, now, 0 if item.version <= tomb else DISCARD_DELAY_MS)
            return False, 0
        if entry and entry.version == item.version and entry.generation == generation:
            return True, 0
        new = Entry(
            item.version,
            node,
            generation,
            item.seq,
            item.created,
            item.expires,
            item.size,
            item.content_type,
            item.digest,
            item.value,
        )
        txn.put(item.key, pack(new), db=index.entries)
        if entry:
            self._forget_expiry(txn, entry)
            if entry.node != node:
                self._discard(txn, entry.node, item.key, entry.version, now)
        if item.expires:
            txn.put(stamped(item.expires, item.version), item.key, db=index.expiry)
        if not (entry and entry.version == item.version):
            applied.events.append(Event("key.added", item.key, item.version, item.size))
        return True, item.size - (entry.size if entry else 0)

    def _delete(
        self,
        txn: Any,
        node: str,
        item: Result,
        entry: Entry | None,
        tomb: int,
        now: int,
        highest: int,
        applied: Applied,
    ) -> int:
        index = self._index
        if item.version > tomb:
            txn.put(item.key, stamped(item.version, now), db=index.tombs)
        if entry is None or item.version < entry.version <= highest:
            return 0
        txn.delete(item.key, db=index.entries)
        self._forget_expiry(txn, entry)
        if entry.node != node:
            self._discard(txn, entry.node, item.key, item.version, now, 0)
        applied.events.append(Event("key.deleted", item.key, item.version, entry.size))
        return -entry.size

    def _forget_expiry(self, txn: Any, entry: Entry) -> None:
        if entry.expires:
            txn.delete(stamped(entry.expires, entry.version), db=self._index.expiry)

    def _discard(
        self, txn: Any, node: str, key: bytes, version: int, now: int, delay_ms: int = DISCARD_DELAY_MS
    ) -> None:
        due = stamped(now + delay_ms, version)
        txn.put(due, pack(Discard(node, key, version)), db=self._index.outbox)

    # The cursor.

    def _advance(self, txn: Any, message: Results, cursor: Cursor, applied: Applied) -> None:
        if message.upto <= cursor.seq:
            return
        ahead = self._ahead.setdefault(message.node, [])
        ahead.append((message.after, message.upto))
        # What reaches beyond the end of the node's log was told of another one, before a backup was put back.
        ahead[:] = sorted(stretch for stretch in ahead if stretch[1] <= max(message.end, message.upto))
        seq = cursor.seq
        while ahead and ahead[0][0] <= seq:
            seq = max(seq, ahead.pop(0)[1])
        if ahead:
            ahead[:] = _merged(ahead)
            applied.gaps.add(message.node)
        covered = cursor.covered
        if covered and message.after <= covered:
            covered = max(covered, message.upto)
        if seq > cursor.seq or covered > cursor.covered:
            self._save(txn, message.node, cursor._replace(seq=seq, covered=covered))

    def _epoch(self, txn: Any, node: str, cursor: Cursor, item: Result) -> Cursor:
        """The node says which epochs its log is made of; see whether it continues what was applied."""
        chain = item.epochs()
        known = {epoch for _, epoch in cursor.epochs}
        if chain and chain[-1][1] in known:
            return cursor
        if cursor.epochs:
            last = cursor.epochs[-1][1]
            later = [seq for position, (seq, _) in enumerate(chain) if last in {epoch for _, epoch in chain[:position]}]
            if last not in {epoch for _, epoch in chain} or (later and later[0] <= cursor.complete_to):
                log.warning("node has another log than before; applying all of it", node=node, seq=cursor.complete_to)
                cursor = self.restart(txn, node)
        cursor = cursor._replace(epochs=tuple(chain[-_EPOCHS_KEPT:]))
        self._save(txn, node, cursor)
        return cursor

    def _save(self, txn: Any, node: str, cursor: Cursor) -> None:
        txn.put(b"cursor:" + node.encode(), pack(cursor), db=self._index.meta)

    def prune(self, txn: Any, node: str, after: bytes, limit: int) -> tuple[bytes | None, int]:
        """Remove entries of the node that its log, applied from the beginning, did not bring again.

        Looks at up to `limit` entries behind the encoded key `after`; returns where to go on (None at the
        end, when the pruning is over) and how many were removed.
        """
        cursor = self.cursor(txn, node)
        stale: list[tuple[bytes, Entry]] = []
        last: bytes | None = None
        for count, (key, entry) in enumerate(self._entries(txn, after)):
            if count >= limit:
                break
            last = key
            if entry.node == node and entry.generation < cursor.generation:
                stale.append((key, entry))
        else:
            last = None
            self._save(txn, node, cursor._replace(prune=False, covered=0))
        for key, entry in stale:
            txn.delete(key, db=self._index.entries)
            self._forget_expiry(txn, entry)
            log.warning("value is gone from its node", key=key, version=entry.version, node=node)
        if stale:
            self._index.add_bytes(txn, -sum(entry.size for _, entry in stale))
        return last, len(stale)

    def _entries(self, txn: Any, after: bytes) -> Iterator[tuple[bytes, Entry]]:
        with txn.cursor(db=self._index.entries) as cursor:
            found = cursor.set_range(after)
            while found:
                key = cursor.key()
                if key != after:
                    yield key, unpack_entry(cursor.value())
                found = cursor.next()


def _merged(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for after, upto in stretches:
        if merged and after <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], upto))
        else:
            merged.append((after, upto))
    return merged


def routing_key(event: Event) -> str:
    """Routing key of an event: its name, then the folders of the key; 255 bytes at most."""
    folders = keys.decode(event.key).split("/")[:-1]
    return ".".join([event.name, *(folder.replace(".", "_") for folder in folders)])[:255]
