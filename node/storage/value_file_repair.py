"""Makes value files and log agree when a data directory is opened.

Files that no record points to are removed. A copy of a directory in use can also have a record without its value file,
for one of two reasons:

- The file came after `values/` was copied. Then the copy has the file of the value before it: that value was not
  superseded yet.
- The file was removed before `values/` was copied: the key got another value, or was deleted, after the log was copied.
  If the copy has the file of that other value, its head names the key. Else the version counts as dropped: no older
  value comes back here. Other nodes may have it still, so it is no deletion.

A held value whose file is missing can't be brought back, and that is all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from broker import logs
from broker.messages.store import Command, Drop, Kind, Result, Status
from node.errors import StorageError
from node.storage import value_files
from node.storage.context import StorageContext
from node.storage.disk.files import guarded, remove
from node.storage.index.rows import Entry, FileOwner, Place
from node.storage.log import segments
from node.storage.log.records import Header
from node.storage.log.segments import SegmentFile
from node.storage.value_files import ValueFile
from node.storage.write_batch import entry_of

log = logs.get(__name__)

Apply = Callable[[Sequence[Command]], list[Result]]


def reconcile(core: StorageContext, apply: Apply, rebuilt: bool) -> None:
    """Remove value files without a record. With a new index (`rebuilt`), repair keys whose file is missing."""
    there = value_files.tokens(core.places.values)
    with core.index.snapshot() as view:
        known = view.files()
    orphans = there - known.keys()
    lost = {token: known[token] for token in known.keys() - there}
    missing = _without_held(core, lost) if lost else set()
    # With an old index, this is no copy. Then a missing file is damage, which every read reports.
    if missing and rebuilt:
        _repair(core, apply, missing, there, orphans)
    for token in orphans:
        log.info("value file without a record removed", token=token)
        with guarded("a value file can't be removed"):
            remove(value_files.path(core.places.values, token))


def _without_held(core: StorageContext, lost: Mapping[str, FileOwner]) -> set[bytes]:
    """The keys whose current value has one of the `lost` files. The held ones are held no longer."""
    keys = set()
    with core.index.update() as changes:
        for token, (key, version) in lost.items():
            row = changes.held(key, Place(version, int(Kind.PUT)))
            if row is not None and row.entry.token == token:
                log.warning("file of a deleted value is missing", key=key, version=version, token=token)
                changes.spoil(key, row)
            else:
                keys.add(key)
    return keys


def _repair(core: StorageContext, apply: Apply, missing: set[bytes], there: set[str], orphans: set[str]) -> None:
    with core.index.snapshot() as view:
        current = {key: entry for key in missing if (entry := view.entry(key))}
    newer = _newer(core, current, orphans)
    older = _older(core, current)
    commands: list[Command] = []
    with core.index.update() as changes:
        for key, entry in current.items():
            if header := newer.get(key):
                token = header.where
                with guarded("a value file can't be moved"):
                    os.rename(value_files.path(core.places.values, token), core.places.staging / token)
                orphans.discard(token)
                changes.expire(key, entry)  # not to be held
                commands.append(header.command(token))
                outcome = "the newer value is here"
            elif (before := older.get(key)) and before.token in there:
                changes.revert(key, before)
                orphans.discard(before.token)
                outcome = "the value before it is here"
            else:
                changes.expire(key, entry)  # not to be held
                commands.append(Drop(0, key, entry.version))
                outcome = "counts as dropped"
            log.warning("value file is missing", key=key, version=entry.version, token=entry.token, outcome=outcome)
    for result in apply(commands):
        if result.status != Status.DONE:
            log.error("key can't be repaired", key=result.key, status=result.status.name, reason=result.reason)


def _newer(core: StorageContext, current: dict[bytes, Entry], orphans: set[str]) -> dict[bytes, Header]:
    """By key, the head of the newest file without a record, if it is newer than the key's entry."""
    newer: dict[bytes, Header] = {}
    for token in orphans:
        try:
            file = ValueFile(core.places.values, token)
        except (OSError, StorageError):
            continue  # cut short: it can only be removed
        header = file.header
        file.close()
        if file.linked:
            continue  # it shares its head with another file, which names another key
        entry = current.get(header.key)
        best = newer.get(header.key)
        if entry and header.version > entry.version and (best is None or header.version > best.version):
            newer[header.key] = header
    return newer


def _older(core: StorageContext, current: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """By key, the entry of the record before the current one."""
    older: dict[bytes, Entry] = {}
    for number, stat in sorted(core.index.stats.items()):
        segment = SegmentFile(core.places.log, number)
        for piece in segments.scan(segment.fd, segment.base, segments.HEAD_BYTES, stat.size):
            header = piece.header
            entry = current.get(header.key) if header else None
            if header is None or entry is None or header.version >= entry.version:
                continue
            best = older.get(header.key)
            if best is None or (header.version, header.kind) > (best.version, best.kind):
                older[header.key] = entry_of(header, number, piece.offset, piece.length)
    return older
