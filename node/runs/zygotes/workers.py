"""Processes of runs that are used again, as the zygote sees them: which one may take the next run of a script."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar, cast

IDLE_SECS = 60.0  # without a run, before one ends
LEAVE_SECS = 5.0  # for one to end by itself
MOST_BYTES = 1 << 20  # of a message from one
_STOPPED = b"TtZX"  # states of a process that takes no run

Stamp = tuple[int, ...]


class Key(NamedTuple):
    """What runs must have in common to follow each other in one process."""

    job: str
    caller: str
    memory: int  # bytes, 0: no limit
    stamp: Stamp  # state of the script's file


class Channel(Protocol):
    """The socket to a process."""

    def close(self) -> None:
        """Close it; a process that waits there ends then."""


C = TypeVar("C", bound=Channel)
G = TypeVar("G")


class Worker(Generic[C, G]):
    """One process."""

    def __init__(self, pid: int, key: Key, home: str, *, frames: C, group: G | None) -> None:
        self.pid, self.key, self.home = pid, key, home
        self.frames, self.group = frames, group
        self.runs = 0
        self.since = 0.0  # idle since then, 0.0: it has a run, or ends
        self.kill_at = 0.0  # when it must have ended, 0.0: it goes on
        self.files: Sequence[tuple[str, Stamp]] = ()  # that it has loaded, beside the script
        self.unread = False  # it has ended without having read its last task

    def is_fit(self) -> bool:
        """Whether it can take a run now: it is alive, and its files are as they were."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                state = file.read().rpartition(b") ")[2][:1]
            return state not in _STOPPED and all(_stamp(file) == tuple(stamp) for file, stamp in self.files)
        except (OSError, ValueError):  # it, or one of the files, is gone
            return False


class Workers(Generic[C, G]):
    """All of them. Those without a run are limited in number, and end after a while."""

    def __init__(self, most_idle: int) -> None:
        self._most_idle = most_idle
        self._by_pid: dict[int, Worker[C, G]] = {}

    def __len__(self) -> int:
        return len(self._by_pid)

    def get(self, pid: int) -> Worker[C, G] | None:
        """The worker with this pid."""
        return self._by_pid.get(pid)

    def pids(self) -> list[int]:
        """All pids."""
        return list(self._by_pid)

    def add(self, worker: Worker[C, G]) -> None:
        """Take one that has its first run."""
        self._by_pid[worker.pid] = worker

    def drop(self, pid: int) -> Worker[C, G] | None:
        """Forget one."""
        return self._by_pid.pop(pid, None)

    def take(self, key: Key) -> tuple[Worker[C, G] | None, list[Worker[C, G]]]:
        """One without a run for a run with this key; and those that were not fit. The last one used comes first."""
        unfit: list[Worker[C, G]] = []
        same = [worker for worker in self._by_pid.values() if worker.since and worker.key[:3] == key[:3]]
        for worker in sorted(same, key=lambda worker: -worker.since):
            if worker.key == key and worker.is_fit():
                worker.since = 0.0
                return worker, unfit
            unfit.append(worker)
        return None, unfit

    def rest(self, worker: Worker[C, G], files: Sequence[tuple[str, Stamp]]) -> list[Worker[C, G]]:
        """Note that a worker has no run now; those that are to end for it."""
        worker.since, worker.files = time.monotonic(), files
        idle = [each for each in self._by_pid.values() if each.since]
        idle.sort(key=lambda each: each.since)
        return idle[: max(0, len(idle) - self._most_idle)]

    def old(self, now: float) -> list[Worker[C, G]]:
        """Those that had no run for long."""
        return [each for each in self._by_pid.values() if each.since and now - each.since >= IDLE_SECS]

    def leave(self, worker: Worker[C, G]) -> None:
        """Note that one is to end."""
        worker.since, worker.kill_at = 0.0, time.monotonic() + LEAVE_SECS

    def late(self, now: float) -> list[Worker[C, G]]:
        """Those that should have ended by now."""
        return [each for each in self._by_pid.values() if 0.0 < each.kill_at <= now]

    def due(self, now: float) -> float | None:
        """Seconds until one is old or late, None when none will be."""
        idle = [each.since + IDLE_SECS for each in self._by_pid.values() if each.since]
        leaving = [each.kill_at for each in self._by_pid.values() if each.kill_at]
        return max(0.0, min(idle + leaving) - now) if idle or leaving else None


def files_of(message: Sequence[object]) -> list[tuple[str, Stamp]]:
    """The files in a message of a worker; raises `ValueError` for anything else: a script may write there, too."""
    try:
        (files,) = message
        found = [(str(file), tuple(map(int, stamp))) for file, stamp in cast("list[tuple[str, Stamp]]", files)]
    except (TypeError, OverflowError) as error:
        raise ValueError(f"no files: {error}") from error
    if any("\0" in file for file, _ in found):
        raise ValueError("no name of a file")
    return found


def _stamp(file: str) -> Stamp:
    status = os.stat(file)
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev
