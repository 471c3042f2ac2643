"""The storage of a node: value log, value files and index as one thing. Only the agent opens it.

`apply` belongs to one thread; `replay`, `compact` and `scrub` may run in others at the same time. What
`apply` acknowledges is durable in the log; everything else can be made again from it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack

from broker import logs, process
from broker.clock import now_ms
from broker.messages.store import Delete, Kind, Result, Status, Store
from broker.settings import Settings
from node.errors import Broken, DiskFull, StorageError
from node.storage import compaction, log_replay, recovery, scrub, staging, value_file_repair
from node.storage.context import StorageContext, StorageLimits
from node.storage.disk.files import guarded
from node.storage.disk.layout import Layout
from node.storage.disk.space import Space
from node.storage.index.rows import Stat
from node.storage.index.update import IndexUpdate
from node.storage.log import records
from node.storage.log.records import Header
from node.storage.log.segments import Active
from node.storage.write_batch import Refusal, WriteBatch

log = logs.get(__name__)

_EPOCHS_KEPT = 64
_ROOM_BYTES = 1 << 20  # a disk with less than this above the reserve counts as full


class Storage:
    """An open data directory."""

    def __init__(self, core: StorageContext, lock_fd: int) -> None:
        self._core = core
        self._lock_fd = lock_fd
        self.epoch = ""  # random, made by this opening
        self.epoch_seq = 0  # of its record; what follows was written by this process

    @classmethod
    def open(cls, config: Settings) -> Storage:
        """Open the data directory of the settings, whatever the last process left there.

        Raises `StorageError` when it can't be used, or is in use.
        """
        places = Layout.of(Path(config.volume.dir))
        with guarded("the data directory can't be made ready"):
            places.log.mkdir(parents=True, exist_ok=True)
            try:
                lock_fd = process.hold(places.log)
            except BlockingIOError as error:
                raise StorageError(f"{places.root} is in use by another process") from error
        try:
            recovery.make_ready(places)
            staging.remove_abandoned(places.staging)
            index, active, rebuilt = recovery.recover(places)
        except BaseException:
            os.close(lock_fd)
            raise
        limits = StorageLimits.of(config)
        storage = cls(StorageContext(places, limits, index, active, Space(places.root, limits.reserve)), lock_fd)
        try:
            storage._prepare(rebuilt)
        except BaseException:
            storage.close()
            raise
        log.info("storage opened", keys=storage.keys, bytes=storage.bytes, seq=storage.seq, segments=len(index.stats))
        return storage

    def _prepare(self, rebuilt: bool) -> None:
        compaction.sweep(self._core, now_ms())
        value_file_repair.reconcile(self._core, self.apply, rebuilt)
        try:
            self._begin_epoch()
        except DiskFull:
            compaction.compact(self._core, now_ms())
            self._begin_epoch()

    def close(self) -> None:
        """Close it so that the next start is quick; replays and background work in other threads end."""
        self._core.stop.set()
        with self._core.lock:
            self._core.active.close()
            self._core.index.close(clean=True)
            os.close(self._lock_fd)

    # Figures.

    @property
    def seq(self) -> int:
        """Of the newest record."""
        return self._core.index.totals.seq

    @property
    def epochs(self) -> list[tuple[int, str]]:
        """(seq, id) of the openings that this log is made of, oldest first, the newest 64."""
        return self._core.index.epochs

    @property
    def keys(self) -> int:
        """Values that can be read."""
        return self._core.index.totals.keys

    @property
    def bytes(self) -> int:
        """Bytes of those values."""
        return self._core.index.totals.size

    def full(self) -> bool:
        """Whether there is hardly room for another value above the reserve."""
        return self._core.space.short(_ROOM_BYTES)

    # Work.

    def apply(self, commands: Sequence[Store | Delete]) -> list[Result]:
        """Carry out a batch: one write, one flush, one commit; then its results, in the same order.

        Applying a command twice changes nothing. What the disk refuses is in the results; nothing of the
        batch's values is there then. Raises `Broken` when the process has to start again.
        """
        with self._core.lock:
            if self._core.broken:
                raise Broken("the storage has failed; the process must start again")
            stores = deletes = None
            while True:
                try:
                    return self._attempt(commands, stores, deletes)
                except Broken:
                    self._core.broken = True
                    raise
                except DiskFull as error:
                    log.warning("disk is full", error=error, deletes=stores is None)
                    # Once more without the values: deletions are small, and what makes room again.
                    refusal = Refusal(Status.FULL, str(error))
                    stores, deletes = refusal, refusal if stores else None
                    self._core.space.forget()
                except StorageError as error:
                    log.error("batch failed", commands=len(commands), error=error)
                    stores = deletes = Refusal(Status.FAILED, str(error))

    def _attempt(
        self, commands: Sequence[Store | Delete], stores: Refusal | None, deletes: Refusal | None
    ) -> list[Result]:
        core = self._core
        if core.active.size >= core.limits.segment and not deletes:
            self._begin_segment()
        with core.index.snapshot() as view:
            batch = WriteBatch(core, IndexUpdate(core.index, view), stores, deletes)
            try:
                for command in commands:
                    batch.plan(command)
            except BaseException:
                batch.take_back()
                raise
        data = batch.data()
        if data:
            before = core.active.size
            try:
                batch.adopt()
                core.active.append(data)
                try:
                    core.index.commit(batch.changes.commit())
                except BaseException:
                    core.active.cut(before)
                    raise
            except BaseException:
                batch.take_back()
                raise
            core.space.take(len(data))
        batch.clean_up()
        return batch.results

    def _begin_segment(self) -> None:
        """Seal the active segment and begin the next one."""
        core = self._core
        number = core.active.number + 1
        try:
            active = Active.create(core.places.log, number, self.seq + 1)
            with core.index.snapshot() as view:
                changes = IndexUpdate(core.index, view)
                changes.set_stat(number, Stat(active.uid, active.first, self.seq, active.size))
            try:
                core.index.commit(changes.commit())
            except BaseException:
                active.discard()
                raise
        except DiskFull as error:
            # The old one is good for a few deletions more.
            log.warning("no room for another segment", error=error)
            return
        core.active.close()
        core.active = active

    def _begin_epoch(self) -> None:
        """Record that a new process writes from here on."""
        core = self._core
        epoch = secrets.token_hex(8)
        seq = self.seq + 1
        epochs = [*self.epochs, (seq, epoch)][-_EPOCHS_KEPT:]
        header = Header(Kind.EPOCH, b"", 0, seq, now_ms(), 0, "", b"", 0, "")
        record = records.encode(header, msgpack.packb(epochs), core.active.base, core.active.size)
        core.active.append(record)
        with core.index.snapshot() as view:
            changes = IndexUpdate(core.index, view)
            changes.extend(core.active.number, core.active.size, seq)
            changes.epochs = epochs
        core.index.commit(changes.commit())
        self.epoch, self.epoch_seq = epoch, seq

    def replay(self, after: int) -> Iterator[tuple[int, int, list[Result]]]:
        """What is current of the log after seq `after`: (lower, upto, results of seqs in (lower, upto]).

        The ranges are ascending and without gaps; the last one ends at the seq that was the newest when this
        began. Nothing comes when `after` is not below that. Raises `StorageError`.
        """
        return log_replay.replay(self._core, after)

    def compact(self, now: int | None = None) -> compaction.Compacted:
        """One pass over the log that gives the space of garbage back, held to `[volume] compact_rate`.

        `now` is in ms since the epoch. Returns what it came to; ends early when the storage is closed.
        """
        return compaction.compact(self._core, now_ms() if now is None else now)

    def scrub(self, rate: float | None = None) -> scrub.Report:
        """Read and check everything, at `rate` bytes per second (as `[volume] scrub_days` says unless given)."""
        return scrub.scrub(self._core, rate)
