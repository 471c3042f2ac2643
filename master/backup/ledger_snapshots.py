"""Snapshots of the ledger: LMDB's own copy of it, which is whole whatever is written meanwhile."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import time
from pathlib import Path

import lmdb

from broker import VERSION, phases, snapshot_files
from broker.messages.backups import MASTER
from broker.snapshot_files import SnapshotFile, SnapshotHead
from master.errors import IndexUnusable
from master.jobs.ledger import Ledger

LEDGER = "ledger"  # folder of a snapshot
_CHUNK_BYTES = 1 << 20


class LedgerSnapshots:
    """See `broker.backups.worker.Snapshots`."""

    def __init__(self, ledger: Ledger, directory: Path) -> None:
        """`directory` is the master's data directory."""
        self._ledger = ledger
        self._folder = directory / snapshot_files.FOLDER

    def make(self) -> Path:
        """Make one and return its folder. Raises `IndexUnusable`, `OSError`."""
        self._folder.mkdir(exist_ok=True)
        draft = self._folder / f"draft-{secrets.token_hex(8)}"
        try:
            (draft / LEDGER).mkdir(parents=True)
            now = time.time()
            try:
                self._ledger.copy(draft / LEDGER)
            except lmdb.Error as error:
                raise IndexUnusable(f"the ledger can't be copied: {error}") from error
            phases.announce("ledger.copied")
            files = [_described(draft, path) for path in sorted((draft / LEDGER).iterdir())]
            head = SnapshotHead("ledger", MASTER, [], 0, VERSION, snapshot_files.iso(now), 0, 0)
            snapshot_files.write(draft, head, files, durable=False)
            phases.announce("ledger.described")
            folder = self._folder / snapshot_files.name_of(now, os.listdir(self._folder))
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        phases.announce("ledger.made")
        return folder

    def remove(self, folder: Path) -> None:
        """Remove one. It loses its name first, so that nobody takes half of it for one. Raises `OSError`."""
        away = self._folder / f"draft-{secrets.token_hex(8)}"
        folder.rename(away)
        shutil.rmtree(away)


def _described(draft: Path, path: Path) -> SnapshotFile:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        size = os.fstat(file.fileno()).st_size
    return SnapshotFile(str(path.relative_to(draft)), size, digest.hexdigest())
