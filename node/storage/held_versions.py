"""Held versions: deleted and overwritten values that can be brought back for `[volume] undelete_days`.

`node.storage.index.update` begins to hold them. Here they end: when their time is over, or early on a full disk.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker import logs
from node.errors import DiskFull
from node.storage import value_files
from node.storage.context import StorageContext
from node.storage.disk.files import guarded
from node.storage.index.rows import Entry, Held, read_held_row
from node.storage.index.update import IndexUpdate

log = logs.get(__name__)

_GROUPS = 5  # of records that end together: let go by one transaction
_FOR_EVER = (1 << 63) - 1  # ms


def sweep(core: StorageContext, now: int) -> None:
    """End what is held for long enough at `now` (ms since the epoch), in small steps."""
    for marks in (False, True):
        while not core.stop.is_set():
            with core.lock:
                with core.index.snapshot() as view:
                    changes = IndexUpdate(view)
                    groups = view.ends(now, _GROUPS, marks=marks)
                    for ends in groups:
                        for name, row in _rows(changes, ends.names, marks=marks):
                            if row.until(core.limits.undelete_ms) <= now:
                                changes.end(read_held_row(name)[0], row, now)
                            else:
                                changes.end_later(row, name)
                        changes.end_names(ends, [])
                if not groups:
                    break
                core.index.commit(changes)
            _remove_files(core, changes)


def make_room(core: StorageContext, wanted: int) -> bool:
    """End held values early, those that would end first, until there is room for `wanted` bytes above the reserve.

    What ends in the log comes back only by compaction: no more of it ends than is wanted. A file that has another name,
    in a snapshot or as a copy, would give nothing back, and stays. The caller holds `core.lock`.
    Returns whether anything has ended. Raises `StorageError`.
    """
    core.space.forget()
    missing = core.limits.reserve + wanted - core.space.free() - core.owed
    ended = size = 0
    after = b""
    while missing > size and core.index.totals.held_keys:
        with core.index.snapshot() as view:
            changes = IndexUpdate(view)
            groups = view.ends(_FOR_EVER, 1, marks=False, after=after)
            if not groups:
                break
            left = []
            for name, row in _rows(changes, groups[0].names, marks=False):
                given_back = _given_back(core, row.entry) if missing > size else 0
                if not given_back:
                    left.append(name)
                    continue
                changes.let_go(read_held_row(name)[0], row)
                if not row.entry.token:
                    core.owed += given_back
                size += given_back
                ended += 1
            changes.end_names(groups[0], left)
            after = groups[0].row
        core.early_ends += 1
        # First, since the index may need their room. A held value without its file is only one that can't be had back.
        _remove_files(core, changes)
        try:
            core.index.commit(changes)
        except DiskFull as error:
            log.info("index is written again, for files have made room", reason=error)
            core.index.commit(changes)
    if ended:
        core.space.forget()
        log.warning("disk is full: deleted values are kept no longer", values=ended, bytes=size)
    return ended > 0


def _given_back(core: StorageContext, entry: Entry) -> int:
    """The bytes of disk that come back when a value is held no longer; of the log only by compaction."""
    if not entry.token:
        return entry.length
    path = value_files.path(core.places.values, entry.token)
    with guarded("a value file can't be looked at"):
        try:
            return value_files.file_bytes(entry.size) if path.stat().st_nlink == 1 else 0
        except FileNotFoundError:
            return 0  # it is lost: the scrub says so


def _rows(changes: IndexUpdate, names: list[bytes], *, marks: bool) -> Iterator[tuple[bytes, Held]]:
    """Those rows that are still values, or marks."""
    for name in names:
        row = changes.held_in(name)
        if row is not None and row.is_value != marks:
            yield name, row


def _remove_files(core: StorageContext, changes: IndexUpdate) -> None:
    for token in changes.unlinked:
        with guarded("a value file can't be removed"):
            core.removals.remove(value_files.path(core.places.values, token))
