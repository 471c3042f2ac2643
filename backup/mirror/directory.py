"""A mirror in a directory of this machine: a second disk, or a mount of NFS, SMB and the like."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backup import copying
from backup.batches import batches
from backup.copying import Copier, Throttle
from backup.errors import (
    BadAddress,
    Damaged,
    LoginRefused,
    SourceUnreadable,
    TargetError,
    TargetFull,
    TargetGone,
    TargetReadOnly,
)
from backup.mirror import layout
from backup.mirror.carrier import Download, Upload
from backup.mirror.layout import INCOMING, OBJECTS, SNAPSHOTS, Listing
from broker import phases

_BATCH_BYTES = 256 << 20
_BATCH_FILES = 1000
_FEW_FILES = 16  # so many are flushed one by one, more with the whole filesystem

_KINDS: tuple[tuple[type[TargetError], str, set[int]], ...] = (
    (TargetFull, "is full", {errno.ENOSPC, errno.EDQUOT}),
    (TargetReadOnly, "is read-only", {errno.EROFS}),
    (LoginRefused, "does not let this user in", {errno.EACCES, errno.EPERM}),
    (
        TargetGone,
        "is gone",
        {errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT},
    ),
)


class Directory:
    """The carrier for a directory."""

    def __init__(self, root: str, rate: int = 0) -> None:
        """`rate` limits what is written, in bytes per second; 0 is no limit. Raises `BadAddress`."""
        self._root = Path(root)
        if not self._root.is_absolute():
            raise BadAddress(f"{root!r} is no address of a directory: an absolute path like /mnt/backup is needed")
        self._throttle = Throttle(rate)

    def members(self) -> list[str]:
        """The folders at the root that can be members."""
        with self._told("can't be read"):
            if not self._root.is_dir():
                raise TargetGone(f"the target {self._root} is not there: is it mounted?")
            return sorted(
                entry.name for entry in os.scandir(self._root) if layout.is_member(entry.name) and entry.is_dir()
            )

    def listing(self, member: str) -> Listing:
        """What a member's folder has."""
        found = Listing()
        with self._told("can't be read"):
            if not self._root.is_dir():
                raise TargetGone(f"the target {self._root} is not there: is it mounted?")
            if (self._root / member).is_dir():
                for path, size in _walk(self._root / member, ""):
                    found.add(path, size)
        return found

    def room(self) -> int | None:
        """Free bytes of the filesystem."""
        with self._told("can't be asked for its free space"):
            figures = os.statvfs(self._root)
        return figures.f_bavail * figures.f_frsize

    def clear(self, member: str, listing: Listing) -> None:
        """Remove what an interrupted run has left that is not whole."""
        self.remove(member, listing.incoming)

    def send(self, member: str, uploads: list[Upload], done: Callable[[int], None]) -> None:
        """Copy objects: a batch under temporary names, flushed, then renamed."""
        incoming = self._root / member / INCOMING
        objects = self._root / member / OBJECTS
        touched: set[Path] = set()
        faults: list[str] = []
        copier = Copier(self._throttle, done)
        try:
            with self._told("can't be written"):
                incoming.mkdir(parents=True, exist_ok=True)
                objects.mkdir(exist_ok=True)
                for batch in batches(uploads, _BATCH_BYTES, _BATCH_FILES):
                    whole = []
                    for upload in batch:
                        if fault := self._copy(copier, upload, incoming):
                            faults.append(fault)
                        else:
                            whole.append(upload.digest)
                    self._flush([incoming / digest for digest in whole])
                    phases.announce("backup.flushed")
                    for digest in whole:
                        folder = objects / digest[:2]
                        if folder not in touched:
                            folder.mkdir(exist_ok=True)
                            touched.add(folder)
                        (incoming / digest).replace(folder / digest)
                for folder in (*sorted(touched), objects, self._root / member):
                    copying.sync_directory(folder)
        finally:
            copier.close()
        if faults:
            raise Damaged("files of the snapshot are not what its manifest says", faults)

    def write(self, member: str, path: str, source: Path) -> None:
        """Send a small file, whole or not at all."""
        to = self._root / member / path
        partial = self._root / member / INCOMING / path.removeprefix(f"{SNAPSHOTS}/")
        copier = Copier(self._throttle, lambda count: None)
        try:
            with self._told("can't be written"):
                for folder in (to.parent, partial.parent):
                    folder.mkdir(parents=True, exist_ok=True)
                partial.unlink(missing_ok=True)
                copier.copy(source, partial)
                copying.sync_file(partial)
                partial.replace(to)
                for folder in (to.parent, to.parent.parent):
                    copying.sync_directory(folder)
                if partial.parent.name != INCOMING:
                    partial.parent.rmdir()
        finally:
            copier.close()

    def read(self, member: str, path: str) -> bytes:
        """A small file that the listing has."""
        with self._told("can't be read"):
            return (self._root / member / path).read_bytes()

    def fetch(self, member: str, objects: Iterable[tuple[str, int]], scratch: Path) -> Iterator[Download]:
        """Objects where they are."""
        for digest, _ in objects:
            path = self._root / member / layout.object_path(digest)
            with self._told("can't be read"):
                yield Download(digest, path if path.is_file() else None, movable=False)

    def remove(self, member: str, paths: list[str]) -> None:
        """Remove files, and the folders of snapshots and of what was incoming that are empty then."""
        with self._told("can't be written"):
            for path in paths:
                (self._root / member / path).unlink(missing_ok=True)
            for folder in {(self._root / member / path).parent for path in paths}:
                if folder.parent.name != OBJECTS and folder.name != INCOMING and folder.name != member:
                    with suppress(OSError):  # a stranger's file is in it
                        folder.rmdir()

    def tidy(self, member: str) -> None:
        """Remove the folder of what was incoming, unless a stranger's file is in it."""
        with suppress(OSError):  # it is not empty, or not there
            (self._root / member / INCOMING).rmdir()

    def close(self) -> None:
        """Nothing is held."""

    def _copy(self, copier: Copier, upload: Upload, incoming: Path) -> str:
        """Copy one object under its temporary name; returns what is wrong with its source, or nothing."""
        partial = incoming / upload.digest
        partial.unlink(missing_ok=True)
        try:
            if copier.copy(upload.source, partial) == upload.digest:
                return ""
            fault = f"{upload.source} has other bytes than its manifest says"
        except SourceUnreadable as error:
            fault = str(error)
        partial.unlink(missing_ok=True)
        return fault

    def _flush(self, files: list[Path]) -> None:
        if len(files) > _FEW_FILES:
            copying.sync_filesystem(files[0])
            return
        for file in files:
            copying.sync_file(file)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn errors of the OS into words."""
        try:
            yield
        except OSError as error:
            reason = (error.strerror or str(error)) + (f" ({error.filename})" if error.filename else "")
            for kind, words, numbers in _KINDS:
                if error.errno in numbers:
                    raise kind(f"the target {self._root} {words}: {reason}") from error
            raise TargetError(f"the target {self._root} {what}: {reason}") from error


def _walk(folder: Path, below: str) -> Iterator[tuple[str, int]]:
    """Paths and sizes of the files below a folder. Raises `OSError`."""
    for entry in list(os.scandir(folder)):
        path = below + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(folder / entry.name, f"{path}/")
        elif entry.is_file(follow_symlinks=False):
            yield path, entry.stat(follow_symlinks=False).st_size
