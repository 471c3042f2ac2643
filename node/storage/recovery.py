"""What happens when a data directory is opened: the log is the truth, and everything else is made to follow it.

An index that may be trusted (`node.storage.index.state`) only takes in what was logged after its last commit, and the
segments that compaction had just exchanged. Any other index is removed unopened and built from the log.
"""

from __future__ import annotations

import shutil
import time

import msgpack

from broker import logs
from broker.messages.store import Kind
from node.errors import StorageError, TooSmall
from node.storage import value_files
from node.storage.disk.files import guarded, sync_directory
from node.storage.disk.layout import Layout
from node.storage.index import state
from node.storage.index.index import Index
from node.storage.index.rows import Entry, Stat
from node.storage.index.update import IndexUpdate
from node.storage.log import segments
from node.storage.log.records import Header
from node.storage.log.segments import Active, Opened, Piece

log = logs.get(__name__)

_GROUP = 20_000  # records or entries taken in by one transaction


class _Ahead(StorageError):
    """Raised when the index knows of more than the log holds."""


def make_ready(places: Layout) -> None:
    """Make what is missing of the directories, and empty the scratch one."""
    with guarded("the data directory can't be made ready"):
        for place in (places.values, places.staging):
            place.mkdir(exist_ok=True)
        value_files.make_folders(places.values)
        shutil.rmtree(places.tmp, ignore_errors=True)
        places.tmp.mkdir(exist_ok=True)
        sync_directory(places.values)
        sync_directory(places.root)


def recover(places: Layout) -> tuple[Index, Active, bool]:
    """The index, the segment to append to, and whether the index had to be built from the log."""
    objection = state.objection(places.index)
    if not objection:
        index = None
        try:
            index = Index(places.index)
            state.note(places.index, clean=False)
            active = _follow(index, places)
            return index, active, False
        except TooSmall:  # a new one would need as much
            if index is not None:
                index.close()
            raise
        except StorageError as error:
            objection = str(error)
            if index is not None:
                index.close()
    log.info("index is built from the log", reason=objection)
    with guarded("the index can't be built"):
        # Removed first, since the disk may be full. Readers go on with the file they have open.
        shutil.rmtree(places.index, ignore_errors=True)
        building = places.tmp / "index"
        building.mkdir()
        index = Index(building)
        try:
            active = _follow(index, places)
            building.rename(places.index)
        except BaseException:
            index.close()
            raise
        index.moved(places.index)
    state.note(places.index, clean=False)
    if index.totals.keys:
        time.sleep(2 * state.NOTICED_SECS)  # nothing new is acknowledged before readers look at this index
    return index, active, True


def _follow(index: Index, places: Layout) -> Active:
    """Take in what the log has and the index has not; returns the segment to append to, its torn tail cut."""
    numbers = segments.numbers(places.log)
    for number in sorted(set(index.stats) - set(numbers)):
        log.error("segment is gone", segment=number)
        _forget(index, number)
    active = None
    for number in numbers:
        last = number == numbers[-1]
        try:
            opened = Opened(places.log, number)
        except StorageError as error:
            if last and segments.path(places.log, number).stat().st_size < segments.HEAD_BYTES:
                segments.path(places.log, number).unlink()  # torn while it was begun
            else:
                log.error("segment can't be read; its records are lost", segment=number, error=error)
            continue
        stat = index.stats.get(number)
        if stat is not None and stat.uid != opened.head.uid:
            _forget(index, number)
            stat = None
        size = opened.size
        start = stat.size if stat else segments.HEAD_BYTES
        if size < start:
            raise _Ahead(f"segment {number} is shorter than the index says")
        if last:
            good = _good_end(opened, start, size)
            if good < size:
                log.warning("torn tail of the log cut off", segment=number, bytes=size - good)
            active = Active.resume(places.log, opened.head, good)
            size = good
        if stat is None or size > start:
            _take_in(index, opened, start, size)
    if active is None:
        number = max([0, *numbers]) + 1
        active = Active.create(places.log, number, index.totals.seq + 1)
        with index.snapshot() as view:
            changes = IndexUpdate(index, view)
            changes.set_stat(number, Stat(active.uid, active.first, index.totals.seq, active.size))
        index.commit(changes.commit())
    return active


def _good_end(opened: Opened, start: int, size: int) -> int:
    end = start
    for piece in segments.scan(opened.fd, opened.base, start, size):
        if piece.header is not None and piece.value is not None:
            end = piece.offset + piece.length
    return end


def _take_in(index: Index, opened: Opened, start: int, end: int) -> None:
    """Add the records between two offsets of a segment to the index."""
    number, uid, first = opened.head
    for group in segments.grouped(segments.scan(opened.fd, opened.base, start, end), _GROUP):
        with index.snapshot() as view:
            changes = IndexUpdate(index, view)
            if number not in index.stats:
                changes.set_stat(number, Stat(uid, first, first - 1, segments.HEAD_BYTES))
                changes.seq = max(changes.seq, first - 1)
            for piece in group:
                _record(changes, number, piece)
        index.commit(changes.commit())


def _record(changes: IndexUpdate, number: int, piece: Piece) -> None:
    header = piece.header
    if header is None:
        log.error("bytes of the log are no record", segment=number, offset=piece.offset, bytes=piece.length)
        changes.extend(number, piece.offset + piece.length, 0)
        return
    if piece.value is None:
        # It stays the newest of its key: reading it is an error, an older one would be wrong.
        log.error("value in the log is damaged", key=header.key, version=header.version, segment=number)
    changes.extend(number, piece.offset + piece.length, header.seq)
    if header.kind == Kind.EPOCH:
        if piece.value is not None:
            changes.epochs = [(seq, epoch) for seq, epoch in msgpack.unpackb(piece.value)]
    else:
        changes.add(header.key, entry_of(number, piece, header), header.created)


def entry_of(number: int, piece: Piece, header: Header) -> Entry:
    """The entry that a record would have."""
    return Entry(
        number,
        piece.offset,
        piece.length,
        header.seq,
        header.version,
        header.expires,
        header.size,
        header.kind,
        False,
        header.where,
    )


def _forget(index: Index, number: int) -> None:
    """Take all that the index says of a segment out of it; its records are read again, or lost."""
    after: bytes | None = b""
    while after is not None:
        with index.snapshot() as view:
            changes = IndexUpdate(index, view)
            entries = view.entries(after, _GROUP)
            for key, entry in entries:
                if entry.segment == number:
                    changes.lift(key, entry)
            after = entries[-1][0] if entries else None
            if after is None:
                changes.set_stat(number, None)
        index.commit(changes.commit())
