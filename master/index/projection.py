"""Applies the nodes' results to the index. The truth is in the nodes' logs; the index follows them.

Per node the index keeps a `Cursor`: everything of the node's log up to `seq` has been applied. The
highest version of a key wins, whatever the order in which results arrive. A deletion is a version too
and beats a value of the same version. Applying a result twice changes nothing.

A node's log is a chain of epochs, one per start of its agent. A node may show a log that does not continue the one
the cursor belongs to: its disk is empty, or an older backup was put back. Then the cursor goes back to 0 with a new
generation. When the replay has come to its end, entries of that node of an older generation are removed, since
nothing stands behind them. The same is done when a restore is asked for. But then the index knows every key of the
log all the while, and the cursor says up to where (`covered`).

A value may have several holders. A result of the version that the entry has, from another node, adds that node as a
holder. One of a node that has dropped that version removes it. A newer version replaces the entry, and its node is the
only holder until others say that they have it, too. Pruning removes one holder; the entry goes with the last one. What
a node must forget is in `Discard` rows, see `master.index.discards`.

An index of an older Pulzar may have a version from beyond the horizon. Any other version replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from broker import logs
from broker.clock import now_ms
from broker.messages.horizon import Horizon
from broker.messages.store import PURGE, Epoch, Kind, Outcome, Result, Results, Status
from master.index.events import ADDED, DELETED, EXPIRED, LOST, OVERWRITTEN, Event, KeyFacts
from master.index.index import Cursor, Deletion, Discard, Entry, Holder, Tables, WritableTables

log = logs.get(__name__)

DISCARD_DELAY_MS = 60_000  # a client may be on its way to a superseded value
_EPOCHS_KEPT = 64
_KEY = attrgetter("key")
# Looking up a member of an enumeration takes as long as a row of a table, and a replay brings a million records.
_PUT, _EPOCH, _DROP, _DONE = int(Kind.PUT), int(Kind.EPOCH), int(Kind.DROP), int(Status.DONE)
_WRITTEN = frozenset((_DONE, int(Status.STALE)))


@dataclass(slots=True)
class Changes:
    """What a batch of results changed, and what must be told of it."""

    now: int  # ms since the epoch
    highest: int  # version that is believed
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)  # by the origin of their commands
    events: list[Event] = field(default_factory=list)
    gaps: set[str] = field(default_factory=set)  # nodes of which results are missing


class Projection:
    """Applies results to the index. For the controller's thread alone."""

    def __init__(self) -> None:
        self._ahead: dict[str, list[tuple[int, int]]] = {}  # node → stretches applied beyond the cursor

    def reset_cursor(self, tables: WritableTables, node: str, same_log: bool = False) -> Cursor:
        """Begin a new generation of the node's log: all of it is applied again, and what it lacks is removed.

        `same_log`: the index was made from this very log, so that no key is unknown meanwhile.
        """
        old = cursor_of(tables, node)
        cursor = Cursor(generation=old.generation + 1, prune=True)
        if same_log:
            cursor = cursor._replace(epochs=old.epochs, covered=old.complete_to)
        tables.set_cursor(node, cursor)
        self._ahead.pop(node, None)
        return cursor

    def drop(self, tables: WritableTables, node: str) -> None:
        """Forget how far the node's log was applied."""
        tables.drop_cursor(node)
        self._ahead.pop(node, None)

    def apply(self, tables: WritableTables, results: Sequence[Results], now: int) -> Changes:
        """Apply a batch of results, in order; `now` is in ms since the epoch."""
        changes = Changes(now, Horizon.at(now).version)
        for message in results:
            cursor = cursor_of(tables, message.node)
            told = len(changes.events)
            # A replay of what the index lacks is no news: the ring has a reset when that is over.
            silent = bool(message.request) and _may_lack(tables, message.node)
            for item in message.items:
                if item.kind == _EPOCH:
                    cursor = self._continue(tables, message.node, cursor, item.epochs())
            outcomes = changes.outcomes.setdefault(message.origin, [])
            # Nobody waits for a replay. In the order of their keys, entries are found and put in less time.
            for item in sorted(message.items, key=_KEY) if message.request else message.items:
                status = item.status
                if status in _WRITTEN and item.kind != _EPOCH:
                    agrees = _apply_item(tables, message.node, cursor.generation, item, changes)
                    status = Status.DONE if agrees else Status.STALE
                if item.ticket:
                    outcomes.append((item.ticket, status, item.reason))
            if silent:
                del changes.events[told:]
            self._advance(tables, message, cursor, changes)
        tables.tell(*changes.events)
        return changes

    def prune(self, tables: WritableTables, node: str, after: bytes, limit: int) -> tuple[bytes | None, int]:
        """Remove the node as holder of what its log, applied from the beginning, did not bring again.

        An entry without another holder goes. Looks at up to `limit` entries behind the encoded key `after`. Returns
        where to go on, and of how many it was removed. Where to go on is None at the end, when the cursor notes that
        the pruning is over.
        """
        cursor = cursor_of(tables, node)
        stale: list[tuple[bytes, Entry]] = []
        last: bytes | None = None
        for count, (key, entry) in enumerate(tables.entries(after)):
            if count >= limit:
                break
            last = key
            if (entry.generation_on(node) or cursor.generation) < cursor.generation:
                stale.append((key, entry))
        else:
            last = None
            tables.set_cursor(node, cursor._replace(prune=False, covered=0))
        for key, entry in stale:
            left = entry.without(node)
            if left is None:
                tables.drop_entry(key, entry)
                tables.tell(of_entry(LOST, now_ms(), key, entry))
                log.warning("value is gone from its node", key=key, version=entry.version, node=node)
            else:
                tables.put_entry(key, entry, left)
                log.debug("copy is gone from its node", key=key, version=entry.version, node=node, left=left.nodes)
        return last, len(stale)

    def _advance(self, tables: WritableTables, message: Results, cursor: Cursor, changes: Changes) -> None:
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
            changes.gaps.add(message.node)
        covered = cursor.covered
        if covered and message.after <= covered:
            covered = max(covered, message.upto)
        if seq > cursor.seq or covered > cursor.covered:
            tables.set_cursor(message.node, cursor._replace(seq=seq, covered=covered))

    def _continue(self, tables: WritableTables, node: str, cursor: Cursor, chain: list[Epoch]) -> Cursor:
        """The cursor, once the node has said which epochs its log is made of; reset for another log than before."""
        if chain and chain[-1][1] in {epoch for _, epoch in cursor.epochs}:
            return cursor
        if cursor.epochs and not _continues(chain, cursor):
            log.warning("node has another log than before; applying all of it", node=node, seq=cursor.complete_to)
            cursor = self.reset_cursor(tables, node)
        cursor = cursor._replace(epochs=tuple(chain[-_EPOCHS_KEPT:]))
        tables.set_cursor(node, cursor)
        return cursor


def cursor_of(tables: Tables, node: str) -> Cursor:
    """The node's cursor; a new one for a node that was never heard of."""
    return tables.cursor(node) or Cursor()


def _continues(chain: list[Epoch], cursor: Cursor) -> bool:
    """Whether the last epoch that was applied is in the chain, and the next one began after all that was applied."""
    epochs = [epoch for _, epoch in chain]
    last = cursor.epochs[-1][1]
    if last not in epochs:
        return False
    following = chain[epochs.index(last) + 1 :]
    return not following or following[0][0] > cursor.complete_to


def of_entry(kind: str, now: int, key: bytes, entry: Entry) -> Event:
    """The event that something became of the value of an encoded key; `now` is in ms since the epoch."""
    return Event(kind, now, key, KeyFacts(entry.version, entry.size, entry.digest, entry.expires))


def _put(kind: str, item: Result, changes: Changes) -> None:
    """Tell that a value came."""
    facts = KeyFacts(item.version, item.size, item.digest, item.expires)
    changes.events.append(Event(kind, changes.now, item.key, facts))


def _may_lack(tables: Tables, node: str) -> bool:
    """Whether the index may lack keys of a node's log."""
    incomplete = tables.incomplete()
    return incomplete is None or node in incomplete


def _apply_item(tables: WritableTables, node: str, generation: int, item: Result, changes: Changes) -> bool:
    """Write into the index what a result says; False when the index knows something newer."""
    deletion = tables.deletion(item.key)
    new = deletion is None and item.kind == _PUT and item.status == _DONE
    # Most keys are new, as each of a first replay is: so the table is searched once, not twice.
    if new and tables.add_entry(item.key, Entry.of(item, node, generation)):
        _put(ADDED, item, changes)
        return True
    entry = tables.entry(item.key)
    if item.kind == _DROP:
        _lose(tables, node, item, entry, changes)
        return True
    deleted = deletion.version if deletion and deletion.version <= changes.highest else 0
    newer = entry is not None and item.version < entry.version <= changes.highest
    here = entry.generation_on(node) if entry else None  # None: this node is no holder of the entry
    shared = entry is not None and bool(entry.copies)
    if entry and newer and here is not None and here < generation:
        # An older generation of this node's own log does not count as newer: its log may not have it any more.
        newer = shared  # other holders may have it
        left = entry.without(node)
        if left and item.kind == _PUT and item.status == _DONE:
            tables.put_entry(item.key, entry, left)
            entry, here = left, None
    purged = deletion.purged if deletion and deletion.purged <= changes.highest else 0
    if item.kind == Kind.DELETE:
        purges = item.version if item.content_type == PURGE else 0
        if item.version > deleted or purges > purged:
            tables.set_deletion(item.key, Deletion(max(item.version, deleted), changes.now, max(purged, purges)))
        if item.version < purged:
            # A backup from before the purge was put back, and has what may not be brought back.
            tables.add_discard(Discard(node, item.key, purged, purge=True), changes.now)
        if entry and not item.version < entry.version <= changes.highest:
            _drop(tables, node, item, entry, changes)
        return True
    if item.status == Status.STALE or item.version <= deleted or newer:
        # It must be discarded. On a node with the current version the node itself knows that.
        if item.status == Status.DONE and not (newer and here is not None):
            # No client is on its way to a deleted value, so the node hears of a deletion at once.
            discard, delay = Discard(node, item.key, item.version, item.version <= purged), 0
            if item.version > deleted:
                discard, delay = discard._replace(generation=generation if shared else 0), DISCARD_DELAY_MS
            tables.add_discard(discard, changes.now + delay)
        return False
    if entry and entry.version == item.version:
        if here != generation:
            _hold(tables, entry, item, Holder(node, generation))
        return True
    tables.put_entry(item.key, entry, Entry.of(item, node, generation))
    if entry:
        _discard_elsewhere(tables, node, item.key, entry, changes)
    live = entry is not None and entry.live(changes.now)
    if entry and not live:  # the clock was faster than housekeeping
        changes.events.append(of_entry(EXPIRED, changes.now, item.key, entry))
    _put(OVERWRITTEN if live else ADDED, item, changes)
    return True


def _lose(tables: WritableTables, node: str, item: Result, entry: Entry | None, changes: Changes) -> None:
    """Note that a node has dropped the version of the entry."""
    if item.status != _DONE or entry is None or entry.version != item.version or not entry.on(node):
        return
    if left := entry.without(node):
        tables.put_entry(item.key, entry, left)
    else:
        tables.drop_entry(item.key, entry)
        changes.events.append(of_entry(LOST, changes.now, item.key, entry))
        log.warning("value is gone from its node", key=item.key, version=item.version, node=node)


def _hold(tables: WritableTables, entry: Entry, item: Result, holder: Holder) -> None:
    """Note that a node has the version that the entry has already."""
    new = entry.having(holder)
    if holder.node == entry.node:
        new = new._replace(seq=item.seq)
    tables.put_entry(item.key, entry, new)


def _discard_elsewhere(tables: WritableTables, node: str, key: bytes, old: Entry, changes: Changes) -> None:
    """Have the holders of an entry forget its version, now that `node` has a newer one."""
    for holder in old.holders:
        if holder.node != node:
            discard = Discard(holder.node, key, old.version, generation=holder.generation if old.copies else 0)
            tables.add_discard(discard, changes.now + DISCARD_DELAY_MS)


def _drop(tables: WritableTables, node: str, item: Result, entry: Entry, changes: Changes) -> None:
    """Remove the entry of a deleted key; its holders hear of it, but for the one that has the tombstone."""
    tables.drop_entry(item.key, entry)
    purge = item.content_type == PURGE
    for holder in entry.holders:
        if holder.node != node:
            tables.add_discard(Discard(holder.node, item.key, item.version, purge), changes.now)
    changes.events.append(of_entry(DELETED, changes.now, item.key, entry._replace(version=item.version)))


def _merged(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for after, upto in stretches:
        if merged and after <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], upto))
        else:
            merged.append((after, upto))
    return merged
