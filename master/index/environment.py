"""LMDB environments of the master, and how their rows are packed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb
import msgpack

from broker import lmdb_files
from broker.errors import NoAddressSpace
from master.errors import IndexUnusable

_MAX_READERS = 2048


def stamped(time_ms: int, version: int) -> bytes:
    """A database key that sorts by time."""
    return struct.pack(">QQ", time_ms, version)


def open_environment(
    directory: Path,
    map_size: int,
    write: bool,
    databases: Sequence[str],
    durable: bool,
    noun: str,
    setting: str,
    advice: str,
) -> tuple[Any, list[Any]]:
    """An LMDB environment and its databases; a writer makes what is missing.

    With `durable` a commit that returned survives a power cut. Raises `IndexUnusable`, which calls the
    environment `noun`, names the setting of its map's size, and says what to do when it is damaged.
    """
    try:
        if write:
            directory.mkdir(parents=True, exist_ok=True)
        env = lmdb_files.open_map(
            directory,
            map_size,
            max_dbs=len(databases),
            max_readers=_MAX_READERS,
            max_spare_txns=256,
            readonly=not write,
            metasync=durable,
            readahead=False,
            create=write,
        )
        return env, [env.open_db(name.encode(), create=write) for name in databases]
    except NoAddressSpace as error:
        raise IndexUnusable(
            f"the {noun} in {directory} can't be opened: {error}. Give {setting} less than {map_size:,}, or raise that limit"
        ) from error
    except (lmdb.Error, OSError) as error:
        raise IndexUnusable(
            f"the {noun} in {directory} can't be opened: {error}. If it is damaged, stop the master and {advice}"
        ) from error


def pack(value: Any) -> bytes:
    """A tuple of the index as bytes."""
    packed: bytes = msgpack.packb(value)
    return packed
