"""Replay of the log: the records that are current on this node, in the order in which they were written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from broker.messages.store import Delete, Drop, Kind, Result, Status
from node.storage.context import StorageContext
from node.storage.index.rows import Entry, Stat
from node.storage.index.snapshot import Snapshot
from node.storage.log import segments
from node.storage.log.segments import Piece, SegmentFile

_GROUP = 500  # records looked up in one transaction
_ITEMS = 1000  # of one part
_BYTES = 1 << 20


class ReplayPart(NamedTuple):
    """All current records with seqs in (after, upto]."""

    after: int
    upto: int
    results: list[Result]


def replay(core: StorageContext, after: int) -> Iterator[ReplayPart]:
    """See `Storage.replay`."""
    with core.lock:
        end = core.index.totals.seq
        stats = sorted(core.index.stats.items())
    if after >= end:
        return
    lower = upto = after
    items: list[Result] = []
    size = 0
    for group in _groups(core, [(number, stat) for number, stat in stats if stat.last > after], after, end):
        with core.index.snapshot() as view:
            current = [_current(view, piece, core.limits.cached) for piece in group]
        for piece, result in zip(group, current, strict=True):
            assert piece.header is not None
            upto = max(upto, piece.header.seq)
            if result is not None:
                items.append(result)
                size += len(result.key) + len(result.content_type) + len(result.value or b"") + 100
            if len(items) == _ITEMS or size >= _BYTES:
                yield ReplayPart(lower, upto, items)
                lower, items, size = upto, [], 0
    yield ReplayPart(lower, end, items)


def _groups(core: StorageContext, stats: list[tuple[int, Stat]], after: int, end: int) -> Iterator[list[Piece]]:
    for number, stat in stats:
        try:
            segment = SegmentFile(core.places.log, number)
        except FileNotFoundError:
            continue  # compaction removed it: it had no current record
        # Compaction may have exchanged the file. The new one has all current records, with the same seqs.
        size = stat.size if segment.head.uid == stat.uid else segment.size
        pieces = (
            piece
            for piece in segments.scan(segment.fd, segment.base, segments.HEAD_BYTES, size)
            if piece.header is not None and after < piece.header.seq <= end
        )
        yield from segments.groups(pieces, _GROUP)


def _current(view: Snapshot, piece: Piece, cached: int) -> Result | None:
    """The result for a record; None when it is not the newest of its key."""
    header = piece.header
    assert header is not None
    raw = None if header.kind == Kind.EPOCH else view.raw(header.key)
    if raw is None:
        return None
    seq, now_kind = Entry.seq_and_kind(raw)
    _, key, version, own_seq, created, expires, content_type, digest, size, where = header
    if seq != own_seq:
        return None
    if now_kind == Kind.DELETE:
        # Perhaps the record was a value when the segment was opened, and compaction has made a tombstone of it.
        entry = Entry.unpack(raw)
        command = Drop(0, key, version) if entry.drops else Delete(0, key, version, entry.purges)
        return command.result(Status.DONE, seq=seq)
    value = piece.value if size <= cached and not where else None
    return Result(0, Status.DONE, "", seq, Kind.PUT, key, version, created, expires, content_type, digest, size, value)
