"""What lies beneath each folder: rows of the table `folders` of the index, and how they are counted.

A folder is the part of a key up to one of its slashes, `a/` and `a/b/` for `a/b/name`; the empty one holds every key.
The key of its row is a slash and its name, since LMDB takes no empty keys.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from broker import keys

_HALF = 64
_LOWER = (1 << _HALF) - 1
_PADDING = b"=="  # more than enough is no error

# Keys, the upper and lower half of the bytes, and in the row of the empty folder a number.
_ROW = struct.Struct(">QQQQ")
ROOT = b"/"


class Usage(NamedTuple):
    """How many keys lie beneath a folder, and how many bytes their values have together."""

    keys: int = 0
    size: int = 0  # bytes

    @classmethod
    def read(cls, row: bytes | None) -> Usage:
        """What a row says; None is nothing at all."""
        if row is None:
            return NOTHING
        count, upper, lower, _ = _ROW.unpack(row)
        return cls(count, upper << _HALF | lower)


NOTHING = Usage()


def row(count: int, size: int, number: int = 0) -> bytes:
    """The row of a folder with so many keys and bytes."""
    return _ROW.pack(count, size >> _HALF, size & _LOWER, number)


def number_of(row: bytes | None) -> int:
    """The number in the row of the empty folder; -1 without one."""
    return -1 if row is None else _ROW.unpack(row)[3]


def sums(row: bytes | None, count: int, size: int) -> tuple[int, int]:
    """The keys and bytes of a folder when they have changed by so many since its row was written."""
    if row is None:
        return count, size
    before, upper, lower, _ = _ROW.unpack(row)
    return before + count, (upper << _HALF | lower) + size


def folder_of(key: bytes) -> bytes:
    """The folder of an encoded key, with its last slash; empty for a key without folders."""
    name = binascii.a2b_base64(key.translate(keys.TO_STANDARD) + _PADDING)
    return name[: name.rfind(b"/") + 1]


def row_key(folder: bytes) -> bytes:
    """The key of a folder's row."""
    return ROOT + folder


def upwards(folder: bytes) -> Iterator[bytes]:
    """The folder and all those around it, the empty one last."""
    while folder:
        yield folder
        folder = folder[: folder.rfind(b"/", 0, -1) + 1]
    yield b""


@lru_cache(maxsize=4096)
def _rows(folder: bytes) -> tuple[bytes, ...]:
    return tuple(map(row_key, upwards(folder)))


class Changes:
    """By how much keys and bytes of folders change in one transaction."""

    __slots__ = ("_folders",)

    def __init__(self) -> None:
        self._folders: dict[bytes, list[int]] = {}  # keys and bytes by the folder that they lie in directly

    def add(self, key: bytes, count: int, size: int) -> None:
        """Note that an encoded key came (1), went (-1) or stayed (0), and by how many bytes its size changed."""
        folder = folder_of(key)
        change = self._folders.get(folder)
        if change is None:
            self._folders[folder] = [count, size]
        else:
            change[0] += count
            change[1] += size

    def take(self) -> dict[bytes, list[int]]:
        """Keys and bytes of each folder by the key of its row, those around it included, since this was last called.

        The empty folder is always there.
        """
        direct, self._folders = self._folders, {}
        found: dict[bytes, list[int]] = {ROOT: [0, 0]}
        for folder, (count, size) in direct.items():
            for each in _rows(folder):
                change = found.get(each)
                if change is None:
                    found[each] = [count, size]
                else:
                    change[0] += count
                    change[1] += size
        return found


def counted(entries: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, Usage]]:
    """Every folder of a whole index and what lies beneath it, from encoded keys and sizes in key order.

    The keys of a folder lie side by side, so only those around the current one are in memory.
    """
    names, counts = [b""], [[0, 0]]
    for key, size in entries:
        folder = folder_of(key)
        while not folder.startswith(names[-1]):
            yield _ended(names, counts)
        if folder != names[-1]:
            missing = [name for name in upwards(folder) if len(name) > len(names[-1])]
            names += reversed(missing)
            counts += ([0, 0] for _ in missing)
        counts[-1][0] += 1
        counts[-1][1] += size
    while names:
        yield _ended(names, counts)


def _ended(names: list[bytes], counts: list[list[int]]) -> tuple[bytes, Usage]:
    """The innermost folder, of which there are no more keys; the one around it has them, too."""
    name, (count, size) = names.pop(), counts.pop()
    if counts:
        counts[-1][0] += count
        counts[-1][1] += size
    return name, Usage(count, size)
