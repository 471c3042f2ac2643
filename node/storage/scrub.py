"""The scrub: reads all that is stored, slowly, and compares it with what was written.

It checks the CRCs of records, and head and SHA-256 of value files. Damage is logged and counted. A damaged value stays
where it is, so that reading it stays an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from broker import logs
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.metrics import figures
from node.storage.context import StorageContext
from node.storage.disk.throttle import Throttle
from node.storage.index.rows import Entry
from node.storage.log import segments
from node.storage.log.segments import HEAD_BYTES, SegmentFile
from node.storage.value_files import BLOCK_BYTES, ValueFile

log = logs.get(__name__)

_LEAST_RATE = 1 << 20  # bytes per second


class Damage(NamedTuple):
    """A value or record that is not what was written."""

    key: bytes  # b"" when it can't be told
    version: int  # 0 when it can't be told
    where: str
    reason: str


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
                pace.spend(length)
    except StorageUnavailable:
        complete = False
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
            continue  # compaction removed it
        except StorageError as error:
            yield _Step(0, Damage(b"", 0, f"segment {number}", str(error)))
            continue
        size = stat.size if segment.head.uid == stat.uid else segment.size
        for piece in segments.scan(segment.fd, segment.base, HEAD_BYTES, size):
            where = f"segment {number} offset {piece.offset}"
            header = piece.header
            damage = None
            if header is None:
                damage = Damage(b"", 0, where, f"{piece.length} bytes are no record")
            elif (
                piece.value is None and (entry := _entry(core, header.key, header.version)) and entry.seq == header.seq
            ):
                damage = Damage(header.key, header.version, where, "the value is damaged")
            yield _Step(piece.length, damage)


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
