"""One writer per key at a time, across the threads and processes of the master.

Between the look at the index and the commit of what was written, nobody else may write the same key: so
a create-only PUT wins or loses before anything is sent, and versions of a key rise in the order in which
they were decided. Within a process the lock is a `threading.Lock`; between processes it is a lock on one
byte of a file, chosen by the key's checksum, which the kernel frees if its holder dies.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECS = 0.002


class KeyLocks:
    """The locks of one process. `directory` is the master's own; `alone` when no other process takes locks there."""

    def __init__(self, directory: Path, alone: bool = False) -> None:
        self._alone = alone
        # Opened once and never closed: closing any descriptor of a file frees all locks a process has on it.
        self._file = os.open(directory / "keys.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._guard = threading.Lock()
        self._held: dict[int, tuple[threading.Lock, int]] = {}  # byte → its lock, how many threads want it

    @contextmanager
    def hold(self, key: bytes, timeout: float) -> Iterator[bool]:
        """Hold the key's lock in the block; yields False when it could not be had within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        byte = zlib.crc32(key)
        with self._guard:
            lock, wanted = self._held.get(byte) or (threading.Lock(), 0)
            self._held[byte] = (lock, wanted + 1)
        held = lock.acquire(timeout=max(0.0, timeout))
        try:
            yield held and (self._alone or self._lock_byte(byte, deadline))
        finally:
            if held:
                if not self._alone:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)
                lock.release()
            with self._guard:
                lock, wanted = self._held[byte]
                if wanted == 1:
                    del self._held[byte]
                else:
                    self._held[byte] = (lock, wanted - 1)

    def _lock_byte(self, byte: int, deadline: float) -> bool:
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
                return True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_SECS)
