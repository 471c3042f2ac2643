"""Value files: one immutable file for each larger value, `values/ab/<token>`. A token is never used again.

    head 4096 | the bytes | CRC32C of every block of 128 KiB of them, u32 each

The head is a record (`node.storage.log.records`) without its value. It is written when the upload becomes a value file;
the bytes are there already. The CRCs check every read, also of a small range. The scrub compares the SHA-256 in the
head. An upload in `staging/` has the same layout.

A copy of a value on the same node is a hard link with a token of its own. Its head is that of the first: the token in
it shows that. Then only the record in the log says whose value the link is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from node.errors import Corrupt
from node.storage.disk.files import guarded, read_at, write_at
from node.storage.log import records
from node.storage.log.records import Header

HEAD_BYTES = 4096
BLOCK_BYTES = 128 * 1024
_TOKEN = re.compile(r"[0-9a-f]{32}")


def is_token(token: str) -> bool:
    """Whether this may be the name of a value file: commands come from outside."""
    return _TOKEN.fullmatch(token) is not None


def path(directory: Path, token: str) -> Path:
    """The path of the value file `token`."""
    return directory / token[:2] / token


def tokens(directory: Path) -> set[str]:
    """The tokens of all value files."""
    with guarded("the values' directory can't be read"):
        return {
            name
            for folder in os.scandir(directory)
            if folder.is_dir()
            for name in os.listdir(folder.path)
            if is_token(name) and name[:2] == folder.name
        }


def make_folders(directory: Path) -> None:
    """Make the 256 folders."""
    for number in range(256):
        (directory / f"{number:02x}").mkdir(exist_ok=True)


def file_bytes(size: int) -> int:
    """The length of the file for a value of `size` bytes."""
    return HEAD_BYTES + size + 4 * -(-size // BLOCK_BYTES)


def write_head(fd: int, token: str, header: Header) -> None:
    """Write the head of a value file. Raises `ValueError` when the header is too long, `OSError`."""
    record = records.encode(header, b"", records.base(token.encode()), 0)
    write_at(fd, record.ljust(HEAD_BYTES, b"\0"), 0)


class Sums:
    """The CRCs of the blocks of a value that comes in chunks of any size."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._crc = 0
        self._filled = 0

    def update(self, chunk: bytes) -> None:
        """Take in the next bytes."""
        at = 0
        while at < len(chunk):
            part = chunk[at : at + BLOCK_BYTES - self._filled]
            self._crc = records.crc32c_extend(self._crc, part)
            self._filled += len(part)
            at += len(part)
            if self._filled == BLOCK_BYTES:
                self._end_block()

    def table(self) -> bytes:
        """The CRCs as they stand in the file. No chunk can follow."""
        if self._filled:
            self._end_block()
        return bytes(self._done)

    def _end_block(self) -> None:
        self._done += self._crc.to_bytes(4, "little")
        self._crc = self._filled = 0


class ValueFile:
    """An open value file. It is closed by `close`, or when nobody holds this object any more."""

    __slots__ = ("_fd", "header", "linked", "size", "token")

    def __init__(self, directory: Path, token: str) -> None:
        """Raises `FileNotFoundError` when there is none, `Corrupt` when its head or length is wrong, `OSError`."""
        self._fd = -1
        self.token = token
        self._fd = os.open(path(directory, token), os.O_RDONLY)
        header = records.parse_file_head(read_at(self._fd, HEAD_BYTES, 0))
        if header is None:
            raise Corrupt(f"value file {token} has a bad head")
        self.header = header
        self.linked = header.where != token  # the header tells bytes, size and digest, but not whose they are
        self.size = header.size
        if os.fstat(self._fd).st_size != file_bytes(self.size):
            raise Corrupt(f"value file {token} has not the length it should have")

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes of the value from `offset` on, checked. Whole blocks are cheapest.

        Raises `Corrupt` when they are not what was written.
        """
        end = min(offset + length, self.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        start, stop = first * BLOCK_BYTES, min((last + 1) * BLOCK_BYTES, self.size)
        try:
            data = read_at(self._fd, stop - start, HEAD_BYTES + start)
            sums = read_at(self._fd, 4 * (last + 1 - first), HEAD_BYTES + self.size + 4 * first)
        except OSError as error:
            raise Corrupt(f"value file {self.token} can't be read: {error}") from error
        if len(data) != stop - start or len(sums) != 4 * (last + 1 - first):
            raise Corrupt(f"value file {self.token} is shorter than it was")
        for number in range(last + 1 - first):
            block = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
            if records.crc32c(block) != int.from_bytes(sums[4 * number : 4 * number + 4], "little"):
                raise Corrupt(f"value file {self.token} has a bad block at byte {(first + number) * BLOCK_BYTES}")
        return data if (start, stop) == (offset, end) else data[offset - start : end - start]

    def close(self) -> None:
        """Close the file; the second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()
