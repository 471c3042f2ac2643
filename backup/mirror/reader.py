"""A plain mirror: what it has, whether that is whole, and how it comes back."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from backup import retention
from backup.copying import Copier, Throttle
from backup.destination import Destination
from backup.errors import Damaged, NoBackup, SourceUnreadable
from backup.mirror.carrier import Carrier, Download
from backup.mirror.layout import OWNER, Listing, snapshot_path
from backup.progress import Progress
from backup.results import Restored, Row, Verified
from backup.value_check import ValueCheck
from broker import phases, snapshot_files
from broker.snapshot_files import HEAD, MANIFEST, BadSnapshot, SnapshotFile, SnapshotHead


class MirrorReader:
    """A plain mirror, to be read."""

    def __init__(self, carrier: Carrier, progress: Progress) -> None:
        self._carrier = carrier
        self._progress = progress

    def rows(self, member: str | None) -> list[Row]:
        """The snapshots of a member, or of all, oldest first. Raises `BackupError`."""
        found = []
        for one in [member] if member else self._carrier.members():
            listing = self._carrier.listing(one)
            for name in sorted(listing.heads.keys() | listing.manifests.keys(), key=retention.order):
                try:
                    head = self._head(one, name) if name in listing.heads else None
                except BadSnapshot:
                    head = None  # shown as one that is not complete
                at = snapshot_files.iso(snapshot_files.time_of(name))
                files, size = (head.files, head.bytes) if head else (0, 0)
                found.append(Row(one, name, at, files, size, head is not None and name in listing.manifests))
        return found

    def verify(self, member: str, share: float, check: ValueCheck | None) -> Verified:
        """Compare the newest snapshot with the listing, and a random `share` (0 to 1) of its bytes with their digests.

        Raises `BackupError` and `BadSnapshot` when nothing can be compared.
        """
        name, listing, _ = self._choose(member, None)
        files = {file.digest: file for file in self._manifest(member, name)}
        faults = [
            f"{file.path} ({file.digest}): {_size_fault(listing, file)}"
            for file in files.values()
            if listing.objects.get(file.digest) != file.size
        ]
        total = sum(file.size for file in files.values())
        there = [file for file in files.values() if listing.objects.get(file.digest) == file.size]
        sample = _sample(there, share * total)
        size = sum(file.size for file in sample)
        self._progress.begin("verify", size)
        values = 0
        damaged: list[str] = []
        with tempfile.TemporaryDirectory(prefix="pulzar-verify-", dir=check.scratch if check else None) as scratch:
            for file, download, digest in self._digests_of(member, sample, Path(scratch)):
                if download.path is None or digest != file.digest:
                    damaged += [file.digest] if digest else []
                    faults.append(
                        f"{file.path} ({file.digest}): {'missing' if not digest else 'its bytes have changed'}"
                    )
                elif check:
                    count, wrong = check.check(file.path, download.path)
                    values += count
                    faults += wrong
        return Verified(name, len(sample), size, total, values, faults, tuple(damaged))

    def restore(self, member: str, at: str | None, into: Path) -> Restored:
        """Put the newest snapshot, or the newest not after `at`, into a new directory, verified.

        Raises `BackupError` and `BadSnapshot`; then `into` is as it was.
        """
        with Destination(into) as destination:
            name, _, owner = self._choose(member, at)
            head = self._head(member, name)
            files: dict[str, list[SnapshotFile]] = {}
            for file in self._manifest(member, name):
                files.setdefault(file.digest, []).append(file)
            destination.check_room(sum(file.size for same in files.values() for file in same))
            self._progress.begin("restore", sum(same[0].size for same in files.values()))
            faults = []
            first = [same[0] for same in files.values()]
            with tempfile.TemporaryDirectory(prefix=".incoming-", dir=destination.folder) as scratch:
                for file, download, digest in self._digests_of(member, first, Path(scratch)):
                    if download.path is None or digest != file.digest:
                        what = "it is missing at the target" if not digest else "its bytes at the target have changed"
                        faults += [f"{same.path}: {what} ({file.digest})" for same in files[file.digest]]
                        continue
                    for same in files[file.digest][1:]:
                        destination.copy(download.path, same.path)
                    if download.movable:
                        destination.move(download.path, file.path)
                    else:
                        destination.copy(download.path, file.path)
            if faults:
                raise Damaged(f"{len(faults)} files of {member} of {name} can't be restored, so nothing was", faults)
            phases.announce("restore.verified")
            destination.finish(owner)
            phases.announce("restore.renamed")
        return Restored(head, name, head.files, head.bytes)

    def close(self) -> None:
        """Give back what is held."""
        self._carrier.close()

    def _choose(self, member: str, at: str | None) -> tuple[str, Listing, str]:
        """The newest complete snapshot, or the newest not after `at`; the listing; the owner. Raises `NoBackup`."""
        listing = self._carrier.listing(member)
        if listing.is_empty:
            members = self._carrier.members()
            others = f"; it has those of {', '.join(members[:20])}" if members else ""
            raise NoBackup(f"the target has no backup of {member!r}{others}")
        names = sorted(listing.complete, key=retention.order)
        if at is not None:
            names = [name for name in names if retention.order(name) <= retention.order(at)]
        if not names:
            raise NoBackup(
                f"the target has no complete backup of {member!r}" + (f" that is as old as {at}" if at else "")
            )
        owner = self._carrier.read(member, OWNER).decode("ascii", "replace").strip() if listing.owned else ""
        return names[-1], listing, owner

    def _head(self, member: str, name: str) -> SnapshotHead:
        """What a snapshot at the target is of. Raises `BackupError` and `BadSnapshot`."""
        text = self._carrier.read(member, snapshot_path(name, HEAD)).decode("utf-8", "replace")
        return snapshot_files.parse_head(text, f"{member}/{snapshot_path(name, HEAD)}")

    def _manifest(self, member: str, name: str) -> list[SnapshotFile]:
        """The files of a snapshot at the target. Raises `BackupError` and `BadSnapshot`."""
        text = self._carrier.read(member, snapshot_path(name, MANIFEST)).decode("ascii", "replace")
        where = f"{member}/{snapshot_path(name, MANIFEST)}"
        files = list(snapshot_files.parse_manifest(text.splitlines(keepends=True), where))
        if len(files) != (expected := self._head(member, name).files):
            raise BadSnapshot(f"{where} has {len(files)} files, and {HEAD} says {expected}")
        return files

    def _digests_of(
        self, member: str, files: list[SnapshotFile], scratch: Path
    ) -> Iterator[tuple[SnapshotFile, Download, str]]:
        """Objects read back, with the SHA-256 of what they have; "" when that can't be read."""
        copier = Copier(Throttle(0), self._progress.advance)
        try:
            downloads = self._carrier.fetch(member, [(file.digest, file.size) for file in files], scratch)
            for file, download in zip(files, downloads, strict=True):
                digest = ""
                if download.path is not None:
                    try:
                        digest = copier.digest(download.path)
                    except SourceUnreadable:
                        digest = ""  # told as one that is missing
                yield file, download, digest
        finally:
            copier.close()


def _size_fault(listing: Listing, file: SnapshotFile) -> str:
    size = listing.objects.get(file.digest)
    return "missing at the target" if size is None else f"the target has {size} of its {file.size} bytes"


def _sample(files: list[SnapshotFile], size: float) -> list[SnapshotFile]:
    """Random files until they have `size` bytes."""
    chosen: list[SnapshotFile] = []
    for file in random.sample(files, len(files)):
        if size <= 0:
            break
        chosen.append(file)
        size -= file.size
    return chosen
