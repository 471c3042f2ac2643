"""The scrub: reads all that is stored, slowly, and compares it with what was written.

It checks the CRCs of records, and head and SHA-256 of value files. Damage is logged and noted. A damaged value stays
where it is, so that reading it stays an error, until a good copy takes its place (`node.healer`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from broker import logs
from broker.messages.store import Kind
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.metrics import figures
from node.storage.context import StorageContext
from node.storage.disk.damages import Damage
from node.storage.disk.throttle import Throttle
from node.storage.index.rows import Entry
from node.storage.log import segments
from node.storage.log.segments import HEAD_BYTES, SegmentFile
from node.storage.value_files import BLOCK_BYTES, ValueFile

log = logs.get(__name__)

_LEAST_RATE = 1 << 20  # bytes per second
_ROWS = 10_000  # of the index, looked at together


class ScrubReport(NamedTuple):
    """What a scrub has read and found."""

    records: int
    files: int
    size: int  # bytes read
    damages: list[Damage]
    complete: bool  # False when the storage was closed meanwhile


class _Step(NamedTuple):
    """A record, or a stretch of a value file, that was read."""

    length: int  # bytes
    damage: Damage | None = None
    ends: bool = True  # the record or the file ends here


def scrub(core: StorageContext, rate: float | None) -> ScrubReport:
    """See `Storage.scrub`."""
    if rate is None:
        everything = core.index.totals.size + sum(stat.size for stat in list(core.index.stats.values()))
        rate = max(_LEAST_RATE, everything / core.limits.scrub_secs if core.limits.scrub_secs else float("inf"))
    pace = Throttle(rate, core.stop)
    known = core.damages.all()
    size = 0
    counts: list[int] = []  # of records and of files
    damages: list[Damage] = []
    complete = True
    try:
        for steps in (_log(core), _files(core)):
            counts.append(0)
            for length, damage, ends in steps:
                counts[-1] += ends
                size += length
                figures.SCRUBBED_BYTES.add(number=length)
                if damage is not None:
                    figures.DAMAGES.add()
                    log.error("value is damaged", **damage._asdict())
                    damages.append(damage)
                    if damage.key:
                        core.damages.add(damage)
                pace.spend(length)
    except StorageUnavailable:
        complete = False
    if complete:
        found = {(damage.key, damage.version) for damage in damages}
        for key, version, _, _ in known:
            if (key, version) not in found:
                core.damages.drop(key, version)
    records, files = [*counts, 0][:2]
    log.info("scrubbed", records=records, files=files, bytes=size, damages=len(damages), complete=complete)
    return ScrubReport(records, files, size, damages=damages, complete=complete)


def _log(core: StorageContext) -> Iterator[_Step]:
    with core.lock:
        stats = sorted(core.index.stats.items())
    for number, stat in stats:
        try:
            segment = SegmentFile(core.places.log, number)
        except FileNotFoundError:
            if number in core.index.stats:  # else compaction removed it
                yield from _unreadable(core, number, _Span(0, stat.size), f"segment {number} is missing")
            continue
        except StorageError as error:
            yield from _unreadable(core, number, _Span(0, stat.size), str(error))
            continue
        size = stat.size if segment.head.uid == stat.uid else segment.size
        for piece in segments.scan(segment.fd, segment.base, HEAD_BYTES, size):
            header = piece.header
            damage = None
            if header is None:
                span = _Span(piece.offset, piece.offset + piece.length)
                yield from _unreadable(core, number, span, f"{piece.length} bytes are no record")
            elif (
                piece.value is None and (entry := _entry(core, header.key, header.version)) and entry.seq == header.seq
            ):
                where = f"segment {number} offset {piece.offset}"
                damage = Damage(header.key, header.version, where, "the value is damaged")
            yield _Step(piece.length, damage)


class _Span(NamedTuple):
    """A stretch of a segment."""

    start: int
    stop: int


def _unreadable(core: StorageContext, number: int, span: _Span, reason: str) -> Iterator[_Step]:
    """The values whose records are in a stretch of a segment that can't be read; the stretch itself if there are none.

    Only the index knows which ones these are. It is looked through for that, which takes a second for a million keys.
    """
    where = f"segment {number} offset {span.start}"
    none = True
    after = b""
    while not core.stop.is_set():
        with core.index.snapshot() as view:
            rows = view.entries(after, _ROWS)
        for key, entry in rows:
            if entry.segment == number and span.start <= entry.offset < span.stop and entry.kind == Kind.PUT:
                none = False
                yield _Step(0, Damage(key, entry.version, where, reason), ends=False)
        if len(rows) < _ROWS:
            break
        after = rows[-1][0]
    if none:
        yield _Step(0, Damage(b"", 0, where, reason), ends=False)


def _entry(core: StorageContext, key: bytes, version: int) -> Entry | None:
    """The entry of a value that can be read or brought back; None when there is none."""
    with core.index.snapshot() as view:
        return view.find(key, version) if key else None


def _files(core: StorageContext) -> Iterator[_Step]:
    with core.index.snapshot() as view:
        tokens = view.files()
    for token, (key, version) in tokens.items():
        digest = hashlib.sha256()
        try:
            entry = _entry(core, key, version)
            if entry is None or entry.token != token:
                continue  # gone meanwhile
            file = ValueFile(core.places.values, token)
            # Whose value a link is stands in its record, which the scrub of the log reads.
            if not file.linked and (file.header.key, file.header.version) != (key, version):
                raise Corrupt(f"value file {token} says it is another value")
            for offset in range(0, file.size, 8 * BLOCK_BYTES):
                chunk = file.pread(8 * BLOCK_BYTES, offset)
                digest.update(chunk)
                yield _Step(len(chunk), ends=False)
            if digest.digest() != file.header.digest:
                raise Corrupt(f"value file {token} has another digest")
            yield _Step(0)
        except (FileNotFoundError, Corrupt) as error:
            entry = _entry(core, key, version)
            if entry and entry.token == token:
                yield _Step(0, Damage(key, version, f"value file {token}", str(error)))
