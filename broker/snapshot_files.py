"""The two files that describe a snapshot: `SNAPSHOT` says what it is of, `MANIFEST` which files it has.

A snapshot is the folder `snapshots/<time>` in the data directory of a node or of the master. Its name is the time in
UTC, like `20261129T003000Z`, and with `-2` behind it for a second one of the same second.

`MANIFEST` is what `sha256sum -c` reads. A comment before each line has the size, which `sha256sum` passes over:

    # 67108864
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  log/00000001.seg

Neither of the two files is in the manifest. A folder without a complete `MANIFEST` is no snapshot.
"""

from __future__ import annotations

import calendar
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from broker.errors import PulzarError

FOLDER = "snapshots"  # in a data directory
HEAD = "SNAPSHOT"
MANIFEST = "MANIFEST"

_NAME = re.compile(r"(\d{8}T\d{6}Z)(?:-(\d{1,4}))?")
_NAME_FORMAT = "%Y%m%dT%H%M%SZ"
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_SIZE = re.compile(r"# (\d{1,19})")
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*)")
_BUFFER_BYTES = 1 << 20


class BadSnapshot(PulzarError):
    """Raised when a folder is no snapshot, or its description can't be read."""


class SnapshotFile(NamedTuple):
    """A file of a snapshot."""

    path: str  # below the folder, with "/"
    size: int  # bytes
    digest: str  # SHA-256, 64 hexadecimal digits


class SnapshotHead(NamedTuple):
    """What a snapshot is of."""

    kind: str  # "node" or "ledger"
    name: str  # of the node, or "master"
    epochs: list[tuple[int, str]]  # seq and id of the openings that a node's log is made of
    seq: int  # of the newest record
    version: str  # of Pulzar
    time: str  # ISO 8601, UTC
    files: int
    bytes: int


def name_of(at: float, taken: Iterable[str] = ()) -> str:
    """The name of a snapshot made at `at` (seconds since the epoch) that is none of those `taken`."""
    name = first = time.strftime(_NAME_FORMAT, time.gmtime(at))
    number = 1
    while name in set(taken):
        number += 1
        name = f"{first}-{number}"
    return name


def is_name(name: str) -> bool:
    """Whether this may be the name of a snapshot."""
    try:
        time_of(name)
    except BadSnapshot:  # that is the answer
        return False
    return True


def time_of(name: str) -> float:
    """When the snapshot of this name was made, in seconds since the epoch. Raises `BadSnapshot`."""
    match = _NAME.fullmatch(name)
    try:
        parsed = time.strptime(match[1] if match else "", _NAME_FORMAT)
    except ValueError as error:
        raise BadSnapshot(f"{name!r:.80} is no name of a snapshot, like 20261129T003000Z") from error
    return float(calendar.timegm(parsed))


def iso(at: float) -> str:
    """Seconds since the epoch as `SnapshotHead.time` has them."""
    return time.strftime(_TIME_FORMAT, time.gmtime(at))


def write(directory: Path, head: SnapshotHead, files: Iterable[SnapshotFile], *, durable: bool = True) -> SnapshotHead:
    """Write both files into a snapshot's folder, the manifest last; returns the head with figures.

    `files` and `bytes` of the head are counted here. Raises `OSError`, and `BadSnapshot` for a path that a manifest
    can't have.
    """
    partial = directory / f"{MANIFEST}.partial"
    count = size = 0
    with partial.open("w", encoding="ascii", buffering=_BUFFER_BYTES) as file:
        for one in files:
            line = f"{one.digest}  {one.path}"
            if not _is_line(line):
                raise BadSnapshot(f"{one.path!r:.200} can't stand in a manifest")
            file.write(f"# {one.size}\n{line}\n")
            count += 1
            size += one.size
        _flush(file, durable)
    head = head._replace(files=count, bytes=size)
    with (directory / HEAD).open("w", encoding="utf-8") as file:
        json.dump(head._asdict(), file)
        file.write("\n")
        _flush(file, durable)
    partial.rename(directory / MANIFEST)
    return head


def read_head(directory: Path) -> SnapshotHead:
    """What a snapshot is of. Raises `BadSnapshot`."""
    try:
        text = (directory / HEAD).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadSnapshot(f"{directory / HEAD} can't be read: {error}") from error
    return parse_head(text, str(directory / HEAD))


def parse_head(text: str, where: str) -> SnapshotHead:
    """What a snapshot is of, from the text of its file; `where` says whence that is. Raises `BadSnapshot`."""
    try:
        fields = json.loads(text)
        epochs = [(int(seq), str(epoch)) for seq, epoch in fields["epochs"]]
        kind, name, version, made = (str(fields[field]) for field in ("kind", "name", "version", "time"))
        seq, files, size = (int(fields[field]) for field in ("seq", "files", "bytes"))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadSnapshot(f"{where} does not describe a snapshot: {error}") from error
    return SnapshotHead(kind, name, epochs, seq, version, made, files, size)


def read_manifest(directory: Path) -> Iterator[SnapshotFile]:
    """The files of a snapshot, one after the other. Raises `BadSnapshot`, also when it ends too early."""
    path = directory / MANIFEST
    count = 0
    try:
        with path.open(encoding="ascii", buffering=_BUFFER_BYTES) as file:
            for one in parse_manifest(file, str(path)):
                count += 1
                yield one
    except (OSError, ValueError) as error:
        raise BadSnapshot(f"{path} can't be read: {error}") from error
    if count != (expected := read_head(directory).files):
        raise BadSnapshot(f"{path} has {count} files, and {HEAD} says {expected}")


def parse_manifest(lines: Iterable[str], where: str) -> Iterator[SnapshotFile]:
    """The files in the lines of a manifest; `where` says whence they are. Raises `BadSnapshot`."""
    size: int | None = None
    for number, line in enumerate(lines, 1):
        if not line.endswith("\n"):
            raise BadSnapshot(f"{where} is cut off in line {number}")
        text = line[:-1]
        if found := _SIZE.fullmatch(text):
            size = int(found[1])
        elif (match := _LINE.fullmatch(text)) and _is_line(text) and size is not None:
            yield SnapshotFile(match[2], size, match[1])
            size = None
        else:
            raise BadSnapshot(f"{where} has no size, digest and path in line {number}: {text!r:.100}")
    if size is not None:
        raise BadSnapshot(f"{where} is cut off at its end")


def _is_line(text: str) -> bool:
    match = _LINE.fullmatch(text)
    return match is not None and not {".", ".."} & set(match[2].split("/"))


def _flush(file: TextIO, durable: bool) -> None:
    file.flush()
    if durable:
        os.fsync(file.fileno())
