"""The scrub: reads all that is stored, slowly, and compares it with what was written.

Records by their CRCs, value files by head and SHA-256. What it finds is logged and counted; the damaged
value stays where it is, so that reading it stays an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

from broker import logs
from broker.messages.store import Kind
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.storage.context import StorageContext
from node.storage.disk.throttle import Throttle
from node.storage.index.rows import Entry
from node.storage.log import segments
from node.storage.log.segments import HEAD_BYTES, Opened
from node.storage.value_files import BLOCK_BYTES, ValueFile

log = logs.get(__name__)

_LEAST_RATE = 1 << 20  # bytes per second


class Damage(NamedTuple):
    """Something that is not what was written."""

    key: bytes  # b"" when it can't be told
    version: int
    where: str
    reason: str


class Report(NamedTuple):
    """What a scrub came to."""

    records: int
    files: int
    size: int  # bytes read
    damages: list[Damage]
    complete: bool  # False when the storage was closed meanwhile


def scrub(core: StorageContext, rate: float | None) -> Report:
    """See `Storage.scrub`."""
    if rate is None:
        everything = core.index.totals.size + sum(stat.size for stat in list(core.index.stats.values()))
        rate = max(_LEAST_RATE, everything / core.limits.scrub_secs if core.limits.scrub_secs else float("inf"))
    pace = Throttle(rate, core.stop)
    count = files = size = 0
    damages: list[Damage] = []
    complete = True
    try:
        for length, damage in _log(core):
            count += 1
            size += length
            _note(damages, damage)
            pace.spend(length)
        for length, damage, end in _files(core):
            files += end
            size += length
            _note(damages, damage)
            pace.spend(length)
    except StorageUnavailable:
        complete = False
    log.info("scrubbed", records=count, files=files, bytes=size, damages=len(damages), complete=complete)
    return Report(count, files, size, damages, complete)


def _note(damages: list[Damage], damage: Damage | None) -> None:
    if damage is not None:
        log.error("value is damaged", key=damage.key, version=damage.version, where=damage.where, reason=damage.reason)
        damages.append(damage)


def _log(core: StorageContext) -> Iterator[tuple[int, Damage | None]]:
    """The records of the log, each with what is wrong with it."""
    with core.lock:
        stats = sorted(core.index.stats.items())
    for number, stat in stats:
        try:
            opened = Opened(core.places.log, number)
        except FileNotFoundError:
            continue  # compaction removed it
        except StorageError as error:
            yield 0, Damage(b"", 0, f"segment {number}", str(error))
            continue
        size = stat.size if opened.head.uid == stat.uid else opened.size
        pieces = segments.scan(opened.fd, opened.base, HEAD_BYTES, size)
        for piece in pieces:
            where = f"segment {number} offset {piece.offset}"
            header = piece.header
            if header is None:
                yield piece.length, Damage(b"", 0, where, f"{piece.length} bytes are no record")
            elif piece.value is None and (entry := _entry(core, header.key)) and entry.seq == header.seq:
                yield piece.length, Damage(header.key, header.version, where, "the value is damaged")
            else:
                yield piece.length, None


def _entry(core: StorageContext, key: bytes) -> Entry | None:
    """The entry of a value that can be read."""
    with core.index.snapshot() as view:
        entry = view.entry(key) if key else None
    return entry if entry and entry.kind == Kind.PUT and not entry.expired else None


def _files(core: StorageContext) -> Iterator[tuple[int, Damage | None, bool]]:
    """The value files, a stretch at a time: bytes read, what is wrong, and whether it is the file's last stretch."""
    with core.index.snapshot() as view:
        tokens = view.files()
    for token, key in tokens.items():
        digest = hashlib.sha256()
        version = 0
        try:
            entry = _entry(core, key)
            if entry is None or entry.token != token:
                continue  # superseded meanwhile
            version = entry.version
            file = ValueFile(core.places.values, token)
            if (file.header.key, file.header.version) != (key, version):
                raise Corrupt(f"value file {token} says it is another value")
            for offset in range(0, file.size, 8 * BLOCK_BYTES):
                chunk = file.pread(8 * BLOCK_BYTES, offset)
                digest.update(chunk)
                yield len(chunk), None, False
            if digest.digest() != file.header.digest:
                raise Corrupt(f"value file {token} has another digest")
            yield 0, None, True
        except (FileNotFoundError, Corrupt) as error:
            entry = _entry(core, key)
            if entry and entry.token == token:
                yield 0, Damage(key, version, f"value file {token}", str(error)), True
