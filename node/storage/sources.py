"""Sources: values of this node that become values of other keys or versions, without coming over the network again.

A small value is read and written once more. A value file gets another name: a hard link with a token of its own.
"""

from __future__ import annotations

import errno
import os
import secrets
from typing import NamedTuple

from broker.messages.store import Kind, Store
from node.errors import Corrupt
from node.storage import value_files
from node.storage.disk.files import guarded, read_at, storage_error
from node.storage.disk.layout import Layout
from node.storage.index.rows import Entry
from node.storage.log import records
from node.storage.log.records import Header
from node.storage.log.segments import SegmentFile
from node.storage.staging import Staging
from node.storage.value_files import BLOCK_BYTES, ValueFile

_NO_LINKS = {errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV}
_CHUNK_BYTES = 8 * BLOCK_BYTES


class Copy(NamedTuple):
    """The bytes of a source: a value, or a file in `staging/`."""

    value: bytes | None
    token: str = ""
    linked: bool = False  # the file is a hard link, whose head must stay as it is


def read_record(places: Layout, key: bytes, entry: Entry) -> tuple[Header, bytes]:
    """The record of an entry, header and value, checked. No segment may be exchanged meanwhile.

    Raises `Corrupt`, `StorageError`.
    """
    where = f"the record of version {entry.version} in segment {entry.segment}"
    try:
        segment = SegmentFile(places.log, entry.segment)
        with guarded(f"{where} can't be read"):
            record = read_at(segment.fd, entry.length, entry.offset)
    except FileNotFoundError as error:
        raise Corrupt(f"{where} is missing") from error
    head = records.parse(record, 0, segment.base, entry.offset)
    value = head.value(record) if head else None
    if head is None or value is None or (head.header.key, head.header.seq) != (key, entry.seq):
        raise Corrupt(f"{where} is damaged")
    return head.header, value


def copy(places: Layout, key: bytes, entry: Entry, command: Store, *, link: bool) -> Copy:
    """The bytes of a readable entry of `key`, for the value that `command` stores. A file is linked, or copied.

    Raises `Corrupt` when they are damaged or not what the command says, `DiskFull`, `StorageError`.
    """
    header, value = read_record(places, key, entry)
    if (header.kind, header.size, header.digest) != (Kind.PUT, command.size, command.digest):
        raise Corrupt("the source has another size or digest than the command says")
    if not entry.token:
        return Copy(value)
    try:
        file = ValueFile(places.values, entry.token)
    except FileNotFoundError as error:
        raise Corrupt(f"value file {entry.token} is missing") from error
    except OSError as error:
        raise storage_error(f"value file {entry.token} can't be opened", error) from error
    try:
        if (file.size, file.header.digest) != (header.size, header.digest):
            raise Corrupt(f"value file {entry.token} says it is another value")
        token = _link(places, entry.token) if link else ""
        return Copy(None, token, linked=True) if token else Copy(None, _copy(places, file))
    finally:
        file.close()


def _link(places: Layout, source: str) -> str:
    """The token of a new link in `staging/`; "" when the filesystem makes none."""
    token = secrets.token_hex(16)
    try:
        os.link(value_files.path(places.values, source), places.staging / token)
    except OSError as error:
        if error.errno in _NO_LINKS:
            return ""
        raise storage_error(f"value file {source} can't be linked", error) from error
    return token


def _copy(places: Layout, file: ValueFile) -> str:
    """The token of an upload with the same bytes, each checked."""
    with Staging(places.root).create() as upload:
        for offset in range(0, file.size, _CHUNK_BYTES):
            upload.write(file.pread(_CHUNK_BYTES, offset))
        staged = upload.finish()
        if staged.sha256 != file.header.digest:
            upload.abort()
            raise Corrupt(f"value file {file.token} has another digest")
    return staged.token
