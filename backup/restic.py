"""restic as a target: the snapshot's folder is what `restic backup` gets.

Encryption, deduplication and the kinds of repositories are restic's. Its tags say which member a snapshot is of, whose
it is, and which snapshot of ours it has. Only snapshots with these tags are looked at, and removed by their ids.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from backup import meanings, retention
from backup.address import Target
from backup.batches import batches
from backup.child import die_with_parent, environment, program
from backup.copying import Copier, Throttle
from backup.destination import Destination
from backup.errors import BackupError, BadAddress, Damaged, NoBackup, SourceUnreadable, TargetError, WrongOwner
from backup.ownership import Ownership
from backup.progress import Progress
from backup.results import Restored, Row, Sent, Verified
from backup.value_check import ValueCheck
from broker import phases, snapshot_files
from broker.backups.keep_rule import KeepRule
from broker.snapshot_files import HEAD, MANIFEST, BadSnapshot, SnapshotFile

_TAG = "pulzar"
_BATCH_FILES = 500  # restored by one run of restic, for a verification
_BATCH_BYTES = 1 << 30
_PARTLY = 3  # exit status: some files could not be read


class _Snapshot(NamedTuple):
    """A snapshot of ours in the repository."""

    id: str
    member: str
    owner: str
    name: str  # of the snapshot of ours
    files: int
    bytes: int


class Restic:
    """A repository of restic."""

    def __init__(self, target: Target, rate: int, progress: Progress) -> None:
        """`rate` limits what is sent, in bytes per second; 0 is no limit. Raises `BadAddress`."""
        self._target = target
        self._progress = progress
        self._program = program("restic", target)
        self._options = [f"--limit-upload={max(1, rate // 1024)}"] if rate else []
        self._environment = environment() | {"RESTIC_REPOSITORY": target.address, "RESTIC_PROGRESS_FPS": "2"}
        if target.psw:
            self._environment["RESTIC_PASSWORD"] = target.psw
        elif not self._environment.keys() & {"RESTIC_PASSWORD", "RESTIC_PASSWORD_FILE", "RESTIC_PASSWORD_COMMAND"}:
            raise BadAddress(f"{target}: set [backup] psw to the password of the repository")

    def send(self, member: str, snapshot: Path, ownership: Ownership, rule: KeepRule) -> Sent:
        """Send a snapshot, compare what the repository has of it, and remove older ones that the rule does not keep."""
        head = snapshot_files.read_head(snapshot)
        files = list(snapshot_files.read_manifest(snapshot))
        self._progress.begin("list")
        there = self._claimed(member, ownership)
        phases.announce("backup.listed")
        same = [one for one in there if one.name == snapshot.name]
        sent = added = 0
        if not same:
            made, sent, added = self._backup(member, snapshot, ownership, there, head)
            phases.announce("backup.sent")
            there = self._snapshots(member)
            same = [one for one in there if one.id.startswith(made)]
        self._progress.begin("verify")
        faults = self._faults(same[0], snapshot, files) if same else ["the repository does not list it"]
        if faults:
            if same:
                self._run("forget", *(one.id for one in same))
            raise Damaged(f"the snapshot {snapshot.name} did not arrive whole at the target", faults)
        phases.announce("backup.verified")
        warnings: list[str] = []
        removed: list[str] = []
        try:
            removed = self._prune(there, rule, snapshot.name)
        except BackupError as error:
            warnings.append(f"older backups could not be removed: {error}")
        return Sent(head, snapshot.name, sent, added, removed, warnings)

    def rows(self, member: str | None) -> list[Row]:
        """The snapshots of a member, or of all, oldest first."""
        return [
            Row(one.member, one.name, snapshot_files.iso(snapshot_files.time_of(one.name)), one.files, one.bytes, True)
            for one in self._snapshots(member)
        ]

    def verify(self, member: str, share: float, check: ValueCheck | None) -> Verified:
        """Compare the newest snapshot's files with its manifest, and a random share of their bytes with the digests."""
        chosen = self._choose(member, None)
        files = self._manifest(chosen)
        sizes = self._sizes(chosen)
        faults = [f"{file.path}: {_fault(sizes, file)}" for file in files if sizes.get(file.path) != file.size]
        total = sum(file.size for file in files)
        sample: list[SnapshotFile] = []
        wanted = share * total
        for file in random.sample(files, len(files)):
            if wanted <= 0:
                break
            sample.append(file)
            wanted -= file.size
        size = sum(file.size for file in sample)
        self._progress.begin("verify", size)
        values = 0
        for batch in batches(sample, _BATCH_BYTES, _BATCH_FILES):
            with tempfile.TemporaryDirectory(prefix="pulzar-verify-", dir=check.scratch if check else None) as scratch:
                self._restore(chosen, Path(scratch), [file.path for file in batch])
                for file, fault in self._compare(Path(scratch), batch):
                    if fault:
                        faults.append(fault)
                    elif check:
                        count, wrong = check.check(file.path, Path(scratch, file.path))
                        values += count
                        faults += wrong
        return Verified(chosen.name, len(sample), size, total, values, faults)

    def restore(self, member: str, at: str | None, into: Path) -> Restored:
        """Put the newest snapshot, or the newest not after `at`, into a new directory, verified."""
        with Destination(into) as destination:
            chosen = self._choose(member, at)
            files = self._manifest(chosen)
            head = self._head(chosen)
            size = sum(file.size for file in files)
            destination.check_room(size)
            self._progress.begin("restore", size)
            self._restore(chosen, destination.folder, [])
            faults = [fault for _, fault in self._compare(destination.folder, files) if fault]
            if faults:
                raise Damaged(f"{len(faults)} files of {member} of {chosen.name} can't be restored", faults)
            for path in (HEAD, MANIFEST):
                (destination.folder / path).unlink(missing_ok=True)
            phases.announce("restore.verified")
            destination.finish(chosen.owner)
            phases.announce("restore.renamed")
        return Restored(head, chosen.name, head.files, head.bytes)

    def close(self) -> None:
        """Nothing is held."""

    def _claimed(self, member: str, ownership: Ownership) -> list[_Snapshot]:
        """The member's snapshots; a repository that is not there is made. Raises `WrongOwner`."""
        try:
            there = self._snapshots(member)
        except NoBackup:
            ownership.check_new(True)
            self._run("init")
            there = []
        if not there:
            ownership.check_new(True)
        for one in there:
            if one.owner != ownership.id:
                raise WrongOwner(
                    f"{member!r} in the repository belongs to another node or master of that name, with the id "
                    f"{one.owner!r}. If it is this one, write that id into {ownership.file}; else give this one "
                    "another name or target"
                )
        phases.announce("backup.claimed")
        return there

    def _backup(
        self,
        member: str,
        snapshot: Path,
        ownership: Ownership,
        there: list[_Snapshot],
        head: snapshot_files.SnapshotHead,
    ) -> tuple[str, int, int]:
        """The id of the snapshot that is made, and how many files and bytes were new."""
        tags = (_TAG, member, f"owner={ownership.id}", f"at={snapshot.name}", f"files={head.files}")
        options = [*(f"--tag={tag}" for tag in (*tags, f"bytes={head.bytes}")), f"--host={member}", "--ignore-ctime"]
        if there:
            options.append(f"--parent={there[-1].id}")  # the folder has another name each time
        self._progress.begin("send", head.bytes)
        done = 0
        output: bytes = b""
        try:
            for line in self._lines("backup", "--json", *options, ".", cwd=snapshot):
                fields = json.loads(line)
                if fields.get("message_type") == "status":
                    self._progress.advance(max(0, int(fields.get("bytes_done", 0)) - done))
                    done = max(done, int(fields.get("bytes_done", 0)))
                elif fields.get("message_type") == "summary":
                    output = line
            fields = json.loads(output)
            ownership.note()
            new = int(fields["files_new"]) + int(fields["files_changed"])
            return str(fields["snapshot_id"]), new, int(fields["data_added"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TargetError(f"restic does not say what it has sent: {error}") from error

    def _faults(self, there: _Snapshot, snapshot: Path, files: list[SnapshotFile]) -> list[str]:
        """What the repository's listing of a snapshot has otherwise than the snapshot's folder."""
        sizes = self._sizes(there)
        faults = [f"{file.path}: {_fault(sizes, file)}" for file in files if sizes.get(file.path) != file.size]
        return faults + [
            f"{path}: it reads back otherwise than it was sent"
            for path in (HEAD, MANIFEST)
            if self._run("dump", "--no-lock", there.id, f"/{path}") != (snapshot / path).read_bytes()
        ]

    def _prune(self, there: list[_Snapshot], rule: KeepRule, newest: str) -> list[str]:
        """Remove the snapshots that the rule does not keep, and the data that no other one has."""
        self._progress.begin("prune")
        kept = retention.stay({one.name for one in there}, rule) | {newest}
        old = [one for one in there if one.name not in kept]
        if old:
            self._run("unlock")  # only locks of processes that are gone
            self._run("forget", "--prune", *(one.id for one in old))
            phases.announce("prune.objects")
        return [one.name for one in old]

    def _snapshots(self, member: str | None) -> list[_Snapshot]:
        """The snapshots of ours, oldest first."""
        tags = f"{_TAG},{member}" if member else _TAG
        found = []
        try:
            for fields in json.loads(self._run("snapshots", "--json", "--no-lock", f"--tag={tags}")) or []:
                named = dict(tag.split("=", 1) for tag in fields["tags"] if "=" in tag)
                if snapshot_files.is_name(named.get("at", "")):
                    figures = int(named.get("files", 0)), int(named.get("bytes", 0))
                    found.append(
                        _Snapshot(fields["id"], fields["hostname"], named.get("owner", ""), named["at"], *figures)
                    )
        except (ValueError, KeyError, TypeError) as error:
            raise TargetError(f"restic's list of snapshots can't be read: {error}") from error
        return sorted(found, key=lambda one: retention.order(one.name))

    def _choose(self, member: str, at: str | None) -> _Snapshot:
        found = self._snapshots(member)
        if not found:
            others = sorted({one.member for one in self._snapshots(None)})
            more = f"; it has those of {', '.join(others[:20])}" if others else ""
            raise NoBackup(f"the target has no backup of {member!r}{more}")
        found = [one for one in found if at is None or retention.order(one.name) <= retention.order(at)]
        if not found:
            raise NoBackup(f"the target has no complete backup of {member!r} that is as old as {at}")
        return found[-1]

    def _head(self, chosen: _Snapshot) -> snapshot_files.SnapshotHead:
        text = self._description(chosen, HEAD)
        return snapshot_files.parse_head(text, f"{HEAD} of {chosen.name}")

    def _manifest(self, chosen: _Snapshot) -> list[SnapshotFile]:
        text = self._description(chosen, MANIFEST)
        files = list(snapshot_files.parse_manifest(text.splitlines(keepends=True), f"{MANIFEST} of {chosen.name}"))
        if len(files) != (expected := self._head(chosen).files):
            raise BadSnapshot(f"{MANIFEST} of {chosen.name} has {len(files)} files, and {HEAD} says {expected}")
        return files

    def _description(self, chosen: _Snapshot, path: str) -> str:
        """The text of one of the two files that describe a snapshot. Raises `Damaged` when it can't be read back."""
        try:
            return self._run("dump", "--no-lock", chosen.id, f"/{path}").decode("utf-8", "replace")
        except TargetError as error:
            if type(error) is not TargetError:  # it is gone, say
                raise
            fault = f"{path}: it can't be read back"
            raise Damaged(f"the backup {chosen.name} is damaged: {error}", [fault]) from error

    def _sizes(self, there: _Snapshot) -> dict[str, int]:
        """Path and bytes of each file in the repository's listing of a snapshot."""
        sizes = {}
        for line in self._lines("ls", "--json", "--no-lock", there.id):
            fields = json.loads(line)
            if fields.get("type") == "file":
                sizes[str(fields["path"]).lstrip("/")] = int(fields.get("size", 0))
        return sizes

    def _restore(self, chosen: _Snapshot, into: Path, paths: list[str]) -> None:
        """Restore some files, or all. What is damaged is missing or wrong afterwards."""
        included = [f"--include=/{_escaped(path)}" for path in paths]
        try:
            self._run("restore", chosen.id, "--no-lock", f"--target={into}", *included)
        except TargetError as error:
            if type(error) is not TargetError:  # it is full, or gone
                raise
            # damage in the repository: the digests show in which files

    def _compare(self, folder: Path, files: list[SnapshotFile]) -> Iterator[tuple[SnapshotFile, str]]:
        """Files that were restored, each with what is wrong with it."""
        copier = Copier(Throttle(0), self._progress.advance)
        try:
            for file in files:
                fault = ""
                try:
                    if copier.digest(folder / file.path) != file.digest:
                        fault = f"{file.path}: its bytes at the target have changed"
                except SourceUnreadable:
                    fault = f"{file.path}: it can't be read back"
                yield file, fault
        finally:
            copier.close()

    def _run(self, *arguments: str) -> bytes:
        """The output of a command. Raises `BackupError` in words."""
        return b"".join(self._lines(*arguments))

    def _lines(self, *arguments: str, cwd: Path | None = None) -> Iterator[bytes]:
        """The lines of a command's output, as they come. Raises `BackupError` in words at its end."""
        with tempfile.TemporaryFile() as errors:
            with subprocess.Popen(
                [self._program, *arguments, *self._options],
                cwd=cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                preexec_fn=die_with_parent,
            ) as process:
                assert process.stdout is not None
                yield from process.stdout
            if process.returncode:
                errors.seek(0)
                text = errors.read().decode("utf-8", "replace")
                messages = [line for line in text.split("\n") if line.strip()]
                if process.returncode == _PARTLY:
                    raise SourceUnreadable(f"not all files of the snapshot could be read: {' '.join(messages)[:300]}")
                raise meanings.error(self._target, messages)


def _fault(sizes: dict[str, int], file: SnapshotFile) -> str:
    there = sizes.get(file.path)
    return "missing at the target" if there is None else f"the target has {there} of its {file.size} bytes"


def _escaped(path: str) -> str:
    """A path as a pattern of restic that matches it alone."""
    return re.sub(r"([\\*?\[])", r"\\\1", path)
