"""Commands turned into what is to be written, and into their results. Used by `node.storage.storage`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.clock import now_ms
from broker.messages.store import Delete, Kind, Result, Status, Store
from node.errors import StorageError
from node.storage import value_files
from node.storage.context import StorageContext
from node.storage.disk.files import guarded, read_at, remove, sync_directory
from node.storage.index.rows import Entry
from node.storage.index.update import IndexUpdate
from node.storage.log import records
from node.storage.log.records import Header
from node.storage.staging import Staging

log = logs.get(__name__)

_MAX_KEY = 511  # bytes of an encoded key, what LMDB takes
_MAX_NUMBER = 1 << 63
_MAX_TEXT = 768  # characters of content type and digest; with the key they fit in a record's header


class Refusal(NamedTuple):
    """What commands get that would have to write something."""

    status: Status
    reason: str


class WriteBatch:
    """Plans commands one after the other; nothing counts before the caller has written `data` and committed."""

    def __init__(
        self, core: StorageContext, changes: IndexUpdate, stores: Refusal | None, deletes: Refusal | None
    ) -> None:
        """`stores` and `deletes` say why nothing of the kind is written, None when it is."""
        self.changes = changes
        self.results: list[Result] = []
        self._places = core.places
        self._active = core.active
        self._space = core.space
        self._small = core.limits.small
        self._cached = core.limits.cached
        self._stores = stores
        self._deletes = deletes
        self._now = now_ms()
        self._records: list[bytes] = []
        self._offset = core.active.size
        self._adopted: dict[str, bool] = {}  # staged uploads that become value files → whether made here
        self._renamed: list[str] = []
        self._used: list[str] = []  # staged uploads that are of no use once this is committed

    def data(self) -> bytes:
        """The records, to be appended to the active segment."""
        return b"".join(self._records)

    def plan(self, command: Store | Delete) -> None:
        """Take in a command. Raises `StorageError` when the disk refuses."""
        flaw = _flaw(command)
        if flaw:
            self._result(command, Status.FAILED, flaw)
        elif isinstance(command, Delete):
            self._delete(command)
        else:
            self._store(command)

    def _delete(self, command: Delete) -> None:
        old = self.changes.entry(command.key)
        if old is not None and old.version > command.version:
            self._result(command, Status.STALE)
        elif old is not None and old.version == command.version and old.kind == Kind.DELETE:
            self._result(command, Status.DONE, seq=old.seq)
        elif self._deletes:
            self._result(command, *self._deletes)
        else:
            seq = self.changes.seq + 1
            self._append(Header(Kind.DELETE, command.key, command.version, seq, self._now, 0, "", b"", 0, ""), b"")
            self._result(command, Status.DONE, seq=seq)

    def _store(self, command: Store) -> None:
        old = self.changes.entry(command.key)
        if old is not None and old.version >= command.version:
            if old.version > command.version or old.kind == Kind.DELETE:
                self._result(command, Status.STALE)
            else:
                self._result(command, Status.DONE, seq=old.seq, value=command.value)
            if command.staged and command.staged != old.token:
                self._used.append(command.staged)
            return
        value = command.value
        if self._stores:
            self._result(command, *self._stores)
            return
        needed = 0 if value is None else len(value)
        if self._space.short(self._offset - self._active.size + needed):
            self._result(command, Status.FULL, f"{self._space.free()} bytes are free on the disk")
            return
        token = ""
        if value is None:
            try:
                value, token = self._staged(command)
            except FileNotFoundError:
                self._result(command, Status.MISSING, f"there is no upload {command.staged}")
                return
            except ValueError as error:
                self._result(command, Status.FAILED, str(error))
                return
        elif len(value) > self._small:
            token = self._write_file(value)
        seq = self.changes.seq + 1
        header = Header(
            Kind.PUT,
            command.key,
            command.version,
            seq,
            command.created,
            command.expires,
            command.content_type,
            command.digest,
            command.size,
            token,
        )
        if token:
            self._own(token, header)
        self._append(header, b"" if token or value is None else value)
        self._result(command, Status.DONE, seq=seq, value=value)

    def _append(self, header: Header, value: bytes) -> None:
        changes, active = self.changes, self._active
        record = records.encode(header, value, active.base, self._offset)
        self._records.append(record)
        entry = Entry(
            active.number,
            self._offset,
            len(record),
            header.seq,
            header.version,
            header.expires,
            header.size,
            header.kind,
            False,
            header.where,
        )
        self._offset += len(record)
        changes.add(header.key, entry, header.created)
        changes.extend(active.number, self._offset, header.seq)

    def _staged(self, command: Store) -> tuple[bytes | None, str]:
        """The value of an upload and "", or None and its token when it is to become a value file."""
        if not value_files.is_token(command.staged) or command.staged in self._adopted:
            raise FileNotFoundError
        fd = self._open(command.staged)
        try:
            size = os.fstat(fd).st_size
            if size != value_files.file_bytes(command.size):
                raise ValueError(f"upload {command.staged} is no value of {command.size} bytes")
            if command.size > self._small:
                self._adopted[command.staged] = False
                return None, command.staged
            with guarded("an upload can't be read"):
                value = read_at(fd, command.size, value_files.HEAD_BYTES)
        finally:
            os.close(fd)
        self._used.append(command.staged)
        return value, ""

    def _open(self, token: str) -> int:
        try:
            return os.open(self._places.staging / token, os.O_RDWR)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StorageError(f"an upload can't be opened: {error}") from error

    def _write_file(self, value: bytes) -> str:
        with Staging(self._places.root).create() as upload:
            upload.write(value)
            upload.finish()
        self._adopted[upload.token] = True
        return upload.token

    def _own(self, token: str, header: Header) -> None:
        """Say in the file whose value it is."""
        with guarded("the head of a value file can't be written"):
            fd = self._open(token)
            try:
                value_files.write_head(fd, token, header)
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def _result(
        self, command: Store | Delete, status: Status, reason: str = "", seq: int = 0, value: bytes | None = None
    ) -> None:
        if isinstance(command, Delete):
            result = Result(
                command.ticket, status, reason, seq, Kind.DELETE, command.key, command.version, 0, 0, "", b"", 0, None
            )
        else:
            if command.size > self._cached:
                value = None
            result = Result(
                command.ticket,
                status,
                reason,
                seq,
                Kind.PUT,
                command.key,
                command.version,
                command.created,
                command.expires,
                command.content_type,
                command.digest,
                command.size,
                value,
            )
        self.results.append(result)

    # Writing.

    def adopt(self) -> None:
        """Move the uploads that become value files to their places, durably."""
        if not self._adopted:
            return
        with guarded("an upload can't be taken over"):
            for token in self._adopted:
                os.rename(self._places.staging / token, value_files.path(self._places.values, token))
                self._renamed.append(token)
            for folder in {value_files.path(self._places.values, token).parent for token in self._renamed}:
                sync_directory(folder)
            sync_directory(self._places.staging)

    def take_back(self) -> None:
        """Undo `adopt`: the uploads are where they were."""
        for token, ours in self._adopted.items():
            name = (
                value_files.path(self._places.values, token) if token in self._renamed else self._places.staging / token
            )
            try:
                if ours:
                    remove(name)
                elif token in self._renamed:
                    os.rename(name, self._places.staging / token)
            except OSError as error:
                # Without a record it is removed at the next start.
                log.error("upload can't be given back", token=token, error=error)
        self._renamed.clear()

    def clean_up(self) -> None:
        """After the commit: remove the files that are of no use any more."""
        for token in self.changes.unlinked:
            _unlink(value_files.path(self._places.values, token))
        for token in self._used:
            if value_files.is_token(token):
                _unlink(self._places.staging / token)


def _unlink(path: Path) -> None:
    try:
        remove(path)
    except OSError as error:
        log.error("file can't be removed; the next start will try again", file=path.name, error=error)


def _flaw(command: Store | Delete) -> str:
    """What is wrong with a command; "" for nothing."""
    if not 0 < len(command.key) <= _MAX_KEY:
        return f"the key has {len(command.key)} bytes; {_MAX_KEY} is the limit"
    if not 0 < command.version < _MAX_NUMBER:
        return f"{command.version} is no version"
    if isinstance(command, Store):
        if command.value is not None and len(command.value) != command.size:
            return f"the value has {len(command.value)} bytes, the command says {command.size}"
        times = (command.created, command.expires)
        if not all(isinstance(time, int) and 0 <= time < _MAX_NUMBER for time in times) or command.size < 0:
            return "a time or the size is out of range"
        if len(command.content_type) + len(command.digest) > _MAX_TEXT:
            return f"content type and digest have more than {_MAX_TEXT} bytes"
    return ""
