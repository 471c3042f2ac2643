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
_REMOVE = 'rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwx -- "$1"; rm -rf -- "$1"; }'


def prepare(directory: Path) -> str:
    """Move what earlier runs left to the trash; a text that only this directory has. Raises `OSError`."""
    for name in ("scratch", "trash"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    mark = directory / _MARK
    if not mark.exists():
        mark.write_text(secrets.token_hex(16))
    ours = [directory / name for name in ("scratch", "trash", PATH, _MARK, CACHE)]
    for left in [*directory.iterdir(), *ours[0].iterdir()]:
        if left not in ours:
            left.rename(directory / "trash" / f"{left.name}.{secrets.token_hex(4)}")
    surroundings.prepare(directory / PATH)
    status = mark.stat()
    return f"{mark.read_text()} {mark.resolve()} {status.st_dev} {status.st_ino}"


def keep_cache(directory: Path, limit: int) -> None:
    """Keep the caches of libraries, unless they have grown to more than `limit` bytes; raises `OSError`."""
    cache = directory / CACHE
    size = 0
    for folder, _, files in os.walk(cache):
        for file in files:
            with suppress(OSError):  # gone meanwhile
                size += os.lstat(os.path.join(folder, file)).st_size
    if size > limit or (cache.exists() and not limit):
        cache.rename(directory / "trash" / f"{CACHE}.{secrets.token_hex(4)}")
    if limit:
        cache.mkdir(mode=0o700, exist_ok=True)


class Scratch:
    """The directory as the zygote uses it."""

    def __init__(self, directory: str, node: str) -> None:
        self._directory = directory
        self._link = f"{_TEMPORARY}/pz{node[:8]}"  # where the directory has a short name, when it needs one
        self._moved = 0
        self.cleaner = 0  # the process that removes things, 0 for none

    def path(self, run: str) -> str:
        """The scratch directory of a run."""
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
    """Remove the files of a directory if they are few and small and nothing else is there."""
    with os.scandir(path) as entries:
        files = list(itertools.islice(entries, _FEW + 1))
    if len(files) <= _FEW and all(map(_is_small, files)):
        for file in files:
            os.unlink(file)


def _is_small(entry: os.DirEntry[str]) -> bool:
    status = entry.stat(follow_symlinks=False)
    return not entry.is_dir(follow_symlinks=False) and (status.st_size < _SMALL_BYTES or status.st_nlink > 1)
