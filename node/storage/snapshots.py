"""Snapshots: a folder with hard links to all files of one moment, made while writes go on.

At that moment, under the lock, only figures are taken. Links are made after that: until they are there, no segment is
exchanged and no value file is removed. The active segment is copied as far as it was then. The folder grows in `tmp/`,
and gets its name in `snapshots/` when it is whole. What a folder holds is in `broker.snapshot_files`.

Nothing of it is flushed: the files it links are durable already, and no snapshot outlives the process that made it. The
next one removes whatever it finds.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from broker import VERSION, logs, phases, snapshot_files
from broker.messages.store import Epoch
from broker.snapshot_files import SnapshotFile, SnapshotHead
from node.errors import StorageError, StorageUnavailable
from node.storage import digests, value_files
from node.storage.context import StorageContext
from node.storage.disk.files import guarded, write_at
from node.storage.disk.throttle import Throttle
from node.storage.log import segments

log = logs.get(__name__)

NODE_ID = "node-id"
_STOP_EVERY = 1000  # links between two looks at whether the storage is being closed


class _Cut(NamedTuple):
    """What is in a snapshot: the state of the storage at its moment."""

    sealed: list[int]  # numbers of segments
    active: int
    active_size: int
    seq: int
    epochs: list[Epoch]
    tokens: list[bytes]  # of value files, 16 bytes each


def make(core: StorageContext, name: str) -> Path:
    """See `Storage.snapshot`."""
    started = time.monotonic()
    draft = core.places.tmp / f"snapshot-{secrets.token_hex(8)}"
    try:
        with guarded("a snapshot can't be made"), ExitStack() as stack:
            with core.links, core.removals.put_off():
                cut, held = _cut(core)
                phases.announce("snapshot.cut")
                paths = _link(core, cut, draft)
                path = segments.path(Path(core.places.log.name), cut.active)
                # Compaction may exchange the file after this: what is open stays as it was.
                active = stack.enter_context((core.places.root / path).open("rb", buffering=0))
            phases.announce("snapshot.linked")
            linked = time.monotonic()
            tail = SnapshotFile(str(path), cut.active_size, _copy(active, draft / path, cut.active_size))
            now = time.time()
            epochs = [(epoch.seq, epoch.id) for epoch in cut.epochs]
            head = SnapshotHead("node", name, epochs, cut.seq, VERSION, snapshot_files.iso(now), 0, 0)
            files = chain([tail], _described(core, draft, paths))
            head = snapshot_files.write(draft, head, files, durable=False)
            phases.announce("snapshot.described")
            core.places.snapshots.mkdir(exist_ok=True)
            folder = core.places.snapshots / snapshot_files.name_of(now, os.listdir(core.places.snapshots))
            draft.rename(folder)
            phases.announce("snapshot.made")
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    secs = {"held_ms": held * 1000, "linked_secs": linked - started, "secs": time.monotonic() - started}
    log.info("snapshot made", snapshot=folder.name, seq=head.seq, files=head.files, bytes=head.bytes, **secs)
    return folder


def remove(folder: Path, tmp: Path) -> None:
    """Remove a snapshot. It loses its name first, so that nobody takes half of it for one. Raises `StorageError`."""
    with guarded("a snapshot can't be removed"):
        away = tmp / f"snapshot-{secrets.token_hex(8)}"
        folder.rename(away)
        phases.announce("snapshot.removed")
        shutil.rmtree(away)


def _cut(core: StorageContext) -> tuple[_Cut, float]:
    """The state of this moment, and for how many seconds writers had to wait for it."""
    with ExitStack() as stack:
        with core.lock:
            started = time.monotonic()
            active, size = core.active.number, core.active.size
            sealed = sorted(number for number in core.index.stats if number != active)
            seq, epochs = core.index.totals.seq, list(core.index.epochs)
            view = stack.enter_context(core.index.snapshot())
            held = time.monotonic() - started
        tokens = view.tokens()
    return _Cut(sealed, active, size, seq, epochs, tokens), held


def _link(core: StorageContext, cut: _Cut, draft: Path) -> list[str]:
    """Link all files but the active segment; returns their paths."""
    places = core.places
    for folder in (draft, draft / places.log.name, draft / places.values.name):
        folder.mkdir()
    paths = [f"{places.log.name}/{segments.path(places.log, number).name}" for number in cut.sealed]
    if (places.root / NODE_ID).exists():
        paths.append(NODE_ID)
    for path in paths:
        os.link(places.root / path, draft / path)
    made = set()
    for number, token in enumerate(map(bytes.hex, cut.tokens)):
        if number % _STOP_EVERY == 0 and core.stop.is_set():
            raise StorageUnavailable("the storage is closing")
        if token[:2] not in made:
            (draft / places.values.name / token[:2]).mkdir()
            made.add(token[:2])
        path = f"{places.values.name}/{token[:2]}/{token}"
        try:
            os.link(places.root / path, draft / path)
        except FileNotFoundError:
            log.error("value file is gone, and not in the snapshot", token=token)
        else:
            paths.append(path)
    return paths


def _copy(source: FileIO, target: Path, size: int) -> str:
    """Copy the first `size` bytes of a file; returns their SHA-256."""
    digest = hashlib.sha256()
    left = size
    with target.open("xb", buffering=0) as writing:
        while left:
            chunk = source.read(min(left, digests.CHUNK_BYTES))
            if not chunk:
                raise StorageError(f"{target.name} is shorter than its {size} bytes")
            digest.update(chunk)
            write_at(writing.fileno(), chunk, size - left)
            left -= len(chunk)
    return digest.hexdigest()


def _described(core: StorageContext, draft: Path, paths: list[str]) -> Iterator[SnapshotFile]:
    """The linked files and their digests. Those that are not known yet are computed, and kept."""

    def pace(_count: int) -> None:
        if core.stop.is_set():
            raise StorageUnavailable("the storage is closing")

    for path in paths:
        pace(0)
        status = (draft / path).stat()
        digest = core.digests.get(path, status)
        if digest is None:
            status, digest = _computed(core, draft / path, path, pace)
        yield SnapshotFile(path, status.st_size, digest.hex())


def _computed(core: StorageContext, file: Path, path: str, pace: Callable[[int], None]) -> tuple[os.stat_result, bytes]:
    """Status and digest of a file, which is kept; of one that has rotted, the digest that it had when it was whole.

    So a backup refers to the good copy at its target, or says that it can't send the file, and takes no rotten one.
    Raises `FileNotFoundError`, `StorageError`.
    """
    status, digest = digests.of_file(file, pace)
    former = core.digests.former(path, status)
    if former is not None and former != digest:
        log.error("a file is damaged: its bytes have changed, though nobody writes it", path=path)
        return status, former
    core.digests.put([(path, status, digest)])
    return status, digest


# Digests ahead of the next snapshot.


def digest_new_files(core: StorageContext) -> None:
    """See `Storage.digest`."""
    found = core.digests
    if not found.complete:
        _look_through(core)
        found.complete = True
    pace = Throttle(core.limits.compact_rate, core.stop)
    with suppress(StorageUnavailable):  # the storage is closing
        while found.unknown:
            path = found.unknown.popleft()
            try:
                _computed(core, core.places.root / path, path, pace.spend)
            except FileNotFoundError:
                found.forget([path])
            except StorageError as error:
                log.warning("file has no digest yet", path=path, reason=error)


def _look_through(core: StorageContext) -> None:
    """Note the files without a digest, and forget the digests of files that are gone."""
    places = core.places
    with core.lock:
        active = core.active.number
    paths = [f"{places.log.name}/{segments.path(places.log, n).name}" for n in segments.numbers(places.log)]
    paths.remove(f"{places.log.name}/{segments.path(places.log, active).name}")
    paths += [f"{places.values.name}/{token[:2]}/{token}" for token in value_files.tokens(places.values)]
    core.digests.forget(set(core.digests.paths()) - set(paths))
    for path in paths:
        with suppress(FileNotFoundError):
            if core.digests.get(path, (places.root / path).stat()) is None:
                core.digests.unknown.append(path)
