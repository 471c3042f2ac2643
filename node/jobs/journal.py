"""A file of small records `length u32 | CRC32C u32 | msgpack array`, each of them whole or not there at all."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgpack

from broker import logs
from node.errors import Corrupt, StorageError
from node.storage.disk.files import guarded, read_at, sync_directory, write_at
from node.storage.log.records import crc32c

log = logs.get(__name__)

_HEAD = struct.Struct("<II")
_MAX_RECORD = 1 << 28  # bytes


class Place(NamedTuple):
    """Where a record is."""

    offset: int
    length: int


Fields = list[Any]  # of a record
Replay = Callable[[Fields, Place], None]


class Journal:
    """The file. Used on one thread."""

    def __init__(self, path: Path, replay: Replay) -> None:
        """Open or make the file, cut off a torn tail, call `replay` with each record; raises `StorageError`."""
        self._path = path
        self.size = 0
        with guarded(f"{path.name} can't be opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._load(replay)
            os.fsync(self._fd)
            sync_directory(path.parent)
        self._durable = self.size

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def append(self, records: Sequence[bytes]) -> list[Place]:
        """Write records that `pack` made, not durably; raises `StorageError`: then none of them is there."""
        before = self.size
        try:
            with guarded(f"{self._path.name} can't be written"):
                write_at(self._fd, b"".join(records), before)
        except StorageError:
            self.cut(before)
            raise
        places = []
        for record in records:
            places.append(Place(self.size, len(record)))
            self.size += len(record)
        return places

    def sync(self) -> None:
        """Make durable what was written; raises `StorageError`."""
        if self._durable < self.size:
            with guarded(f"{self._path.name} can't be made durable"):
                os.fdatasync(self._fd)
            self._durable = self.size

    def cut(self, size: int) -> None:
        """Take back what was written from this size on."""
        self.size = size
        with suppress(OSError):  # the next record is written over it
            os.ftruncate(self._fd, size)

    def read(self, place: Place) -> Fields:
        """The fields of a record; raises `StorageError`."""
        fields = unpack(self._raw(place))
        if fields is None:
            raise Corrupt(f"{self._path.name} is damaged at byte {place.offset}")
        return fields

    def rewrite(self, records: Iterable[bytes | Place]) -> list[Place]:
        """Replace all records durably by new ones and those at places; raises `StorageError`: then nothing changes."""
        new = self._path.with_suffix(".new")
        places = []
        size = 0
        with guarded(f"{self._path.name} can't be rewritten"):
            with new.open("wb") as file:
                for record in records:
                    raw = record if isinstance(record, bytes) else self._raw(record)
                    places.append(Place(size, len(raw)))
                    size += file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            fd = os.open(new, os.O_RDWR | os.O_CLOEXEC)
            try:
                new.rename(self._path)
            except OSError:
                os.close(fd)
                raise
        os.close(self._fd)
        self._fd = fd
        self.size = self._durable = size
        try:
            sync_directory(self._path.parent)
        except OSError as error:
            # After a power cut the old file may be there: it has the same records, and more that are not needed.
            log.error("directory can't be made durable", file=self._path.name, reason=error.strerror)
        return places

    def _raw(self, place: Place) -> bytes:
        with guarded(f"{self._path.name} can't be read"):
            return read_at(self._fd, place.length, place.offset)

    def _load(self, replay: Replay) -> None:
        length = os.fstat(self._fd).st_size
        with open(self._fd, "rb", closefd=False) as file:
            while record := _next(file):
                fields = unpack(record)
                if fields is None:
                    break
                try:
                    replay(fields, Place(self.size, len(record)))
                except (TypeError, ValueError, LookupError) as error:
                    log.error("record can't be used", file=self._path.name, offset=self.size, error=error)
                self.size += len(record)
        if self.size < length:
            log.warning("torn tail cut off", file=self._path.name, bytes=length - self.size)
            os.ftruncate(self._fd, self.size)


def pack(*fields: object) -> bytes:
    """A record of these fields."""
    payload: bytes = msgpack.packb(fields)
    return _HEAD.pack(len(payload), crc32c(payload)) + payload


def unpack(record: bytes) -> Fields | None:
    """The fields of a record, None when it is damaged."""
    if len(record) <= _HEAD.size:
        return None
    length, crc = _HEAD.unpack_from(record)
    payload = record[_HEAD.size :]
    if len(payload) != length or crc32c(payload) != crc:
        return None
    fields: Fields = msgpack.unpackb(payload)
    return fields


def _next(file: BinaryIO) -> bytes:
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return b""
    length, _ = _HEAD.unpack(head)
    return head + file.read(length) if 0 < length <= _MAX_RECORD else b""
