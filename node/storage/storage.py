"""The storage of a node: value log, value files and index together. Only the agent opens it.

`apply` belongs to one thread. `replay`, `compact` and `scrub` may run in other threads at the same time. What `apply`
acknowledges is durable in the log. Everything else can be made again from the log.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgpack

from broker import logs, process
from broker.clock import now_ms
from broker.messages.store import Command, Epoch, Kind, Result, Status, Store
from broker.settings import Settings
from node.errors import Broken, DiskFull, StorageError
from node.storage import (
    compaction,
    held_versions,
    log_replay,
    recovery,
    scrub,
    snapshots,
    sources,
    staging,
    value_file_repair,
)
from node.storage.context import StorageContext, StorageLimits
from node.storage.digests import Digests
from node.storage.disk.damages import Damage, Damages
from node.storage.disk.files import guarded, remove
from node.storage.disk.layout import Layout
from node.storage.disk.space import Space
from node.storage.index.rows import Stat, Totals
from node.storage.log import records, segments
from node.storage.log.records import Header
from node.storage.log.segments import ActiveSegment
from node.storage.log_replay import ReplayPart
from node.storage.write_batch import Refusal, Refusals, WriteBatch

log = logs.get(__name__)

_EPOCHS_KEPT = 64
_ROOM_BYTES = 1 << 20  # a disk with less room than this above the reserve counts as full
_NEAR_BYTES = 64 << 20  # with more room than this above the reserve, a batch needs no look at its size
_INDEX_BYTES = 1 << 18  # more than the pages of the index that a commit writes anew
_RECORD_BYTES = 1024  # more than most records have beside their values


class LogFigures(NamedTuple):
    """The figures of the log, in bytes where nothing else is said."""

    size: int
    live: int  # values that can be read
    garbage: int  # neither these, nor held values, nor tombstones
    segments: int
    damaged: int  # segments that compaction leaves alone


class Storage:
    """An open data directory."""

    def __init__(self, core: StorageContext, lock_fd: int) -> None:
        self._core = core
        self._lock_fd = lock_fd
        self.epoch = Epoch(0, "")  # begun by this opening: this process writes all records that follow

    @classmethod
    def open(cls, config: Settings) -> Storage:
        """Open the data directory of the settings, in whatever state the last process left it.

        Raises `StorageError` when it can't be used, or another process uses it.
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
            limits = StorageLimits.of(config)
            recovered = recovery.recover(places, limits.undelete_ms)
        except BaseException:
            os.close(lock_fd)
            raise
        space = Space(places.root, limits.reserve)
        core = StorageContext(places, limits, recovered.index, recovered.active, space, Digests(places.digests))
        storage = cls(core, lock_fd)
        try:
            storage._prepare(recovered.rebuilt)
        except BaseException:
            storage.close()
            raise
        log.info("storage opened", **storage.totals._asdict(), segments=len(recovered.index.stats))
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
        """Close it so that the next start is quick. Replays and background work in other threads end."""
        self._core.stop.set()
        with self._core.lock:
            self._core.active.close()
            self._core.index.close(clean=True)
            self._core.digests.close()
            os.close(self._lock_fd)

    # Figures.

    @property
    def totals(self) -> Totals:
        """The figures of all values."""
        return self._core.index.totals

    @property
    def seq(self) -> int:
        """The seq of the newest record."""
        return self._core.index.totals.seq

    @property
    def epochs(self) -> list[Epoch]:
        """The openings that this log is made of, oldest first: the newest 64."""
        return self._core.index.epochs

    @property
    def damages(self) -> Damages:
        """The values that are known to be damaged."""
        return self._core.damages

    def note_damage(self, key: bytes, version: int, reason: str) -> bool:
        """Note that a value can't be read; `version` 0 means the one that is here.

        Returns False when the value is not here, and no newer one nor a deletion: then it should be fetched as well.
        """
        with self._core.index.snapshot() as view:
            entry = view.entry(key)
        if entry is None or (entry.kind == Kind.PUT and entry.version < version):
            return version == 0
        if entry.kind == Kind.PUT and not entry.expired and version in (0, entry.version):
            self._core.damages.add(Damage(key, entry.version, "found by a reader", reason))
        return True

    def damaged_values(self) -> list[Damage]:
        """The current values that are known to be damaged. What was overwritten or deleted meanwhile is forgotten."""
        damages = self._core.damages
        found = damages.all()
        left = []
        with self._core.index.snapshot() as view:
            for damage in found:
                entry = view.entry(damage.key)
                if entry and entry.place == (damage.version, Kind.PUT) and not entry.expired:
                    left.append(damage)
                else:
                    damages.drop(damage.key, damage.version)
        return left

    def has(self, key: bytes, version: int, digest: bytes) -> bool:
        """Whether a version is the newest of its key here, and its record says that it is this value.

        Raises `StorageError`.
        """
        with self._core.lock, self._core.index.snapshot() as view:
            entry = view.entry(key)
            if entry is None or (entry.kind, entry.version, entry.expired) != (Kind.PUT, version, False):
                return False
            return sources.read_record(self._core.places, key, entry)[0].digest == digest

    def log_figures(self) -> LogFigures:
        """The figures of the log as a whole, of this moment."""
        stats = list(self._core.index.stats.values())
        size, stays = sum(stat.size for stat in stats), sum(stat.live + stat.held + stat.tombs for stat in stats)
        live = sum(stat.live for stat in stats)
        return LogFigures(size, live, max(0, size - stays), len(stats), len(self._core.damaged))

    def full(self) -> bool:
        """Whether there is hardly room for another value above the reserve."""
        return self._core.space.short(_ROOM_BYTES)

    def make_room(self) -> None:
        """End held values early if the disk is full, or an upload asks for room: those that would end first.

        Raises `StorageError`.
        """
        core = self._core
        requests = staging.RoomRequests(core.places.root).wanted()
        wanted = max([core.space.headroom() if self.full() else 0, *requests.values()])
        if wanted and core.index.totals.held_keys:
            with core.lock:
                core.space.forget()
                if core.space.short(wanted):
                    held_versions.make_room(core, wanted)
        for file in requests:
            with guarded("a request for room can't be removed"):
                remove(file)

    # Work.

    def apply(self, commands: Sequence[Command]) -> list[Result]:
        """Carry out commands with one write, one flush and one commit; returns their results in the same order.

        A command that comes twice changes nothing. What the disk refuses is in the results; then none of the
        values is stored. Raises `Broken` when the process has to start again.
        """
        with self._core.lock:
            if self._core.broken:
                raise Broken("the storage has failed; the process must start again")
            refusals = Refusals()
            room_made = False
            while True:
                try:
                    self._make_room_for(commands)
                    return self._attempt(commands, refusals)
                except Broken:
                    self._core.broken = True
                    raise
                except DiskFull as error:
                    if not room_made and self._end_held(commands):
                        room_made = True
                        continue
                    log.warning("disk is full", error=error, deletes=refusals.stores is None)
                    # Once more without the values: deletions are small, and they make room again.
                    refusal = Refusal(Status.FULL, str(error))
                    refusals = Refusals(refusal, refusal if refusals.stores else None)
                    self._core.space.forget()
                except StorageError as error:
                    log.error("batch failed", commands=len(commands), error=error)
                    refusal = Refusal(Status.FAILED, str(error))
                    refusals = Refusals(refusal, refusal)

    def _make_room_for(self, commands: Sequence[Command]) -> None:
        """End held values early if the disk has no room for these commands."""
        core = self._core
        if core.index.totals.held_keys and core.space.short(_NEAR_BYTES):
            wanted = _bytes_of(commands)
            if core.space.short(wanted):
                held_versions.make_room(core, wanted)

    def _end_held(self, commands: Sequence[Command]) -> bool:
        """End held values early, since the disk has refused a write. Returns whether there were any."""
        try:
            return held_versions.make_room(self._core, _bytes_of(commands) + _INDEX_BYTES)
        except StorageError as error:
            log.error("deleted values can't make room", error=error)
            return False

    def _attempt(self, commands: Sequence[Command], refusals: Refusals) -> list[Result]:
        core = self._core
        if core.active.size >= core.limits.segment and not refusals.deletes:
            self._begin_segment()
        with core.index.snapshot() as view:
            batch = WriteBatch(core, view, refusals)
            try:
                for command in commands:
                    batch.plan(command)
            except BaseException:
                batch.take_back()
                raise
        batch.write()
        return batch.results

    def _begin_segment(self) -> None:
        """Seal the active segment and begin the next one. Without room for one the active segment stays."""
        core = self._core
        number = core.active.number + 1
        try:
            active = ActiveSegment.create(core.places.log, number, self.seq + 1)
            try:
                with core.index.update() as changes:
                    changes.stats[number] = Stat(active.uid, active.first, self.seq, active.size)
            except BaseException:
                active.discard()
                raise
        except DiskFull as error:
            # The old one can take a few deletions more.
            log.warning("no room for another segment", error=error)
            return
        core.digests.unknown.append(f"{core.places.log.name}/{segments.path(core.places.log, number - 1).name}")
        core.active.close()
        core.active = active

    def _begin_epoch(self) -> None:
        """Record that a new process writes from here on."""
        core = self._core
        epoch = Epoch(self.seq + 1, secrets.token_hex(8))
        epochs = [*self.epochs, epoch][-_EPOCHS_KEPT:]
        header = Header.tombstone(b"", 0, epoch.seq, now_ms())._replace(kind=Kind.EPOCH)
        record = records.encode(header, msgpack.packb(epochs), core.active.base, core.active.size)
        core.active.append(record)
        with core.index.update() as changes:
            changes.extend(core.active.number, core.active.size, epoch.seq)
            changes.epochs = epochs
        self.epoch = epoch

    def replay(self, after: int) -> Iterator[ReplayPart]:
        """The current records of the log after seq `after`, in parts.

        The parts ascend without gaps. The last one ends at the seq that was the newest at the beginning. There are
        no parts when `after` is not below that. Raises `StorageError`.
        """
        return log_replay.replay(self._core, after)

    def compact(self, now: int | None = None) -> compaction.CompactionReport:
        """Give back the space of garbage in one pass over the log, at `[volume] compact_rate` bytes per second.

        `now` is in ms since the epoch. The pass ends early when the storage is closed.
        """
        return compaction.compact(self._core, now_ms() if now is None else now)

    def scrub(self, rate: float | None = None) -> scrub.ScrubReport:
        """Read and check everything, at `rate` bytes per second; by default it takes `[volume] scrub_days`."""
        return scrub.scrub(self._core, rate)

    def snapshot(self, name: str) -> Path:
        """Make a snapshot of this moment, of the node called `name`; returns its folder. One at a time.

        Writes go on meanwhile. The folder can be opened as a data directory. Raises `StorageError`.
        """
        return snapshots.make(self._core, name)

    def digest(self) -> None:
        """Compute the digests of new files, at `[volume] compact_rate`; the first call looks for all files."""
        snapshots.digest_new_files(self._core)


def _bytes_of(commands: Sequence[Command]) -> int:
    """Bytes that a batch needs at most, nearly: uploads are on the disk already."""
    values = sum(len(one.value) for one in commands if isinstance(one, Store) and one.value)
    return values + _RECORD_BYTES * len(commands)
