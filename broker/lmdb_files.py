"""Opens LMDB files. Their maps take address space, and a process may have little of it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import lmdb

from broker.errors import NoAddressSpace

# Format 1: every version of LMDB reads it, Debian's `mdb_stat` too. Without this, the variable
# `LMDB_DEFAULT_LIB_VERSION` of one process would decide what all others find.
_LIBRARY = 0


def open_map(directory: Path, size: int, **options: Any) -> lmdb.Environment:
    """The LMDB environment in a directory, with a map of `size` bytes; `options` are those of `lmdb.open`.

    Raises `NoAddressSpace` when this process can't have such a map, `lmdb.Error` and `OSError`.
    """
    try:
        try:
            return lmdb.open(str(directory), map_size=size, lib_version=_LIBRARY, **options)
        except lmdb.InvalidError:  # the file has the other format, or is damaged: opened so, it says which
            return lmdb.open(str(directory), map_size=size, **options)
    except lmdb.MemoryError as error:
        raise NoAddressSpace(_needs(size)) from error


def check_room(size: int) -> None:
    """Raises `NoAddressSpace` when this process can't map `size` bytes more.

    To be called before a map grows: LMDB closes an environment when there is no room for its map.
    """
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=0).close()
    except OSError as error:
        raise NoAddressSpace(_needs(size)) from error


def _needs(size: int) -> str:
    return f"{size:,} bytes of address space are needed, and this process can't have them (see ulimit -v, LimitAS=)"
