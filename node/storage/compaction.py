"""Compaction: gives back the space of values that are superseded, deleted, or past their lifetime.

A sealed segment that is mostly garbage is written anew and renamed over itself. Order and seqs stay, so a copy of the
directory made at any moment is whole. Dropping a record must never make an older one of its key count again when the
index is built from the log:

- A record that is not the newest of its key can go when it is held no longer, for the newest stays.
- A tombstone, or a value past its lifetime, may go when it is old enough, no earlier segment holds dead values, and no
  record of its key is held. Else the tombstone stays, and the value becomes a tombstone of the same version and seq.
- A held value stays as it is. A mark stays as a tombstone (`node.storage.index.rows.Held`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum, auto
from operator import add
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.messages.store import Kind
from node.errors import Broken, DiskFull, StorageError, StorageUnavailable
from node.storage import held_versions, value_files
from node.storage.context import StorageContext
from node.storage.disk.files import guarded, remove, sync_directory, write_at
from node.storage.disk.throttle import Throttle
from node.storage.index.rows import Entry, Place, Stat, held_prefix, held_row
from node.storage.index.snapshot import Snapshot
from node.storage.index.update import IndexUpdate
from node.storage.log import records, segments
from node.storage.log.records import Header
from node.storage.log.segments import HEAD_BYTES, SegmentFile

log = logs.get(__name__)

_GARBAGE = 0.5  # share of a segment that must be garbage to be worth the writing
_EXPIRE_GROUP = 1000  # values taken out by one transaction
_GROUP = 256  # records looked up in one transaction
_GROUP_BYTES = 256 * 1024
_EPOCH_BYTES = 4096  # the longest record of an epoch
_FLUSH_BYTES = 1 << 20
_ROOM_BYTES = 1 << 20  # beside what the new segment needs


class CompactionReport(NamedTuple):
    """What a pass has done."""

    expired: int = 0  # values whose lifetime had ended
    segments: int = 0  # written anew
    removed: int = 0  # segments that held nothing
    freed: int = 0  # bytes of the log


class _DamagedSegment(StorageError):
    """Raised when a segment has damage, which must stay."""


class _Outdated(StorageError):
    """Raised when a segment must be written anew once more."""


class _Move(NamedTuple):
    """The new place of a record."""

    key: bytes
    entry: Entry
    created: int  # ms since the epoch
    before: Place  # which record it was: a value may have become a tombstone


class _Draft(NamedTuple):
    """A segment written anew, not yet in use."""

    uid: bytes
    first: int  # seq
    size: int
    moves: list[_Move]
    dropped: dict[bytes, int]  # key → seq
    early_ends: int  # of the storage when the writing began


def compact(core: StorageContext, now: int) -> CompactionReport:
    """See `Storage.compact`."""
    core.index.check_readers()
    held_versions.sweep(core, now)
    expired = sweep(core, now)
    done = CompactionReport(expired=expired)
    tried: set[int] = set()
    try:
        while (number := _choose(core, now, tried)) is not None:
            tried.add(number)
            done = CompactionReport(*map(add, done, _compact_segment(core, number, now)))
        with core.lock:
            core.owed = 0
    except StorageUnavailable:
        log.debug("compaction ends early")
    if done != CompactionReport():
        log.info("compacted", **done._asdict())
    return done


def sweep(core: StorageContext, now: int) -> int:
    """Count values whose lifetime has ended as garbage and remove their files; returns how many there were."""
    count = 0
    while not core.stop.is_set():
        with core.lock:
            with core.index.snapshot() as view:
                changes = IndexUpdate(view)
                keys = view.expired_keys(now, _EXPIRE_GROUP)
                for key in keys:
                    entry = changes.entry(key)
                    if entry is not None:
                        changes.expire(key, entry)
            if not keys:
                break
            core.index.commit(changes)
        count += len(keys)
        for token in changes.unlinked:
            with guarded("a value file can't be removed"):
                core.removals.remove(value_files.path(core.places.values, token))
    return count


def _choose(core: StorageContext, now: int, tried: set[int]) -> int | None:
    """The next sealed segment: the one that needs least room, since the disk may be nearly full."""
    with core.lock:
        stats = sorted(core.index.stats.items())
        active = core.active.number
    epoch = _newest_epoch(core)
    worth: list[tuple[int, int]] = []
    blockers: list[tuple[int, int]] = []  # their dead values keep old tombstones in later segments alive
    blocked = 0  # bytes of those tombstones
    held = False  # whether a segment so far has held records, which may need tombstones behind them
    for number, stat in stats:
        if number == active:
            continue
        held |= bool(stat.held)
        old = stat.newest_tomb < now - core.limits.tombstone_ms and not held
        stays = stat.live + stat.held + (_EPOCH_BYTES if stat.first <= epoch <= stat.last else 0)
        body = stat.size - HEAD_BYTES
        if body - stays - (stat.tombs if blockers or not old else 0) >= _GARBAGE * body:
            worth.append((stays + stat.tombs + stat.expired, number))
        elif old and blockers:
            blocked += stat.tombs
        if stat.dead:
            blockers.append((stays + stat.tombs + stat.expired, number))
    if blocked >= _GARBAGE * core.limits.segment:
        worth.extend(blockers)
    with guarded("the filesystem can't be asked for its free space"):
        figures = os.statvfs(core.places.log)
    room = figures.f_bavail * figures.f_frsize - _ROOM_BYTES
    for needed, number in sorted(worth):
        damaged = core.index.stats[number].uid in core.damaged
        if number not in tried and not damaged and (needed <= room or not needed):
            return number
    return None


def _compact_segment(core: StorageContext, number: int, now: int) -> CompactionReport:
    stat = core.index.stats[number]
    clean = not any(other.dead for earlier, other in list(core.index.stats.items()) if earlier < number)
    name = core.places.tmp / f"{number:08d}.seg"
    try:
        if stat.live or stat.tombs or stat.expired or stat.held or stat.first <= _newest_epoch(core) <= stat.last:
            segment = SegmentFile(core.places.log, number)
            draft = _write(core, segment, name, now - core.limits.tombstone_ms if clean else 0)
        else:
            draft = _Draft(stat.uid, stat.first, HEAD_BYTES, moves=[], dropped={}, early_ends=core.early_ends)
        removed = draft.size == HEAD_BYTES
        _exchange(core, number, draft, removed)
        if freed := stat.size - (0 if removed else draft.size):
            return CompactionReport(segments=int(not removed), removed=int(removed), freed=freed)
    except _DamagedSegment as error:
        log.error("segment left alone", segment=number, error=error)
        core.damaged.add(stat.uid)
    except _Outdated as error:
        log.info("segment is compacted later", segment=number, reason=error)
    except DiskFull as error:
        log.warning("no room to compact a segment", segment=number, error=error)
    finally:
        with suppress(OSError):  # the next start empties `tmp`
            remove(name)
    return CompactionReport()


def _newest_epoch(core: StorageContext) -> int:
    return core.index.epochs[-1].seq if core.index.epochs else 0


# Writing anew.


def _write(core: StorageContext, segment: SegmentFile, name: Path, drop_before: int) -> _Draft:
    """Write the records of a segment that stay into the file `name`, durably.

    Tombstones made before `drop_before` (ms since the epoch) do not stay.
    """
    head, packed = segments.new_head(segment.head.number, segment.head.first)
    base = records.base(head.uid)
    draft = _Draft(head.uid, head.first, 0, moves=[], dropped={}, early_ends=core.early_ends)
    with guarded("a segment can't be written anew"):
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            buffer, written, size = [packed], 0, len(packed)
            for header, value, entry in _survivors(core, segment, drop_before, draft.dropped):
                record = records.encode(header, value, base, size)
                if entry is not None:
                    before = Place(entry.version, entry.kind)
                    if header.kind == Kind.DELETE:
                        entry = entry._replace(kind=int(Kind.DELETE), expires=0, size=0, expired=False, token="")
                    moved = entry._replace(offset=size, length=len(record))
                    draft.moves.append(_Move(header.key, moved, header.created, before))
                buffer.append(record)
                size += len(record)
                if size - written >= _FLUSH_BYTES:
                    write_at(fd, b"".join(buffer), written)
                    buffer, written = [], size
            write_at(fd, b"".join(buffer), written)
            os.fsync(fd)
        finally:
            os.close(fd)
    return draft._replace(size=size)


def _survivors(
    core: StorageContext, segment: SegmentFile, drop_before: int, dropped: dict[bytes, int]
) -> Iterator[tuple[Header, bytes, Entry | None]]:
    """The records that stay (header, value, entry; None for an epoch); adds tombstones that go to `dropped`."""
    pace = Throttle(core.limits.compact_rate, core.stop)
    newest_epoch = _newest_epoch(core)
    pieces = segments.scan(segment.fd, segment.base, HEAD_BYTES, segment.size)
    for group in segments.groups(pieces, _GROUP, _GROUP_BYTES):
        with core.index.snapshot() as view:
            found = [_find(view, piece.header) for piece in group]
        for piece, (entry, role) in zip(group, found, strict=True):
            pace.spend(piece.length)
            header = piece.header
            if header is None:
                raise _DamagedSegment(f"bytes at {piece.offset} are no record")
            if header.kind == Kind.EPOCH:
                if header.seq >= newest_epoch:
                    yield header, piece.value or b"", None
            elif role is _Role.VALUE:
                if piece.value is None:
                    raise _DamagedSegment(f"value at {piece.offset} is damaged")
                yield header, piece.value, entry
            elif role is not _Role.NONE:
                tomb = header if header.kind == Kind.DELETE else header.tombstone_left()
                if role is _Role.LAST and tomb.created < drop_before:
                    dropped[header.key] = header.seq
                else:
                    yield tomb, b"", entry


class _Role(Enum):
    """What a record is to its key."""

    NONE = auto()  # neither the newest nor held
    VALUE = auto()  # the newest, or held: it stays as it is
    TOMBSTONE = auto()  # it stays as a tombstone
    LAST = auto()  # a tombstone, too, and nothing of its key is held


def _find(view: Snapshot, header: Header | None) -> tuple[Entry | None, _Role]:
    """The entry of a record that stays, and what the record is."""
    if header is None or not header.key:
        return None, _Role.NONE
    entry = current = view.entry(header.key)
    if current is None or current.seq != header.seq:
        row = view.held(held_row(held_prefix(header.key), Place(header.version, header.kind)))
        entry = row.entry if row and row.entry.seq == header.seq else None
    if entry is None:
        return None, _Role.NONE
    if entry.kind == Kind.PUT and not entry.expired:
        return entry, _Role.VALUE
    if entry is current:
        held = any(True for _ in view.held_of(header.key))
        return entry, _Role.TOMBSTONE if held else _Role.LAST
    # Two tombstones of one version would be taken for one.
    deleted = Place(entry.version, int(Kind.DELETE))
    name = held_row(held_prefix(header.key), deleted)
    twice = entry.kind == Kind.PUT and ((current and current.place == deleted) or view.held(name))
    return entry, _Role.VALUE if twice else _Role.TOMBSTONE


def _exchange(core: StorageContext, number: int, draft: _Draft, removed: bool) -> None:
    """Put the new segment in the place of the old one. Meanwhile writers wait, and readers look again.

    A snapshot on its way comes first: it may need a record that was current at its moment.
    """
    with core.links, core.lock:
        if draft.dropped and core.early_ends != draft.early_ends:
            raise _Outdated("records are held no longer, and may need the tombstones that were to go")
        with core.index.update() as changes:
            last = core.index.stats[number].last
            changes.stats[number] = None if removed else Stat(draft.uid, draft.first, last, draft.size)
            for key, entry, created, before in draft.moves:
                current = changes.view.entry(key)
                if current is not None and current.seq == entry.seq:
                    changes.move(key, entry, created)
                elif (row := changes.held(key, before)) and row.entry.seq == entry.seq:
                    if entry.kind == Kind.PUT:  # perhaps its lifetime has ended meanwhile
                        entry = row.entry._replace(offset=entry.offset, length=entry.length)
                    changes.move_held(key, row, entry)
                elif entry.kind == Kind.PUT:
                    changes.stat(number).dead += entry.length
            for key, seq in draft.dropped.items():
                current = changes.view.entry(key)
                if current is not None and current.seq == seq:
                    changes.entries[key] = None
        try:
            name = segments.path(core.places.log, number)
            if removed:
                name.unlink()
            else:
                (core.places.tmp / name.name).rename(name)
                core.digests.unknown.append(f"{core.places.log.name}/{name.name}")
            sync_directory(core.places.log)
        except OSError as error:
            core.broken = True
            raise Broken(f"segment {number} can't be exchanged: {error}") from error
