"""The scratch directories of runs: `scratch/<run>`; `trash` has those that take long to remove.

The value that a run works on has a name in a directory beside, `scratch/<run>.data`. All runs have `path` on their
path of modules (`jobs/surroundings.py`).

A run may leave anything there: millions of files, unreadable directories, links to elsewhere. So a large directory is
only moved here, and removed by another process.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from jobs import surroundings

PATH = "path"
_FEW = 16  # files that are removed here
_SMALL_BYTES = 1 << 20
_MARK = "mark"
_NAME_BYTES = 75  # of a temporary directory: a socket in it adds 32, and its path has 107 at most
_TEMPORARY = "/tmp"
CACHE = "cache"  # what libraries keep from one run to the next
HOME = "home"  # of zygotes that load modules
_OF_ZYGOTE = ("scratch", "trash", CACHE)
_FILE_NAME_BYTES = 255
_REMOVE = 'rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwx -- "$1"; rm -rf -- "$1"; }'


def prepare(directory: Path, user: int = -1, group: int = -1) -> str:
    """Prepare the directory for a zygote of that user; a text that only this directory has. Raises `OSError`."""
    directory.mkdir(parents=True, exist_ok=True)
    if user < 0:
        for name in ("scratch", "trash"):
            (directory / name).mkdir(exist_ok=True)
    mark = directory / _MARK
    if not mark.exists():
        mark.write_text(secrets.token_hex(16))
    surroundings.prepare(directory / PATH)
    if user >= 0:
        _hand_over(directory, user, group)
    status = mark.stat()
    return f"{mark.read_text()} {mark.resolve()} {status.st_dev} {status.st_ino}"


def _hand_over(directory: Path, user: int, group: int) -> None:
    """Let the zygote's user make folders here. Those of another user, from another setting, are removed."""
    for name in _OF_ZYGOTE:
        folder = directory / name
        if folder.exists() and folder.stat().st_uid != user:
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                folder.rename(directory / f"{name}.{secrets.token_hex(4)}")
    os.chown(directory, -1, group)
    directory.chmod(0o770)
    (directory / _MARK).chmod(0o640)


def begin(directory: Path, cache_limit: int) -> None:
    """Move what earlier runs left to the trash, as the zygote's user; keep the caches that are small. Raises `OSError`.

    `cache_limit`: bytes that the caches of libraries may have grown to, 0: there are none.
    """
    for name in ("scratch", "trash"):
        (directory / name).mkdir(exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        (directory / "scratch").chmod(0o770)  # the agent, another user, lends values there
    ours = [directory / name for name in (*_OF_ZYGOTE, PATH, _MARK)]
    for left in [*directory.iterdir(), *ours[0].iterdir()]:
        if left not in ours:
            left.rename(directory / "trash" / f"{left.name}.{secrets.token_hex(4)}")
    cache = directory / CACHE
    size = 0
    for folder, _, files in os.walk(cache):
        for file in files:
            with suppress(OSError):  # gone meanwhile
                size += os.lstat(os.path.join(folder, file)).st_size
    if size > cache_limit or (cache.exists() and not cache_limit):
        cache.rename(directory / "trash" / f"{CACHE}.{secrets.token_hex(4)}")
    if cache_limit:
        cache.mkdir(mode=0o700, exist_ok=True)


def lend(directory: Path, run: str, value: Path, key: str, *, hidden: bool, group: int = -1) -> Path:
    """Give a value a name of the run's own, which ends like its key, and which the script may delete.

    `group`: that of the runs, when the value must be made readable for them. `hidden`: they don't see where it is.
    Raises `OSError`.
    """
    folder = directory / "scratch" / f"{run}.data"
    folder.mkdir(0o700, exist_ok=True)
    if group >= 0:
        os.chown(folder, -1, group)
        folder.chmod(0o770)
        os.chown(value, -1, group)
        value.chmod(value.stat().st_mode | 0o040)
    path = folder / (key.rpartition("/")[2][-_FILE_NAME_BYTES:] or "data")
    try:
        os.link(value, path)
    except FileNotFoundError:
        raise
    except OSError:  # not on this file system
        if hidden:
            shutil.copyfile(value, path)
        else:
            path.symlink_to(value)
    return path


class Scratch:
    """The directory as the zygote uses it."""

    def __init__(self, directory: str, node: str) -> None:
        self._directory = directory
        self._link = f"{_TEMPORARY}/pz{node[:8]}"  # where the directory has a short name, when it needs one
        self._moved = 0
        self.cleaner = 0  # the process that removes things, 0 for none

    def path(self, run: str) -> str:
        """The scratch directory of a run, which may be inside that of a process: `process/run`."""
        return f"{self._directory}/scratch/{run}"

    def temporary(self, run: str) -> str:
        """The same directory by a name that is short enough for the sockets that programs make there."""
        path = self.path(run)
        return path if len(os.fsencode(path)) <= _NAME_BYTES or not self._is_linked() else f"{self._link}/{run}"

    def close(self) -> None:
        """Remove the short name of the directory."""
        with suppress(OSError):  # none was needed
            if os.readlink(self._link) == f"{self._directory}/scratch":
                os.unlink(self._link)

    def _is_linked(self) -> bool:
        """Whether the short name is there; it is made if it can be."""
        target = f"{self._directory}/scratch"
        with suppress(OSError):  # it is not there, or no link
            if os.readlink(self._link) == target and os.lstat(self._link).st_uid == os.geteuid():
                return True
            os.unlink(self._link)  # others' can't be removed there
        with suppress(OSError):
            os.symlink(target, self._link)
            return True
        return False

    def remove(self, path: str) -> str:
        """Remove a scratch directory, or move it to the trash; "" or why neither can be done."""
        try:
            _empty(path)
            os.rmdir(path)
        except FileNotFoundError:  # nothing is left of it
            return ""
        except OSError:  # not empty, not ours to read, no directory any more
            self._moved += 1
            try:
                os.makedirs(f"{self._directory}/trash", exist_ok=True)
                os.rename(path, f"{self._directory}/trash/{os.getpid()}.{self._moved}")
            except OSError as error:
                return f"{path} can't be removed: {error.strerror}"
            self.clean()
        return ""

    def cleaned(self) -> None:
        """Note that the process that removed things has ended, and go on with what has come since."""
        self.cleaner = 0
        self.clean()

    def clean(self) -> None:
        """Let another process empty the trash, unless one is at it."""
        trash = f"{self._directory}/trash"
        full = f"{trash}.{os.getpid()}"  # one directory, since there may be more names than a command line can hold
        with suppress(OSError):  # what can't be removed now is there the next time
            names = os.listdir(trash) if not self.cleaner else []
            if names:
                os.makedirs(full, exist_ok=True)
                for name in names:
                    os.rename(f"{trash}/{name}", f"{full}/{name}")
                self.cleaner = os.posix_spawn("/bin/sh", ["sh", "-c", _REMOVE, "sh", full], os.environ, setsigmask=())


def _empty(path: str) -> None:
    """Remove the files of a directory if they are few and small and nothing else is there.

    A script may have put a link in its place: what that leads to is not touched.
    """
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.scandir(directory) as entries:
            files = list(itertools.islice(entries, _FEW + 1))
        if len(files) <= _FEW and all(map(_is_small, files)):
            for file in files:
                os.unlink(file.name, dir_fd=directory)
    finally:
        os.close(directory)


def _is_small(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return not entry.is_dir(follow_symlinks=False) and (status.st_size < _SMALL_BYTES or status.st_nlink > 1)
