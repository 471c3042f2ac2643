"""Opens a data directory: the log is the truth, and everything else follows it.

An index that may be trusted (`node.storage.index.state`) takes in only the records that came after its last commit.
Any other index is removed unopened and built from the log. So is one that does not know a segment as it is: a crash
came while compaction exchanged it. Records must be taken in in the order in which they were written.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgpack

from broker import logs, process
from broker.messages.store import Epoch, Kind
from node.errors import StorageError, TooSmall
from node.storage import value_files
from node.storage.disk.files import guarded, sync_directory
from node.storage.disk.layout import Layout
from node.storage.index import state
from node.storage.index.index import Index
from node.storage.index.rows import Stat
from node.storage.index.update import IndexUpdate
from node.storage.log import segments
from node.storage.log.segments import ActiveSegment, Piece, SegmentFile
from node.storage.write_batch import entry_of

log = logs.get(__name__)

READERS_SECS = 5.0  # a reader that takes longer than this to open another index is stopped
_GROUP = 20_000  # records or entries taken in by one transaction


def make_ready(places: Layout) -> None:
    """Make the directories that are missing, and empty `tmp`."""
    with guarded("the data directory can't be made ready"):
        for place in (places.values, places.staging):
            place.mkdir(exist_ok=True)
        value_files.make_folders(places.values)
        shutil.rmtree(places.tmp, ignore_errors=True)
        places.tmp.mkdir(exist_ok=True)
        sync_directory(places.values)
        sync_directory(places.root)


@dataclass(frozen=True)
class Recovery:
    """What an opened data directory goes on with."""

    index: Index
    active: ActiveSegment  # the segment to append to
    rebuilt: bool  # the index was built from the log


def recover(places: Layout, undelete_ms: int = 0) -> Recovery:
    """Make the index agree with the log, and hold superseded records for `undelete_ms`.

    Raises `StorageError`, `TooSmall`.
    """
    objection = state.objection(places.index, undelete_ms)
    if not objection:
        index = None
        try:
            index = Index(places.index, undelete_ms=undelete_ms)
            state.note(places.index, clean=False, undelete_ms=undelete_ms)
            return Recovery(index, _follow(index, places), rebuilt=False)
        except StorageError as error:
            if index is not None:
                index.close()
            if isinstance(error, TooSmall):
                raise  # a new index would need as much
            objection = str(error)
    log.info("index is built from the log", reason=objection)
    with guarded("the index can't be built"), _replaced_for_readers(places.index):
        # Removed first, since the disk may be full. Moved before: a reader that opens it just now makes its lock file
        # again, where the new one is to be. Readers go on with the file that they have open.
        old = places.tmp / "old index"
        if places.index.exists():
            places.index.rename(old)
        shutil.rmtree(old, ignore_errors=True)
        building = places.tmp / "index"
        building.mkdir()
        index = Index(building, undelete_ms=undelete_ms)
        try:
            active = _follow(index, places)
            building.rename(places.index)
        except BaseException:
            index.close()
            raise
        index.set_directory(places.index)
        state.note(places.index, clean=False, undelete_ms=undelete_ms)
    return Recovery(index, active, rebuilt=True)


@contextmanager
def _replaced_for_readers(directory: Path) -> Iterator[None]:
    """Wait until no reader uses the old index, after the block has put another one in its place.

    Nothing new may be acknowledged before that. A reader has a shared lock on the directory of its index.
    """
    before = os.open(directory, os.O_RDONLY | os.O_DIRECTORY) if directory.is_dir() else -1
    try:
        yield
        if before >= 0 and not process.wait_until_free(before, READERS_SECS):
            log.warning("a reader does not let go of the old index", secs=READERS_SECS)
    finally:
        if before >= 0:
            os.close(before)


def _follow(index: Index, places: Layout) -> ActiveSegment:
    """Add what only the log has to the index; returns the segment to append to, its torn tail cut off."""
    numbers = segments.numbers(places.log)
    for number in sorted(set(index.stats) - set(numbers)):
        # Which records it had superseded is known only when the others are read in their order.
        log.error("segment is gone", segment=number)
        raise StorageError(f"segment {number} is gone")
    active = None
    for number in numbers:
        last = number == numbers[-1]
        try:
            segment = SegmentFile(places.log, number)
        except StorageError as error:
            if last and segments.path(places.log, number).stat().st_size < segments.HEAD_BYTES:
                segments.path(places.log, number).unlink()  # torn while it was begun
            else:
                log.error("segment can't be read; its records are lost", segment=number, error=error)
            continue
        stat = index.stats.get(number)
        if stat is not None and stat.uid != segment.head.uid:
            raise StorageError(f"compaction was exchanging segment {number}")
        size = segment.size
        start = stat.size if stat else segments.HEAD_BYTES
        if size < start:
            raise StorageError(f"segment {number} is shorter than the index says")
        if last:
            good = _good_end(segment, start, size)
            if good < size:
                log.warning("torn tail of the log cut off", segment=number, bytes=size - good)
            active = ActiveSegment.resume(places.log, segment.head, good)
            size = good
        if stat is None or size > start:
            _take_in(index, segment, start, size)
    if active is None:
        number = max([0, *numbers]) + 1
        active = ActiveSegment.create(places.log, number, index.totals.seq + 1)
        with index.update() as changes:
            changes.stats[number] = Stat(active.uid, active.first, index.totals.seq, active.size)
    return active


def _good_end(segment: SegmentFile, start: int, size: int) -> int:
    pieces = segments.scan(segment.fd, segment.base, start, size)
    return max((piece.offset + piece.length for piece in pieces if piece.value is not None), default=start)


def _take_in(index: Index, segment: SegmentFile, start: int, end: int) -> None:
    """Add the records between two offsets of a segment to the index."""
    number, uid, first = segment.head
    for group in segments.groups(segments.scan(segment.fd, segment.base, start, end), _GROUP):
        with index.update() as changes:
            if number not in index.stats:
                changes.stats[number] = Stat(uid, first, first - 1, segments.HEAD_BYTES)
                changes.seq = max(changes.seq, first - 1)
            for piece in group:
                _record(changes, number, piece)


def _record(changes: IndexUpdate, number: int, piece: Piece) -> None:
    header = piece.header
    if header is None:
        log.error("bytes of the log are no record", segment=number, offset=piece.offset, bytes=piece.length)
        changes.extend(number, piece.offset + piece.length, 0)
        return
    if piece.value is None:
        # It stays the newest of its key. Reading it is an error; an older one would be wrong.
        log.error("value in the log is damaged", key=header.key, version=header.version, segment=number)
    changes.extend(number, piece.offset + piece.length, header.seq)
    if header.kind == Kind.EPOCH:
        if piece.value is not None:
            changes.epochs = [Epoch(seq, epoch) for seq, epoch in msgpack.unpackb(piece.value)]
    else:
        changes.add(header.key, entry_of(header, number, piece.offset, piece.length), header.created)
