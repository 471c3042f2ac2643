"""Sets the gauges of the agent: storage, disk and runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from node.heartbeat import disk_room
from node.jobs.service import Jobs
from node.metrics import figures
from node.storage.storage import Storage


class Gauges:
    """Looks at a node's storage and runs. `measure` belongs to the thread that writes the figures."""

    def __init__(self, directory: Path, storage: Storage, jobs: Jobs, process: Callable[[], None]) -> None:
        """`process` sets the gauges that every process has."""
        self._directory = directory
        self._storage = storage
        self._jobs = jobs
        self._process = process

    def measure(self) -> None:
        """Set all of them. Raises `OSError`."""
        self._process()
        totals, log_figures = self._storage.totals, self._storage.log_figures()
        figures.KEYS.set(totals.keys)
        figures.VALUE_BYTES.set(totals.size)
        figures.HELD_KEYS.set(totals.held_keys)
        figures.HELD_BYTES.set(totals.held_size)
        figures.SEQ.set(totals.seq)
        figures.LOG_BYTES.set(log_figures.size)
        figures.LIVE_BYTES.set(log_figures.live)
        figures.GARBAGE_BYTES.set(log_figures.garbage)
        figures.SEGMENTS.set(log_figures.segments)
        figures.DAMAGED_SEGMENTS.set(log_figures.damaged)
        room = disk_room(self._directory)
        figures.DISK_TOTAL.set(room.total)
        figures.DISK_FREE.set(room.free)
        figures.FULL.set(self._storage.full())
        figures.SLOTS.set(self._jobs.slots)
        figures.RUNNING.set(len(self._jobs.running()))
