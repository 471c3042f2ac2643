"""What is noted beside the file of the index: whether it may be opened, and its last checkpoint.

The note has two places, which are written in turns, so that one of them is always whole. Nothing has to be made for it
on a full disk. See `master.index.checkpoints` for what a checkpoint is.
"""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import msgpack

from broker import lmdb_files

NAME = "checkpoint"

_PLACE = struct.Struct(">4sIIQ")  # magic, CRC of the rest, length of the note, number of the note
_CRC_FROM = 8
_MAGIC = b"PZC1"
_PLACE_BYTES = 1 << 20  # the heads take 64 KiB at most, and a name of a node some bytes


class Note(NamedTuple):
    """What is known of the file."""

    boot: str = ""  # of the machine, when it was last used
    clean: bool = False  # closed and flushed
    file: tuple[int, ...] = ()  # which one; none while it is being made
    written: tuple[int, ...] = ()  # its size and time, when it is clean
    at: int = 0  # when the checkpoint was made, in ms since the epoch
    heads: bytes = b""  # the first two pages at the checkpoint; empty: there is no checkpoint
    nodes: tuple[str, ...] = ()  # all that were ever heard of and not forgotten
    unsure: bool = False  # newer commits were lost: the index may lack keys of all those nodes
    restored: bool = False  # the heads are being put in their place


def read(directory: Path) -> Note | None:
    """The newest note; None when there is none. Raises `OSError`."""
    return _newest(directory)[1]


def write(directory: Path, note: Note) -> None:
    """Write a note, durably. Raises `OSError`."""
    number = _newest(directory)[0] + 1
    body = msgpack.packb(note)
    rest = struct.pack(">IQ", len(body), number) + body
    packed = _MAGIC + zlib.crc32(rest).to_bytes(4, "big") + rest
    directory.mkdir(parents=True, exist_ok=True)
    new = not (directory / NAME).exists()
    fd = os.open(directory / NAME, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        at = number % 2 * _PLACE_BYTES
        while packed:
            count = os.pwrite(fd, packed, at)
            packed, at = packed[count:], at + count
        os.fsync(fd)
    finally:
        os.close(fd)
    if new:
        _sync_directory(directory)
        _sync_directory(directory.parent)


def objection(directory: Path, *, same_master: bool = False) -> str:
    """Why the file in a directory must not be opened; "" when it may be opened, or there is none.

    `same_master`: by a process of the master that has looked before. Nobody has put a copy into its place since.
    """
    file = directory / lmdb_files.DATA
    try:
        if not file.exists():
            return ""
        note = read(directory)
        if note is None:
            return ""  # made by a Pulzar that flushes every commit
        if note.restored:
            return "its return to a checkpoint was interrupted"
        if note.clean and note.written == tuple(lmdb_files.written(file)):
            return ""  # also in a copy
        if not note.file:
            return "it was being made"
        if note.file != tuple(lmdb_files.identity(file)) or (not same_master and lmdb_files.touched(file)):
            return "it is a copy"
        if note.clean:
            return ""  # written since by a Pulzar that flushes every commit
        return "" if note.boot == lmdb_files.boot() else "the machine was restarted while it was in use"
    except OSError as error:
        return str(error)


def _newest(directory: Path) -> tuple[int, Note | None]:
    found: tuple[int, Note | None] = (0, None)
    try:
        fd = os.open(directory / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return found
    try:
        for place in range(2):
            number, note = _whole(os.pread(fd, _PLACE_BYTES, place * _PLACE_BYTES))
            if note is not None and number > found[0]:
                found = number, note
    finally:
        os.close(fd)
    return found


def _whole(place: bytes) -> tuple[int, Note | None]:
    """The number of the note in a place, and the note; None when it is torn."""
    if len(place) < _PLACE.size:
        return 0, None
    magic, crc, length, number = _PLACE.unpack_from(place)
    if magic != _MAGIC or zlib.crc32(place[_CRC_FROM : _PLACE.size + length]) != crc:
        return 0, None
    fields = msgpack.unpackb(place[_PLACE.size : _PLACE.size + length], use_list=False)
    return number, Note(*fields[: len(Note._fields)])


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
