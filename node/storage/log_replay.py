"""The log told again: what is current on this node, in the order in which it was written."""

from __future__ import annotations

from collections.abc import Iterator

from broker.messages.store import Kind, Result, Status
from node.storage.context import StorageContext
from node.storage.index.index import Snapshot
from node.storage.index.rows import Entry, Stat
from node.storage.log import segments
from node.storage.log.segments import Opened, Piece

_GROUP = 500  # records looked up in one transaction
_ITEMS = 1000  # of one range
_BYTES = 1 << 20


def replay(core: StorageContext, after: int) -> Iterator[tuple[int, int, list[Result]]]:
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
                yield lower, upto, items
                lower, items, size = upto, [], 0
    yield lower, end, items


def _groups(core: StorageContext, stats: list[tuple[int, Stat]], after: int, end: int) -> Iterator[list[Piece]]:
    for number, stat in stats:
        try:
            opened = Opened(core.places.log, number)
        except FileNotFoundError:
            continue  # compaction removed it: nothing in it counted any more
        # Compaction may have exchanged the file; it holds what is alive, with the same seqs.
        size = stat.size if opened.head.uid == stat.uid else opened.size
        pieces = (
            piece
            for piece in segments.scan(opened.fd, opened.base, segments.HEAD_BYTES, size)
            if piece.header is not None and after < piece.header.seq <= end
        )
        yield from segments.grouped(pieces, _GROUP)


def _current(view: Snapshot, piece: Piece, cached: int) -> Result | None:
    """The result that tells of a record, if it is still the newest of its key."""
    header = piece.header
    assert header is not None
    raw = None if header.kind == Kind.EPOCH else view.raw(header.key)
    if raw is None:
        return None
    entry = Entry.unpack(raw)
    if entry.seq != header.seq:
        return None
    if entry.kind == Kind.DELETE:
        # Perhaps it was a value when the segment was opened, and compaction has made a tombstone of it.
        return Result(0, Status.DONE, "", header.seq, Kind.DELETE, header.key, header.version, 0, 0, "", b"", 0, None)
    value = piece.value if header.size <= cached and not header.where else None
    return Result(
        0,
        Status.DONE,
        "",
        header.seq,
        Kind.PUT,
        header.key,
        header.version,
        header.created,
        header.expires,
        header.content_type,
        header.digest,
        header.size,
        value,
    )
