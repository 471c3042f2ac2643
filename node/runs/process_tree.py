"""The processes of each run, as the zygote finds them, and whether they take too much."""

from __future__ import annotations

import time
from collections.abc import Iterable

from node.runs import processes
from node.runs.model import size
from node.runs.protocol import Task

_YOUNG_SECS = 2.0  # by then, the numbers of processes can't have come round


class RunProcesses:
    """A run of which something lives."""

    def __init__(self, task: Task, pid: int, since: int) -> None:
        self.run = task.order.run
        self.memory = task.order.memory
        self.directories = [task.scratch, f"{task.scratch}.data"] if task.order.data_path else [task.scratch]
        self.serial = task.serial
        self.pid = pid  # of its leader
        self.began = time.monotonic()
        self.since = since  # the last process before its own
        self.status: int | None = None  # of its leader, when that has ended
        self.stopped = False  # a signal was sent to it
        self.reason = ""  # why it was killed here
        self.killed: list[tuple[int, str]] = []  # what that was, when nobody had asked for the end
        self.until = 0.0  # when to report it in any case, once its leader has ended
        self.spare_until = 0.0  # until when those that clean up after it may live on
        self.left = True  # whether anything of it but its leader was alive when that had ended


class ProcessTree:
    """Finds the processes of runs."""

    def __init__(self, marks: processes.Marks) -> None:
        """Marks this process, which must be the zygote."""
        self._marks = marks
        self.marked = marks.put(0)
        self.clock = processes.Clock()

    def of(self, live: RunProcesses, known: Iterable[int]) -> list[int]:
        """The processes of a run. `known` are those of which it is known that they are none, where marks don't tell."""
        young = time.monotonic() - live.began < _YOUNG_SECS
        candidates = self.clock.since(live.since) if young else processes.all_processes()
        if self.marked:
            found = [pid for pid in candidates if self._marks.serial(pid) == live.serial]
        else:
            mark = f"{processes.RUN_VARIABLE}={live.run}".encode()
            others = set(known)
            found = [
                pid
                for pid in candidates
                if pid not in others and (processes.session(pid) == live.pid or mark in processes.environment(pid))
            ]
        return found

    def all(self, lives: Iterable[RunProcesses], known: Iterable[int]) -> dict[int, list[int]]:
        """The processes of all runs, by serial."""
        if not self.marked:
            known = list(known)
            return {live.serial: self.of(live, known) for live in lives}
        families: dict[int, list[int]] = {}
        for pid in processes.all_processes():
            serial = self._marks.serial(pid)
            if serial > 0:
                families.setdefault(serial, []).append(pid)
        return families

    def strays(self, known: Iterable[int]) -> list[int]:
        """Processes of this node that are not known."""
        kept = set(known)
        return [pid for pid in self._marks.everything() if pid not in kept]


def excess(live: RunProcesses, pids: list[int], most: int) -> str:
    """What a run takes too much of, in words; "" when it does not. `most` is how many processes it may have."""
    if len(pids) > most:
        return f"had more than {most} processes"
    # What is shared is counted more than once by the quick look, so only the slow one condemns.
    if live.memory and processes.resident(pids) > live.memory and processes.proportional(pids) > live.memory:
        return f"used more than {size(live.memory)} of memory"
    return ""
