"""Maintenance of the storage in the background: compaction, scrub, room on a full disk, digests for snapshots."""

from __future__ import annotations

import threading
import time

from broker import logs, settings
from broker.clock import DAY_SECS
from node.errors import StorageError
from node.metrics import figures
from node.storage.storage import Storage

log = logs.get(__name__)

COMPACT_EVERY_SECS = 30.0
ROOM_EVERY_SECS = 0.2  # an upload waits for it
FULL_EVERY_SECS = 2.0  # on a full disk
SCRUB_PAUSE_SECS = 60.0
DIGEST_EVERY_SECS = 5.0


class Maintenance:
    """A thread for each: a scrub takes days, a compaction minutes, and an upload that wants room does not wait."""

    def __init__(self, storage: Storage, config: settings.Settings) -> None:
        self._storage = storage
        self._scrub_secs = config.volume.scrub_days * DAY_SECS
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._compact, name="compaction", daemon=True),
            threading.Thread(target=self._digest, name="digests", daemon=True),
        ]
        if config.volume.undelete_days:
            self._threads.append(threading.Thread(target=self._make_room, name="room", daemon=True))
        if self._scrub_secs:
            self._threads.append(threading.Thread(target=self._scrub, name="scrub", daemon=True))

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Begin nothing more. What has begun ends when the storage is closed."""
        self._stopping.set()

    def _compact(self) -> None:
        due = time.monotonic() + COMPACT_EVERY_SECS
        while not self._stopping.wait(FULL_EVERY_SECS):
            try:
                if time.monotonic() >= due or self._storage.full():
                    done = self._storage.compact()
                    figures.COMPACTED_BYTES.add(number=done.freed)
                    figures.COMPACTED_SEGMENTS.add(figures.WRITTEN, done.segments)
                    figures.COMPACTED_SEGMENTS.add(figures.REMOVED, done.removed)
                    due = time.monotonic() + COMPACT_EVERY_SECS
            except (StorageError, OSError):
                figures.COMPACTION_FAILURES.add()
                log.exception("compaction failed")

    def _digest(self) -> None:
        while not self._stopping.wait(DIGEST_EVERY_SECS):
            try:
                self._storage.digest()
            except (StorageError, OSError):
                log.exception("digests can't be computed")

    def _make_room(self) -> None:
        while not self._stopping.wait(ROOM_EVERY_SECS):
            try:
                self._storage.make_room()
            except (StorageError, OSError):
                log.exception("room can't be made")
                self._stopping.wait(COMPACT_EVERY_SECS)

    def _scrub(self) -> None:
        while not self._stopping.wait(SCRUB_PAUSE_SECS):
            try:
                report = self._storage.scrub()  # takes `scrub_days`
            except (StorageError, OSError):
                log.exception("scrub failed")
            else:
                if report.complete:
                    figures.SCRUBBED_AT.set(time.time())
                    figures.SCRUB_DAMAGED.set(len(report.damages))
                log.info("scrub ended", values=report.records + report.files, damaged=len(report.damages))
