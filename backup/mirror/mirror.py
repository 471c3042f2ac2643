"""A plain mirror: what is sent to it, and what is removed from it. A carrier brings the files."""

from __future__ import annotations

import tempfile
from pathlib import Path

from backup import retention
from backup.errors import BackupError, Damaged, TargetFull, WrongOwner
from backup.mirror.carrier import Upload
from backup.mirror.layout import OWNER, Listing, object_path, snapshot_path
from backup.mirror.reader import MirrorReader
from backup.ownership import Ownership
from backup.results import Sent
from broker import phases, snapshot_files
from broker.backups.keep_rule import KeepRule
from broker.snapshot_files import HEAD, MANIFEST, BadSnapshot, SnapshotFile

_SLACK_BYTES = 1 << 20  # beside the objects, for names and directories


class Mirror(MirrorReader):
    """A plain mirror, to be read and written."""

    def send(self, member: str, snapshot: Path, ownership: Ownership, rule: KeepRule) -> Sent:
        """Send a snapshot, verify it at the target, and remove older ones that the rule does not keep.

        What is there already is not sent again. Raises `BackupError` and `BadSnapshot`; then older snapshots are as
        they were.
        """
        head = snapshot_files.read_head(snapshot)
        files = list(snapshot_files.read_manifest(snapshot))
        self._progress.begin("list")
        listing = self._carrier.listing(member)
        self._claim(member, listing, ownership)
        phases.announce("backup.listed")
        self._carrier.clear(member, listing)
        self._drop_damaged(member, files, listing, ownership)
        uploads = _missing(snapshot, files, listing)
        total = sum(upload.size for upload in uploads)
        if uploads:
            self._check_room(snapshot, total)
            self._progress.begin("send", total)
            self._carrier.send(member, uploads, self._progress.advance)
        phases.announce("backup.sent")
        after = self._verified(member, snapshot, files)
        warnings: list[str] = []
        removed: list[str] = []
        try:
            removed = self._prune(member, after, snapshot.name, {file.digest for file in files}, rule)
        except BackupError as error:
            warnings.append(f"older backups could not be removed: {error}")
        self._carrier.tidy(member)
        return Sent(head, snapshot.name, len(uploads), total, removed, warnings)

    def _claim(self, member: str, listing: Listing, ownership: Ownership) -> None:
        """Make sure that the folder is this member's, or make it so. Raises `WrongOwner`."""
        if not listing.owned:
            ownership.check_new(listing.is_empty)
            with tempfile.TemporaryDirectory() as scratch:
                file = Path(scratch, OWNER)
                file.write_text(f"{ownership.id}\n", encoding="ascii")
                self._carrier.write(member, OWNER, file)
            phases.announce("backup.claimed")
        there = self._carrier.read(member, OWNER).decode("ascii", "replace").strip()
        if there != ownership.id:
            raise WrongOwner(
                f"the folder {member!r} at the target belongs to another node or master of that name, with the id "
                f"{there[:40]!r}. If it is this one, write that id into {ownership.file}; else give this one another "
                "name or target"
            )
        ownership.note()

    def _drop_damaged(self, member: str, files: list[SnapshotFile], listing: Listing, ownership: Ownership) -> None:
        """Remove objects that a verification found damaged and this snapshot has, so that they are sent again."""
        if not (damaged := ownership.damaged):
            return
        found = sorted(damaged & {file.digest for file in files} & listing.objects.keys())
        if found:
            self._carrier.remove(member, [object_path(digest) for digest in found])
            for digest in found:
                del listing.objects[digest]
        ownership.note_damaged(damaged & listing.objects.keys())

    def _check_room(self, snapshot: Path, total: int) -> None:
        manifest = (snapshot / MANIFEST).stat().st_size
        needed = total + manifest + _SLACK_BYTES
        room = self._carrier.room()
        if room is not None and room < needed:
            raise TargetFull(f"the target is full: {needed} bytes are needed, {room} are free")

    def _verified(self, member: str, snapshot: Path, files: list[SnapshotFile]) -> Listing:
        """Send what describes the snapshot once all its objects are found there; returns the listing after that."""
        self._progress.begin("verify")
        listing = self._carrier.listing(member)
        if lacking := _missing(snapshot, files, listing):
            raise Damaged(
                f"{len(lacking)} objects did not arrive whole at the target",
                [f"{one.digest}: {listing.objects.get(one.digest, 'no')} of {one.size} bytes" for one in lacking],
            )
        if snapshot.name in listing.complete:
            if not self._equal(member, snapshot):
                raise Damaged(f"the target has another snapshot of the same name, {snapshot.name}", [])
            return listing
        for file, phase in ((HEAD, "backup.head"), (MANIFEST, "backup.manifest")):
            self._carrier.write(member, snapshot_path(snapshot.name, file), snapshot / file)
            listing.add(snapshot_path(snapshot.name, file), (snapshot / file).stat().st_size)
            phases.announce(phase)
        if not self._equal(member, snapshot):
            self._carrier.remove(member, [snapshot_path(snapshot.name, MANIFEST)])
            raise Damaged(f"the manifest of {snapshot.name} reads back otherwise than it was sent", [])
        phases.announce("backup.verified")
        return listing

    def _equal(self, member: str, snapshot: Path) -> bool:
        """Whether head and manifest at the target are those of the snapshot."""
        return all(
            self._carrier.read(member, snapshot_path(snapshot.name, file)) == (snapshot / file).read_bytes()
            for file in (HEAD, MANIFEST)
        )

    def _prune(self, member: str, listing: Listing, newest: str, digests: set[str], rule: KeepRule) -> list[str]:
        """Remove the snapshots that the rule does not keep, then the objects that no other one has.

        Nothing is removed when a manifest that stays can't be read. `digests` are the objects of the `newest`, which
        stays. Raises `BackupError`.
        """
        self._progress.begin("prune")
        kept = retention.stay(listing.complete, rule) | {newest}
        old = sorted((name for name in listing.complete if name not in kept), key=retention.order)
        half = [name for name in listing.heads if name not in listing.manifests]
        unused: list[str] = []
        if listing.objects.keys() - digests:
            used = set(digests)
            for name in listing.manifests:
                if name not in old and name != newest:
                    used |= self._digests(member, name)
            unused = sorted(listing.objects.keys() - used)
        if old:
            self._carrier.remove(member, [snapshot_path(name, MANIFEST) for name in old])
            phases.announce("prune.manifests")
        if old or half:
            self._carrier.remove(member, [snapshot_path(name, HEAD) for name in old + half])
        if unused:
            self._carrier.remove(member, [object_path(digest) for digest in unused])
            phases.announce("prune.objects")
        return old

    def _digests(self, member: str, name: str) -> set[str]:
        try:
            return {file.digest for file in self._manifest(member, name)}
        except BadSnapshot as error:
            raise Damaged(f"nothing was removed, since not all is known that must stay: {error}", []) from error


def _missing(snapshot: Path, files: list[SnapshotFile], listing: Listing) -> list[Upload]:
    """The objects of a snapshot that the target does not have in their size, each once."""
    missing = {
        file.digest: Upload(snapshot / file.path, file.digest, file.size)
        for file in files
        if listing.objects.get(file.digest) != file.size
    }
    return list(missing.values())
