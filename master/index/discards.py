"""Decides what becomes of a discard of a version that a newer one has superseded, where values have several holders.

A discard is a tombstone in a node's log, and a tombstone counts everywhere. So it must not be sent while the newer
version may turn out to be lost: its holders may all come back with older disks, and the version that was to be
forgotten is then the newest one there is. Such a discard waits until a holder of the newer version was heard, with all
of its log applied.
"""

from __future__ import annotations

from broker import logs
from master.index.index import Deletion, Discard, Entry, Holder, WritableTables
from master.index.projection import DISCARD_DELAY_MS, cursor_of

log = logs.get(__name__)

_HEARD_MS = 60_000  # a holder that was heard within this time has what it says


def decide(tables: WritableTables, due: list[tuple[bytes, Discard]], now: int) -> list[tuple[bytes, Discard]]:
    """Those of the due discards that are to be sent. The others are dropped, or put off; `now` is in ms."""
    sure: dict[Holder, bool] = {}
    send: list[tuple[bytes, Discard]] = []
    for row, discard in due:
        if discard.drop:
            entry = tables.entry(discard.key)
            if entry and entry.version == discard.version and entry.on(discard.node):
                tables.drop_discard(row)  # its copy counts again
            else:
                send.append((row, discard))
            continue
        if not discard.generation or _is_deleted(discard, tables.deletion(discard.key)):
            send.append((row, discard))
            continue
        entry = tables.entry(discard.key)
        if entry is None:
            log.warning("older version stays on its node", key=discard.key, version=discard.version, node=discard.node)
            tables.drop_discard(row)
        elif entry.version <= discard.version:
            _adopt(tables, discard, entry)
            tables.drop_discard(row)
        elif entry.on(discard.node):
            tables.drop_discard(row)  # the node itself knows that it has a newer one
        elif any(_is_sure(tables, holder, sure, now) for holder in entry.holders):
            send.append((row, discard))
        else:
            tables.drop_discard(row)
            tables.add_discard(discard, now + DISCARD_DELAY_MS)
    return send


def _is_deleted(discard: Discard, deletion: Deletion | None) -> bool:
    return deletion is not None and deletion.version >= discard.version


def _adopt(tables: WritableTables, discard: Discard, entry: Entry) -> None:
    """Note a node as holder whose version was to be forgotten, and has become the newest again."""
    same_log = cursor_of(tables, discard.node).generation == discard.generation
    if entry.version == discard.version and same_log and not entry.on(discard.node):
        tables.put_entry(discard.key, entry, entry.having(Holder(discard.node, discard.generation)))


def _is_sure(tables: WritableTables, holder: Holder, known: dict[Holder, bool], now: int) -> bool:
    """Whether a holder was heard lately, and its log is applied as far as it is known to reach."""
    if holder not in known:
        node, cursor = tables.node(holder.node), cursor_of(tables, holder.node)
        heard = node is not None and now - node.received < _HEARD_MS
        known[holder] = heard and not cursor.prune and cursor.generation == holder.generation
    return known[holder]
