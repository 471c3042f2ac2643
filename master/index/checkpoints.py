"""Checkpoints of the index: what survives a power cut, although no commit is flushed.

LMDB never writes over a page that a reader may still see. It writes in place nothing but the first two pages of the
file, its heads, which say where the newest two states begin. So a checkpoint is three things, in this order:

1. a reader that stays open until the next checkpoint is whole, and a copy of the heads as they are then,
2. a flush of the file,
3. that copy, written durably into the note beside the file (`master.index.checkpoint_file`).

After a power cut the file may have any of the pages that were written since the flush, but all of them lie where the
checkpoint has none. With the heads of the note put back it is what it was at the checkpoint. Nothing is copied, so a
checkpoint costs the same whatever the size of the index. Pages that are freed between two checkpoints can't be used
again until the second one.

What a killed process has written is in the kernel's memory: in the same boot of the machine the file is whole as it is.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import lmdb

from broker import lmdb_files, logs
from broker.clock import DAY_MS, now_ms
from broker.lmdb_files import DATA, LOCK
from master.index import checkpoint_file
from master.index.checkpoint_file import Note

log = logs.get(__name__)

EVERY_SECS = 10.0  # between two checkpoints, while something is written
GROWTH_BYTES = 64 << 20  # of the file since the last one: then the next one is made at once
_MAP_SHARE = 8  # a small map leaves less room for that
_META = struct.Struct("=II")  # how LMDB's heads begin behind 16 bytes: a magic number, the format
_MAGIC = 0xBEEFC0DE
_META_AT = 16
_NUMBER_AT = 144  # of the transaction that wrote a head
_MOST_HEADS = 1 << 16


class Checkpoints:
    """Makes the checkpoints of an index that is open for writing. For the writer's thread, between its transactions."""

    def __init__(self, directory: Path, environment: lmdb.Environment, nodes: Callable[[], Iterable[str]]) -> None:
        """Makes the first one before the first commit. `nodes` gives the names of all nodes in the index.

        Raises `OSError`, `lmdb.Error`.
        """
        self._directory = directory
        self._environment = environment
        self._nodes = nodes
        before = checkpoint_file.read(directory) or Note()
        self.lost = before.unsure  # whether commits were lost
        self.unsure = before.nodes if before.unsure else ()  # nodes of whose logs they were
        self.nodes = frozenset(before.nodes)  # that survive a power cut
        self._failed = False
        self._pin: lmdb.Transaction[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._made = time.monotonic()
        self._pages = 0  # of the file, at the last one
        self._file = os.open(directory / DATA, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Nobody holds any more what the checkpoint of the process before needs.
            self._store(*self._begin())
        except BaseException:
            self._release()
            os.close(self._file)
            raise

    def make(self) -> None:
        """Make one now, and wait for it. What goes wrong is logged: the last one still counts."""
        self._wait()
        if not self._failed:
            self._try(*self._begin())

    def make_when_due(self) -> None:
        """Begin one if it is time; another thread ends it."""
        if self._failed or (self._thread and self._thread.is_alive()):
            return
        info = self._environment.info()
        age, most_growth = time.monotonic() - self._made, min(GROWTH_BYTES, info["map_size"] // _MAP_SHARE)
        if self._pin is not None and info["last_txnid"] == self._pin.id():
            self._made = time.monotonic()
        elif age >= EVERY_SECS or (info["last_pgno"] - self._pages) * self._page_bytes() >= most_growth:
            self._thread = threading.Thread(target=self._try, args=self._begin(), name="checkpoint", daemon=True)
            self._thread.start()

    def settled(self) -> None:
        """What follows from commits that were lost is noted in the index now, and that is durable."""
        self.lost, self.unsure = False, ()
        self.make()

    def close(self) -> None:
        """Make none any more, and flush the file; the next start need not know when the machine was started.

        Raises `lmdb.Error`, `OSError`.
        """
        self._wait()
        nodes = tuple(self._nodes())
        self._release()
        try:
            os.fdatasync(self._file)
            if not self._failed:
                checkpoint_file.write(self._directory, _closed(self._directory, nodes, self.lost))
        finally:
            os.close(self._file)

    def _wait(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _page_bytes(self) -> int:
        return int(self._environment.stat()["psize"])

    def _begin(self) -> tuple[lmdb.Transaction[bytes], Note]:
        """A reader of this moment, and the note that may be written when all it sees is flushed."""
        self._made = time.monotonic()
        self._pages = self._environment.info()["last_pgno"]
        pin = self._environment.begin()
        try:
            heads = os.pread(self._file, 2 * self._page_bytes(), 0)
            if _number(heads) != pin.id():
                log.warning("heads of the index are not known; a power cut would cost a replay of everything")
                heads = b""
            note = Note(
                boot=lmdb_files.boot(),
                file=tuple(lmdb_files.identity(self._directory / DATA)),
                at=now_ms(),
                heads=heads,
                nodes=tuple(self._nodes()),
                unsure=self.lost,
            )
        except BaseException:
            pin.abort()
            raise
        return pin, note

    def _try(self, pin: lmdb.Transaction[bytes], note: Note) -> None:
        try:
            self._store(pin, note)
        except OSError as error:
            log.error("no checkpoint of the index", error=error)

    def _store(self, pin: lmdb.Transaction[bytes], note: Note) -> None:
        began = time.monotonic()
        try:
            os.fdatasync(self._file)
        except OSError:
            # The kernel tells of pages that it could not write once. A later flush would not know of them.
            pin.abort()
            self._failed = True
            checkpoint_file.write(self._directory, note._replace(heads=b""))
            self._release()
            raise
        try:
            checkpoint_file.write(self._directory, note)
        except OSError:
            pin.abort()
            raise
        old, self._pin = self._pin, pin
        if old is not None:
            old.abort()
        self.nodes = frozenset(note.nodes)
        log.debug("checkpoint of the index", transaction=pin.id(), seconds=round(time.monotonic() - began, 3))

    def _release(self) -> None:
        pin, self._pin = self._pin, None
        if pin is not None:
            pin.abort()


def make_ready(directory: Path, tombstone_days: int) -> None:
    """Bring the file of an index into a state in which it may be opened, or remove it. No process may have it open.

    A checkpoint counts for half of `tombstone_days`: after that, nodes may have forgotten deletions that it lacks.
    Raises `OSError`.
    """
    objection = checkpoint_file.objection(directory)
    if not objection:
        return
    note = checkpoint_file.read(directory) or Note()
    problem = _unfit(directory, note, tombstone_days * DAY_MS // 2) or _go_back(directory, note)
    if problem:
        log.warning("index is removed; nodes fill it again", reason=objection, checkpoint=problem, nodes=note.nodes)
        begin(directory, note)
        for name in (DATA, LOCK):
            (directory / name).unlink(missing_ok=True)
    else:
        age = (now_ms() - note.at) / 1000
        log.warning("index is what it was at its last checkpoint", reason=objection, seconds_ago=age)


def begin(directory: Path, before: Note | None) -> None:
    """Note that a file is being made, which lacks the keys of all nodes. Raises `OSError`."""
    nodes = before.nodes if before else ()
    checkpoint_file.write(directory, Note(nodes=nodes, unsure=bool(nodes)))


def _unfit(directory: Path, note: Note, most_age: int) -> str:
    """Why there is no way back to the checkpoint; "" when there is one."""
    file = directory / DATA
    if not note.heads:
        return "there is none"
    if abs(now_ms() - note.at) > most_age:
        return "it is too old"
    if note.restored:
        return ""
    if note.file != tuple(lmdb_files.identity(file)) or lmdb_files.touched(file):
        return "it is of another file"
    return ""


def _go_back(directory: Path, note: Note) -> str:
    """Put the heads back. Returns what is wrong with the file then; "" when it is sound."""
    checkpoint_file.write(directory, note._replace(restored=True, unsure=True))
    (directory / LOCK).unlink(missing_ok=True)
    fd = os.open(directory / DATA, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(fd, note.heads, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    if found := lmdb_files.faults(directory):
        return "; ".join(found)
    (directory / LOCK).unlink(missing_ok=True)
    checkpoint_file.write(directory, _closed(directory, note.nodes, unsure=True))
    return ""


def _closed(directory: Path, nodes: tuple[str, ...], unsure: bool) -> Note:
    """The note beside a file that is flushed and not in use."""
    file = directory / DATA
    identity, written = tuple(lmdb_files.identity(file)), tuple(lmdb_files.written(file))
    return Note(clean=True, file=identity, written=written, nodes=nodes, unsure=unsure)


def _number(heads: bytes) -> int:
    """The number of the newest transaction that the heads tell of; -1 for a format that is not known here."""
    page = len(heads) // 2
    if not 0 < page <= _MOST_HEADS or any(_META.unpack_from(heads, at + _META_AT) != (_MAGIC, 1) for at in (0, page)):
        return -1
    return max(int.from_bytes(heads[at + _NUMBER_AT : at + _NUMBER_AT + 8], "little") for at in (0, page))
