"""Keeps what a process counts in a file, where the process that is asked for figures finds it.

A process takes the first file of its kind that no other process has, and goes on counting from what is in there. So a
counter never falls when a process ends and another one takes its place. There are never more files than there were
processes at once. The kernel frees a file when its process dies.

The file is written, not mapped: on a full disk a write fails, and a page that is mapped kills the process.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from broker import lmdb_files, logs
from broker.metrics.layout import Layout

log = logs.get(__name__)

FOLDER = "metrics"  # in the data directory
HEAD = struct.Struct("<16s36sdd")  # digest of the layout, boot, seconds of the monotonic clock: started and written
GAUGES_AT = 128  # byte
EVERY_SECS = 1.0
_MOST_FILES = 1024


class Keeper:
    """Writes the cells of this process once a second, on a thread of its own."""

    def __init__(
        self, layout: Layout, directory: Path, kind: str, measure: Callable[[], None], *, every: float = EVERY_SECS
    ) -> None:
        """`kind` says what the process does, like `web`. `measure` sets its gauges, before they are written.

        `directory` is the data directory. When nothing can be written there, that is logged, and figures are missing.
        """
        self._layout = layout
        self._measure = measure
        self._every = every
        self._digest = layout.digest
        self._boot = lmdb_files.boot().encode().ljust(36)[:36]
        self._started = time.monotonic()
        self._guard = threading.Lock()
        self._stopping = threading.Event()
        self._written = b""  # the counts in the file
        self._failing = False
        self._fd = -1
        self.name = ""  # of the process, like `web-0`
        with self._failures():
            self._claim(directory / FOLDER, kind)

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def write(self) -> None:
        """Write everything now; any thread may call this."""
        with self._guard, self._failures():
            if self._fd < 0:
                return
            self._measure()
            counts, gauges = self._layout.counts.tobytes(), self._layout.gauges.tobytes()
            head = HEAD.pack(self._digest, self._boot, self._started, time.monotonic())
            # What changes all the time is in the first page, so an idle process dirties that one alone.
            _write(self._fd, head.ljust(GAUGES_AT, b"\0") + gauges, 0)
            if counts != self._written:
                _write(self._fd, counts, GAUGES_AT + len(gauges))
                self._written = counts
            self._failing = False

    def close(self) -> None:
        """Write for the last time, and free the file."""
        self._stopping.set()
        self.write()
        with self._guard:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _run(self) -> None:
        while not self._stopping.wait(self._every):
            self.write()

    def _claim(self, folder: Path, kind: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(_MOST_FILES):
            fd = os.open(folder / f"{kind}-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)  # another process has this one
                continue
            self._fd, self.name = fd, f"{kind}-{number}"
            self._take_over()
            return

    def _take_over(self) -> None:
        """Count on from what the process before has counted, if it had the same cells."""
        found = os.pread(self._fd, 1 << 24, 0)
        begin = GAUGES_AT + 8 * len(self._layout.gauges)
        if len(found) != begin + 8 * len(self._layout.counts) or found[:16] != self._digest:
            os.ftruncate(self._fd, 0)  # of another version
            return
        before = array("Q", found[begin:])
        for at, number in enumerate(before):
            self._layout.counts[at] += number

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Figures are no reason to end a process: a disk that refuses them is logged once."""
        try:
            yield
        except OSError as error:
            if not self._failing:
                log.warning("figures of this process can't be kept", error=error)
            self._failing = True


def _write(fd: int, data: bytes, offset: int) -> None:
    if os.pwrite(fd, data, offset) != len(data):
        raise OSError("it was written in part; is the disk full?")
