"""The scratch directories of runs: `scratch/<run>`, and `trash`, where those go that take long to remove.

Whoever wrote in them is dead by then, but may have left anything there: millions of files, directories that can't
be read, links to elsewhere. So a large one is only moved, and removed by another process.
"""

from __future__ import annotations

import itertools
import os
import secrets
from contextlib import suppress
from pathlib import Path

_FEW = 16  # files that are removed at once
_SMALL_BYTES = 1 << 20
_MARK = "mark"
_REMOVE = 'rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwx -- "$1"; rm -rf -- "$1"; }'


def prepare(directory: Path) -> str:
    """Make the directory ready for a zygote, and move what earlier runs left into the trash; raises `OSError`.

    The answer tells whose it is: a text that belongs to this very directory, and to no copy of it.
    """
    for name in ("scratch", "trash"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    mark = directory / _MARK
    if not mark.exists():
        mark.write_text(secrets.token_hex(16))
    kept = [directory / name for name in ("scratch", "trash", _MARK)]
    for left in [*directory.iterdir(), *kept[0].iterdir()]:
        if left not in kept:
            left.rename(directory / "trash" / f"{left.name}.{secrets.token_hex(4)}")
    status = mark.stat()
    return f"{mark.read_text()} {mark.resolve()} {status.st_dev} {status.st_ino}"


class Scratch:
    """The directory as the zygote uses it."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._moved = 0
        self.cleaner = 0  # the process that removes things, 0 for none

    def path(self, run: str) -> str:
        """The scratch directory of a run."""
        return f"{self._directory}/scratch/{run}"

    def remove(self, path: str) -> str:
        """Have a scratch directory gone; "" or why it can't be."""
        try:
            _empty(path)
            os.rmdir(path)
        except FileNotFoundError:
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
        """The process that removed things has ended."""
        self.cleaner = 0
        self.clean()

    def clean(self) -> None:
        """Have another process remove what is in the trash, unless one is at it."""
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
    """Remove the files of a directory, when they are few and small and nothing else is there."""
    with os.scandir(path) as entries:
        files = list(itertools.islice(entries, _FEW + 1))
    if len(files) <= _FEW and all(map(_is_small, files)):
        for file in files:
            os.unlink(file)


def _is_small(entry: os.DirEntry[str]) -> bool:
    return not entry.is_dir(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size < _SMALL_BYTES
