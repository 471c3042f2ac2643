"""Starts the process that cleans up a run's shared memory before there is anything to clean up.

Python makes shared memory or a semaphore first. Then it starts that process and tells it the name. A run that is
killed in between leaves a file in `/dev/shm` that nobody knows of.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module

_TRACKER = "multiprocessing.resource_tracker"


def arrange() -> None:
    """Make this process and its forks start it early. The processes that they spawn are told of it."""
    with suppress(ImportError):  # a Python without shared memory
        memory = vars(import_module("_posixshmem"))
        create = memory["shm_open"]

        def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_CREAT:
                _start()
            number: int = create(path, flags, mode=mode)
            return number

        memory["shm_open"] = shm_open
    with suppress(ImportError):  # a Python without semaphores
        semaphores = vars(import_module("_multiprocessing"))

        class SemLock(semaphores["SemLock"]):  # type: ignore[misc,valid-type]
            """A semaphore, as `multiprocessing` makes it."""

            def __new__(cls, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> SemLock:
                if not unlink:
                    _start()
                made: SemLock = super().__new__(cls, kind, value, maxvalue, name, unlink)
                return made

        semaphores["SemLock"] = SemLock


def _start() -> None:
    tracker = sys.modules.get(_TRACKER)
    if tracker:
        tracker.ensure_running()
