"""Turns commands into records, entries of the index, and results; then writes them. Used by `Storage`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from broker import logs
from broker.clock import now_ms
from broker.messages.store import DROP, PURGE, Command, Delete, Drop, Kind, Result, Source, Status, Store
from node.errors import Corrupt
from node.storage import sources, value_files
from node.storage.context import StorageContext
from node.storage.disk.files import guarded, read_at, remove, sync_directory
from node.storage.index.rows import Entry
from node.storage.index.snapshot import Snapshot
from node.storage.index.update import IndexUpdate
from node.storage.log import records
from node.storage.log.records import Header
from node.storage.staging import Staging

log = logs.get(__name__)

_MAX_KEY = 511  # bytes of an encoded key, what LMDB takes
_MAX_NUMBER = 1 << 63
_MAX_TEXT = 768  # characters of content type and digest; with the key they fit in a record's header


class Refusal(NamedTuple):
    """Why a command is not carried out."""

    status: Status
    reason: str


class Refusals(NamedTuple):
    """Refusals of all commands of a kind that would write something; None: they are carried out."""

    stores: Refusal | None = None
    deletes: Refusal | None = None


class WriteBatch:
    """A group of commands with one write, one flush and one commit: `plan` each, then `write`."""

    def __init__(self, core: StorageContext, view: Snapshot, refusals: Refusals) -> None:
        """`view` is used by `plan` only."""
        self.results: list[Result] = []
        self._core = core
        self._changes = IndexUpdate(view)
        self._places = core.places
        self._active = core.active
        self._space = core.space
        self._cached = core.limits.cached
        self._refusals = refusals
        self._now = now_ms()
        self._records: list[bytes] = []
        self._offset = core.active.size
        self._adopted: dict[str, bool] = {}  # uploads that become value files → whether made here
        self._renamed: list[str] = []
        self._used: list[str] = []  # uploads that nobody needs after the commit
        self._healed: list[tuple[bytes, Entry]] = []  # damaged values that a good copy takes the place of

    def plan(self, command: Command) -> None:
        """Take in a command. Raises `StorageError` when the disk refuses; call `take_back` then."""
        flaw = _flaw(command)
        if flaw:
            self._result(command, Status.FAILED, flaw)
        elif isinstance(command, Delete):
            self._delete(command)
        elif isinstance(command, Drop):
            self._drop(command)
        else:
            self._store(command)

    def _delete(self, command: Delete) -> None:
        old = self._changes.entry(command.key)
        if old is not None and old.version > command.version:
            self._result(command, Status.STALE)
        elif (
            old is not None
            and (old.version, old.kind, old.drops) == (command.version, Kind.DELETE, False)
            and old.purges >= command.purge
        ):
            self._result(command, Status.DONE, seq=old.seq)
        else:
            self._write_tombstone(command, content_type=PURGE if command.purge else "")

    def _drop(self, command: Drop) -> None:
        old = self._changes.entry(command.key)
        if old is None or old.version < command.version:
            self._result(command, Status.DONE)  # it was never here
        elif old.version > command.version or (old.kind == Kind.DELETE and not old.drops):
            self._result(command, Status.STALE)
        elif old.drops:
            self._result(command, Status.DONE, seq=old.seq)
        else:
            # The records before it stay held for as long as with the value.
            self._write_tombstone(command, content_type=DROP, expires=old.since)

    def _write_tombstone(self, command: Delete | Drop, content_type: str, expires: int = 0) -> None:
        if self._refusals.deletes:
            self._result(command, *self._refusals.deletes)
            return
        seq = self._changes.seq + 1
        header = Header.tombstone(command.key, command.version, seq, self._now)
        self._append(header._replace(content_type=content_type, expires=expires), b"")
        self._result(command, Status.DONE, seq=seq)

    def _store(self, command: Store) -> None:
        old = self._changes.entry(command.key)
        heals = old is not None and self._heals(command, old)
        again = old is not None and old.drops and old.version == command.version
        if old is not None and old.version >= command.version and not (heals or again):
            if old.version > command.version or old.kind == Kind.DELETE:
                self._result(command, Status.STALE)
            else:
                self._result(command, Status.DONE, seq=old.seq, value=command.value)
            if command.staged and command.staged != old.token:
                self._used.append(command.staged)
            return
        value = command.value
        if self._refusals.stores:
            self._result(command, *self._refusals.stores)
            return
        needed = 0 if value is None else len(value)
        if self._space.short(self._offset - self._active.size + needed):
            self._result(command, Status.FULL, f"{self._space.free()} bytes are free on the disk")
            return
        token = ""
        linked = False
        if value is None:
            try:
                source = Source.read(command.staged)
                if source is None:
                    value = self._uploaded_value(command)
                    token = command.staged if value is None else ""
                else:
                    value, token, linked = self._copy(command, source, old)
            except FileNotFoundError as error:
                self._result(command, Status.MISSING, str(error))
                return
            except (ValueError, Corrupt) as error:
                self._result(command, Status.FAILED, str(error))
                return
        elif len(value) > self._core.limits.small:
            token = self._write_file(value)
        seq = self._changes.seq + 1
        header = Header.of(command, seq, token)
        if token and not linked:
            self._write_head(token, header)
        self._append(header, b"" if token or value is None else value)
        if old is not None and heals:
            self._healed.append((command.key, old))
        self._result(command, Status.DONE, seq=seq, value=value)

    def _heals(self, command: Store, old: Entry) -> bool:
        """Whether the command brings a good copy of the value `old`, which is damaged."""
        if (old.version, old.kind, old.expired) != (command.version, Kind.PUT, False):
            return False
        if (command.key, old.version) not in self._core.damages or old.seq > self._changes.view.totals.seq:
            return False
        return command.value is None or hashlib.sha256(command.value).digest() == command.digest

    def _append(self, header: Header, value: bytes) -> None:
        changes, active = self._changes, self._active
        record = records.encode(header, value, active.base, self._offset)
        self._records.append(record)
        entry = entry_of(header, active.number, self._offset, len(record))
        self._offset += len(record)
        changes.add(header.key, entry, header.created)
        changes.extend(active.number, self._offset, header.seq)

    def _uploaded_value(self, command: Store) -> bytes | None:
        """The value of a small upload; None when the upload itself becomes the value file.

        Raises `FileNotFoundError` when there is none, `ValueError` when it has another size, `StorageError`.
        """
        if not value_files.is_token(command.staged) or command.staged in self._adopted:
            raise FileNotFoundError(f"there is no upload {command.staged}")
        try:
            fd = self._open(command.staged)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no upload {command.staged}") from error
        try:
            size = os.fstat(fd).st_size
            if size != value_files.file_bytes(command.size):
                raise ValueError(f"upload {command.staged} is no value of {command.size} bytes")
            if command.size > self._core.limits.small:
                self._adopted[command.staged] = False
                return None
            with guarded("an upload can't be read"):
                value = read_at(fd, command.size, value_files.HEAD_BYTES)
        finally:
            os.close(fd)
        self._used.append(command.staged)
        return value

    def _copy(self, command: Store, source: Source, old: Entry | None) -> sources.Copy:
        """The bytes of a version on this node, for a command that writes over `old`.

        Raises `FileNotFoundError` when there is none, `Corrupt`, `DiskFull`, `StorageError`.
        """
        entry = self._changes.find(source.key, source.version)
        if entry is None or 0 < entry.expires <= self._now:
            raise FileNotFoundError(f"version {source.version} of the source is not on this node")
        if entry.seq > self._changes.view.totals.seq:
            raise FileNotFoundError(f"version {source.version} of the source is being written by the same batch")
        # Without held values, a copy of a directory in use finds the newer file of a key by its head, which links lack.
        link = bool(self._core.limits.undelete_ms) or old is None or not old.token
        copy = sources.copy(self._places, source.key, entry, command, link=link)
        if copy.token:
            self._adopted[copy.token] = True
        elif copy.value is not None and len(copy.value) > self._core.limits.small:
            return sources.Copy(copy.value, self._write_file(copy.value))
        return copy

    def _open(self, token: str) -> int:
        with guarded("an upload can't be opened", may_be_missing=True):
            return os.open(self._places.staging / token, os.O_RDWR)

    def _write_file(self, value: bytes) -> str:
        with Staging(self._places.root).create() as upload:
            upload.write(value)
            upload.finish()
        self._adopted[upload.token] = True
        return upload.token

    def _write_head(self, token: str, header: Header) -> None:
        """Write the head, which says whose value the file is."""
        with guarded("the head of a value file can't be written"):
            fd = self._open(token)
            try:
                value_files.write_head(fd, token, header)
                os.fdatasync(fd)
            finally:
                os.close(fd)

    def _result(
        self, command: Command, status: Status, reason: str = "", seq: int = 0, value: bytes | None = None
    ) -> None:
        if not isinstance(command, Store):
            self.results.append(command.result(status, reason, seq))
        else:
            cached = value if command.size <= self._cached else None
            self.results.append(command.result(status, reason, seq, cached))

    # Writing.

    def write(self) -> None:
        """Make all of it durable and visible, or nothing.

        Raises `DiskFull` or `StorageError`, and `Broken` when a failed write could not be undone.
        """
        core, data = self._core, b"".join(self._records)
        if data:
            before = core.active.size
            try:
                self._adopt()
                core.active.append(data)
                try:
                    core.index.commit(self._changes)
                except BaseException:
                    core.active.cut(before)
                    raise
            except BaseException:
                self.take_back()
                raise
            core.space.take(len(data))
        self._clean_up()

    def _adopt(self) -> None:
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
        """Undo what was done with uploads: they are where they were."""
        for token, ours in self._adopted.items():
            name = self._places.staging / token
            try:
                if token in self._renamed:
                    os.rename(value_files.path(self._places.values, token), name)
                if ours:
                    remove(name)
            except OSError as error:
                # The next start removes it, since it has no record.
                log.error("upload can't be given back", token=token, error=error)
        self._renamed.clear()

    def _clean_up(self) -> None:
        """After the commit, remove the files that nobody needs any more."""
        for token in self._changes.unlinked:
            _unlink(value_files.path(self._places.values, token), self._core.removals.remove)
        values = self._places.values
        self._core.digests.unknown.extend(f"{values.name}/{token[:2]}/{token}" for token in self._renamed)
        for key, old in self._healed:
            core, stat = self._core, self._core.index.stats.get(old.segment)
            core.damages.heal(key, old.version)
            if stat is not None:
                core.damaged.discard(stat.uid)  # perhaps it can be compacted now
            log.warning("damaged value replaced by a good copy", key=key, version=old.version)
        for token in self._used:
            if value_files.is_token(token):
                _unlink(self._places.staging / token)


def entry_of(header: Header, segment: int, offset: int, length: int) -> Entry:
    """The index entry of a record of `length` bytes at this place."""
    kind, _, version, seq, created, expires, _, _, size, where = header
    expired = False
    if kind == Kind.DELETE:
        entry = Entry(segment, offset, length, seq, version, 0, 0, kind, expired, "", since=header.since)
        return entry._replace(purges=header.purges, drops=header.drops)
    return Entry(segment, offset, length, seq, version, expires, size, kind, expired, where, created)


def _unlink(path: Path, remove: Callable[[Path], None] = remove) -> None:
    try:
        remove(path)
    except OSError as error:
        log.error("file can't be removed; the next start will try again", file=path.name, error=error)


def _flaw(command: Command) -> str:
    """What is wrong with a command; "" when it is a good one."""
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
