"""`python -m node.backup_values`: values in files of a backup, compared with what this node's index says of them.

The backup engine starts it when it verifies, and hands it files that it has read back. Each line on standard input is
JSON, `[path in the snapshot, file]`. Each line on standard output is `{"values": how many, "faults": [in words]}`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from broker import keys, process
from broker.errors import InvalidKey
from broker.messages.store import Kind
from node.errors import Corrupt, StorageError
from node.storage import value_files
from node.storage.disk.files import read_at
from node.storage.log import records, segments
from node.storage.log.records import Header
from node.storage.reader import Reader


class Values:
    """Compares the values of segments and value files."""

    def __init__(self, data: Path) -> None:
        """`data` is the data directory of the node, which may run."""
        self._reader = Reader(data)

    def check(self, path: str, file: Path) -> tuple[int, list[str]]:
        """How many values a file has, and what is wrong with them; `path` is its place in the snapshot.

        Raises `OSError`.
        """
        folder, _, name = path.partition("/")
        if folder == "log":
            found = _segment(file)
        elif folder == "values":
            found = _value_file(file, name.rpartition("/")[2])
        else:
            return 0, []
        count = 0
        faults = []
        for header, digest in found:
            count += 1
            if fault := self._fault(header, digest):
                faults.append(f"{_shown(header.key)}, version {header.version}: {fault}")
        return count, faults

    def close(self) -> None:
        """Close the index."""
        self._reader.close()

    def _fault(self, header: Header, digest: bytes) -> str:
        """What is wrong with a value in the backup; "" when nothing is."""
        if digest != header.digest:
            return "it was damaged before it was backed up" if not digest else "it has another SHA-256 than its record"
        try:
            value = self._reader.get(header.key)
        except StorageError:
            return ""  # the index is not there, or the node's own value is damaged, which its scrub tells
        if value is None:
            return ""  # deleted since
        with_index = (value.version, value.digest, value.size)
        value.close()
        if with_index[0] == header.version and with_index[1:] != (header.digest, header.size):
            return "the node's index has another digest or size"
        return ""


def _segment(file: Path) -> Iterator[tuple[Header, bytes]]:
    """The values in a segment, each with the SHA-256 of its bytes; b"" when they are not what was written."""
    fd = os.open(file, os.O_RDONLY)
    try:
        head = segments.read_head(fd)
        if head is None:
            return  # its digest is right, so it was so on the node, whose scrub tells
        end = os.fstat(fd).st_size
        for piece in segments.scan(fd, records.base(head.uid), segments.HEAD_BYTES, end):
            if piece.header is not None and piece.header.kind == Kind.PUT and not piece.header.where:
                digest = b"" if piece.value is None else hashlib.sha256(piece.value).digest()
                yield piece.header, digest
    finally:
        os.close(fd)


def _value_file(file: Path, token: str) -> Iterator[tuple[Header, bytes]]:
    """The value in a value file, with the SHA-256 of its bytes; b"" when they are not what was written."""
    fd = os.open(file, os.O_RDONLY)
    try:
        parsed = records.parse(read_at(fd, value_files.HEAD_BYTES, 0), 0, records.base(token.encode()), 0)
        if parsed is None:
            return  # an upload that had no head yet
        digest = hashlib.sha256()
        at, end = value_files.HEAD_BYTES, value_files.HEAD_BYTES + parsed.header.size
        while at < end and (data := read_at(fd, min(1 << 20, end - at), at)):
            digest.update(data)
            at += len(data)
        yield parsed.header, digest.digest() if at == end else b""
    finally:
        os.close(fd)


def _shown(key: bytes) -> str:
    try:
        return keys.decode(key)
    except InvalidKey:
        return key.hex()


def main() -> int:
    """Answer each line until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m node.backup_values", description=__doc__)
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="the node's data directory")
    process.die_with_parent()
    values = Values(parser.parse_args().data)
    for line in sys.stdin:
        path, file = json.loads(line)
        try:
            count, faults = values.check(path, Path(file))
        except (OSError, Corrupt) as error:
            count, faults = 0, [f"it can't be read: {error}"]
        print(json.dumps({"values": count, "faults": faults}), flush=True)
    values.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
