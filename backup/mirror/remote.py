"""A mirror at a remote: SFTP, S3, and everything that rclone knows. rclone carries the files.

Where a remote shows a file under its name before it is whole (SFTP), files are sent to `incoming` and renamed there.
Where it can't rename, as S3, it shows only whole ones.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from backup.address import Target
from backup.batches import batches
from backup.copying import Copier, Throttle
from backup.errors import BackupError, BadAddress, Damaged, SourceUnreadable, TargetError
from backup.mirror import layout
from backup.mirror.carrier import Download, Upload
from backup.mirror.layout import INCOMING, OBJECTS, SNAPSHOTS, Listing
from backup.mirror.rclone import NOT_FOUND, Rclone
from broker import phases

_BATCH_BYTES = 1 << 30  # between two renames; an interrupted run sends at most so much again
_BATCH_FILES = 2000


class Remote:
    """The carrier for a remote."""

    def __init__(self, target: Target, rate: int = 0) -> None:
        """`rate` limits what is sent, in bytes per second; 0 is no limit. Raises `BadAddress`."""
        self._rclone = Rclone(target, rate)
        self._type = target.type
        self._renames: bool | None = {"sftp": True, "s3": False}.get(target.type)

    def members(self) -> list[str]:
        """The folders at the root that can be members."""
        output = self._rclone.run("lsf", "--dirs-only", self._rclone.path(), allowed=(NOT_FOUND,))
        names = (line.rstrip("/") for line in output.decode("utf-8", "replace").split("\n"))
        return sorted(name for name in names if layout.is_member(name))

    def listing(self, member: str) -> Listing:
        """What a member's folder has."""
        found = Listing()
        options = ("--files-only", "--recursive", "--fast-list", "--format=sp", "--separator=\t")
        output = self._rclone.run("lsf", *options, self._rclone.path(member), allowed=(NOT_FOUND,))
        for line in output.decode("utf-8", "replace").split("\n"):
            size, _, path = line.partition("\t")
            if path and size.lstrip("-").isdigit():
                found.add(path, int(size))
        return found

    def room(self) -> int | None:
        """Free bytes, where the remote tells."""
        try:
            free = json.loads(self._rclone.run("about", "--json", self._rclone.path())).get("free")
        except BadAddress:
            raise
        except (BackupError, ValueError, AttributeError):
            return None  # it does not tell, and sending shows what is wrong
        return int(free) if free is not None else None

    def clear(self, member: str, listing: Listing) -> None:
        """Remove what an interrupted run has left that is not whole."""
        if listing.incoming:
            self.remove(member, listing.incoming)

    def send(self, member: str, uploads: list[Upload], done: Callable[[int], None]) -> None:
        """Send objects in batches, whose digests are taken first."""
        faults: list[str] = []
        copier = Copier(Throttle(0), lambda count: None)
        try:
            for batch in batches(uploads, _BATCH_BYTES, _BATCH_FILES):
                whole = []
                for upload in batch:
                    try:
                        right = copier.digest(upload.source) == upload.digest
                        fault = "" if right else f"{upload.source} has other bytes than its manifest says"
                    except SourceUnreadable as error:
                        fault = str(error)
                    if fault:
                        faults.append(fault)
                    else:
                        whole.append(upload)
                self._send(member, whole, done)
        finally:
            copier.close()
        if faults:
            raise Damaged("files of the snapshot are not what its manifest says", faults)

    def write(self, member: str, path: str, source: Path) -> None:
        """Send a small file, whole or not at all."""
        to = self._rclone.path(member, path)
        if not self._may_rename():
            self._rclone.run("copyto", "--ignore-times", str(source), to)
            return
        partial = self._rclone.path(member, INCOMING, path.removeprefix(f"{SNAPSHOTS}/"))
        self._rclone.run("copyto", "--ignore-times", str(source), partial)
        self._rclone.run("moveto", "--ignore-times", partial, to)

    def read(self, member: str, path: str) -> bytes:
        """A small file that the listing has."""
        return self._rclone.run("cat", self._rclone.path(member, path))

    def fetch(self, member: str, objects: Iterable[tuple[str, int]], scratch: Path) -> Iterator[Download]:
        """Objects, a batch of them in `scratch` at a time."""
        rows = [Upload(scratch / digest[:2] / digest, digest, size) for digest, size in objects]
        for batch in batches(rows, _BATCH_BYTES, _BATCH_FILES):
            with _list(f"{row.digest[:2]}/{row.digest}" for row in batch) as names:
                options = ("--files-from-raw", names, "--ignore-times")
                try:
                    self._rclone.run("copy", *options, self._rclone.path(member, OBJECTS), str(scratch))
                except TargetError as error:
                    if type(error) is not TargetError or all(row.source.exists() for row in batch):
                        raise
                    # objects are not there, which the caller tells
            for row in batch:
                yield Download(row.digest, row.source if row.source.is_file() else None, movable=True)
                row.source.unlink(missing_ok=True)

    def remove(self, member: str, paths: list[str]) -> None:
        """Remove files, and the folders of snapshots that are empty then."""
        with _list(paths) as names:
            self._rclone.run("delete", "--files-from-raw", names, self._rclone.path(member))
        if self._may_rename():  # it has folders
            for folder in sorted({path.rpartition("/")[0] for path in paths}):
                if folder.startswith(f"{SNAPSHOTS}/"):
                    self._rclone.run("rmdir", self._rclone.path(member, folder), allowed=(1, NOT_FOUND))

    def tidy(self, member: str) -> None:
        """Remove the folders of what was incoming."""
        if self._may_rename():
            self._rclone.run("rmdirs", self._rclone.path(member, INCOMING), allowed=(1, NOT_FOUND))

    def close(self) -> None:
        """Nothing is held."""

    def _may_rename(self) -> bool:
        """Whether the remote renames files, and so may show one before it is whole."""
        if self._renames is None:
            features = self._rclone.features()
            self._renames = features.get("Move", False) and not features.get("BucketBased", False)
        return self._renames

    def _send(self, member: str, uploads: list[Upload], done: Callable[[int], None]) -> None:
        if not uploads:
            return
        objects = self._rclone.path(member, OBJECTS)
        with tempfile.TemporaryDirectory(prefix="pulzar-send-") as folder:
            for upload in uploads:
                link = Path(folder, upload.digest[:2], upload.digest)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(upload.source)
            incoming = self._rclone.path(member, INCOMING) if self._may_rename() else objects
            self._rclone.run("copy", "--copy-links", "--size-only", folder, incoming, sent=done)
        phases.announce("backup.flushed")
        if self._may_rename():
            with _list(f"{upload.digest[:2]}/{upload.digest}" for upload in uploads) as names:
                self._rclone.run("move", "--size-only", "--files-from-raw", names, incoming, objects)


@contextmanager
def _list(paths: Iterable[str]) -> Iterator[str]:
    """A file with a path in each line; gives its name."""
    with tempfile.NamedTemporaryFile("w", prefix="pulzar-files-", encoding="utf-8") as file:
        file.writelines(f"{path}\n" for path in paths)
        file.flush()
        yield file.name
