"""The process that removes what a run leaves in shared memory, made before there is anything to remove.

Python makes shared memory, or a semaphore, and then starts that process and tells it the name. A run that is killed
in between, while a busy machine starts a process, leaves a file in `/dev/shm` that nobody knows of.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

_TRACKER = "multiprocessing.resource_tracker"


def arrange() -> None:
    """Have it so in this process and in all that are forked from it; those they spawn are told of the process."""
    with suppress(ImportError):  # a Python without shared memory
        memory: Any = import_module("_posixshmem")
        create = memory.shm_open

        def shm_open(path: str, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_CREAT:
                _start()
            number: int = create(path, flags, mode=mode)
            return number

        memory.shm_open = shm_open
    with suppress(ImportError):
        semaphores: Any = import_module("_multiprocessing")

        class SemLock(semaphores.SemLock):  # type: ignore[misc]
            """A semaphore, as `multiprocessing` makes it."""

            def __new__(cls, kind: int, value: int, maxvalue: int, name: str, unlink: bool) -> Any:
                if not unlink:
                    _start()
                return super().__new__(cls, kind, value, maxvalue, name, unlink)

        semaphores.SemLock = SemLock


def _start() -> None:
    tracker = sys.modules.get(_TRACKER)
    if tracker:
        tracker.ensure_running()
