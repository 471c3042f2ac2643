"""A lock on a directory. The kernel frees it when the process that holds it ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

_POLL_SECS = 0.005


def hold(directory: Path, *, shared: bool = False) -> int:
    """Lock a directory until the returned descriptor is closed.

    Any number of processes may hold a `shared` lock, one alone the other kind. Raises `BlockingIOError` when
    another process holds it, `OSError` when the directory can't be opened or locked.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def wait(descriptor: int, timeout: float) -> bool:
    """Wait up to `timeout` seconds until no other process locks an open directory; returns whether that is so."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECS)
        else:
            return True
