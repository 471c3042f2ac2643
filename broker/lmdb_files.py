"""Opens LMDB files, for master and node alike. Their maps take address space, which a process may have little of."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import lmdb

from broker.errors import NoAddressSpace

# Format 1, which every version of LMDB reads, Debian's `mdb_stat` too. Without it `LMDB_DEFAULT_LIB_VERSION` in the
# environment of one process would decide what all others find.
_LIBRARY = 0


def open_map(directory: Path, size: int, **options: Any) -> lmdb.Environment:
    """The LMDB environment in a directory, with a map of `size` bytes and further options of `lmdb.open`.

    Raises `NoAddressSpace` when this process can't have such a map, `lmdb.Error` and `OSError`.
    """
    try:
        try:
            return lmdb.open(str(directory), map_size=size, lib_version=_LIBRARY, **options)
        except lmdb.InvalidError:  # of the other format, or damaged: the file itself says which
            return lmdb.open(str(directory), map_size=size, **options)
    except lmdb.MemoryError as error:
        raise NoAddressSpace(_needs(size)) from error


def check_room(size: int) -> None:
    """Raises `NoAddressSpace` when this process can't map `size` bytes more.

    To be called before a map grows: LMDB closes an environment whose map can't be had.
    """
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE, prot=0).close()
    except OSError as error:
        raise NoAddressSpace(_needs(size)) from error


def _needs(size: int) -> str:
    return f"{size:,} bytes of address space are needed, and this process can't have them (see ulimit -v, LimitAS=)"
