"""The directory that a backup is restored into: made beside it, and renamed when all is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import TracebackType

from backup import copying, ownership
from backup.copying import Copier, Throttle
from backup.errors import BackupError, Busy
from broker import process


class Destination:
    """A directory that does not exist yet, or is empty. Errors of the OS become `BackupError`."""

    def __init__(self, into: Path) -> None:
        self._into = into.absolute()
        self.folder = self._into.with_name(f"{self._into.name}.partial")
        self._lock: int | None = None
        self._copier = Copier(Throttle(0), lambda count: None)

    def __enter__(self) -> Destination:
        """Make the folder beside it; one that an interrupted run has left is emptied."""
        try:
            if self._into.exists() and (not self._into.is_dir() or any(self._into.iterdir())):
                raise BackupError(f"{self._into} is not empty: a new or an empty directory is needed")
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = process.hold(self.folder)
            for left in self.folder.iterdir():
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        except BlockingIOError as error:
            raise Busy(f"another run restores into {self._into}") from error
        except OSError as error:
            raise self._error(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the folder, unless it was renamed."""
        self._copier.close()
        if self._lock is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)

    def check_room(self, needed: int) -> None:
        """Raises `BackupError` when there are less than `needed` bytes free."""
        figures = os.statvfs(self.folder)
        free = figures.f_bavail * figures.f_frsize
        if free < needed:
            raise BackupError(f"{self.folder.parent} has too little room: {needed} bytes are needed, {free} are free")

    def copy(self, source: Path, path: str) -> None:
        """Copy a file to its place."""
        try:
            self._copier.copy(source, self._place(path))
        except OSError as error:
            raise self._error(error) from error

    def move(self, source: Path, path: str) -> None:
        """Move a file, which is on the same filesystem, to its place."""
        try:
            source.rename(self._place(path))
        except OSError as error:
            raise self._error(error) from error

    def finish(self, owner: str) -> None:
        """All is there: make it durable, and give it its name. `owner` is whose folder at the target it is."""
        try:
            if owner:
                ownership.give(self.folder, owner)
            copying.sync_filesystem(self.folder)
            if self._into.exists():
                self._into.rmdir()
            self.folder.rename(self._into)
            copying.sync_directory(self._into.parent)
        except OSError as error:
            raise self._error(error) from error

    def _place(self, path: str) -> Path:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def _error(self, error: OSError) -> BackupError:
        return BackupError(f"{self._into} can't be written: {error.strerror or error}")
