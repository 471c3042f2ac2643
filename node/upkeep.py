"""Upkeep of the storage in the background: compaction, and the scrub that reads every value."""

from __future__ import annotations

import threading
import time

from broker import logs, settings
from node.errors import StorageError
from node.storage import Storage

log = logs.get(__name__)

COMPACT_EVERY_SECS = 30.0
DAY_SECS = 86_400.0


class Upkeep:
    """A thread of the agent."""

    def __init__(self, storage: Storage, config: settings.Settings) -> None:
        self._storage = storage
        self._scrub_secs = config["volume", "scrub_days"] * DAY_SECS
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is at."""
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        next_scrub = time.monotonic() + self._scrub_secs
        while not self._stopping.wait(COMPACT_EVERY_SECS):
            try:
                self._storage.compact()
                if self._scrub_secs and time.monotonic() >= next_scrub:
                    next_scrub = time.monotonic() + self._scrub_secs
                    self._storage.scrub()
            except (StorageError, OSError):
                log.exception("upkeep failed")
