"""The processes of each run, as the zygote finds them, and whether they take too much."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from node.runs import processes
from node.runs.fence.groups import Group
from node.runs.fence.quota import ScratchUse
from node.runs.fence.view import TEMPORARY
from node.runs.protocol import Task

_YOUNG_SECS = 2.0  # by then, the numbers of processes can't have come round


class RunProcesses:
    """A run whose processes are not all gone yet."""

    def __init__(
        self, task: Task, pid: int, since: int, *, group: Group | None = None, use: ScratchUse | None = None
    ) -> None:
        self.group = group
        self.use = use  # of its scratch, when that is limited
        self.token = task.order.run
        self.memory = task.order.memory  # bytes, 0: no limit
        self.directories = [task.scratch, f"{task.scratch}.data"] if task.order.data_path else [task.scratch]
        if task.temporary == TEMPORARY and not task.home:
            self.directories.append(f"{task.scratch}.tmp")
        self.serial = task.serial
        self.pid = pid  # of its first process, the leader
        self.began = time.monotonic()
        self.since = since  # the last process before its own
        self.status: int | None = None  # wait status of its leader, when that has ended
        self.stopped = False  # a signal was sent to it
        self.reason = ""  # why it was killed here
        self.killed: list[tuple[int, str]] = []  # pids and command lines, when nobody had asked for the end
        self.until = 0.0  # when to report it in any case, once its leader has ended
        self.spare_until = 0.0  # until when those that clean up after it may live on
        self.has_rest = True  # whether others of its processes lived when its leader had ended


class ProcessTree:
    """Finds the processes of runs."""

    def __init__(self, marks: processes.Marks) -> None:
        """Mark this process, which must be the zygote."""
        self._marks = marks
        self.marked = marks.put(0)
        self.clock = processes.Clock()

    def of(self, run: RunProcesses, known: Iterable[int]) -> list[int]:
        """The processes of a run. `known`: processes that certainly belong to no run, for systems without marks."""
        young = time.monotonic() - run.began < _YOUNG_SECS
        candidates = self.clock.since(run.since) if young else processes.all_processes()
        if self.marked:
            found = [pid for pid in candidates if self._marks.serial(pid) == run.serial]
            return found if not run.group else list({*found, *run.group.pids()})
        mark = f"{processes.RUN_VARIABLE}={run.token}".encode()
        return [
            pid
            for pid in set(candidates) - set(known)
            if processes.session(pid) == run.pid or mark in processes.environment(pid)
        ]

    def all(self, runs: Collection[RunProcesses], known: Iterable[int]) -> dict[int, list[int]]:
        """The processes of each run, by its serial."""
        if not self.marked:
            known = list(known)
            return {run.serial: self.of(run, known) for run in runs}
        found: dict[int, list[int]] = {}
        for pid in processes.all_processes():
            serial = self._marks.serial(pid)
            if serial > 0:
                found.setdefault(serial, []).append(pid)
        for run in runs:
            if run.group:
                found[run.serial] = list({*found.get(run.serial, []), *run.group.pids()})
        return found

    def strays(self, known: Iterable[int]) -> list[int]:
        """Processes of this node that are not known."""
        others = set(known)
        return [pid for pid in self._marks.everything() if pid not in others]


def excess(run: RunProcesses, pids: list[int], most: int, scratch: int = 0) -> str:
    """What a run takes too much of, in words; "" if nothing.

    `most`: how many processes it may have. `scratch`: bytes that its directory may have.
    """
    if len(pids) > most:
        return f"had more than {most} processes"
    # The quick look counts shared memory more than once, so only the slow one condemns.
    if run.memory and processes.resident(pids) > run.memory and processes.proportional(pids) > run.memory:
        return describe_excess(run.memory)
    if run.use and run.use.exceeds(scratch):
        return f"used more than {processes.describe_bytes(scratch)} of its scratch directory ([jobs] scratch)"
    return ""


def describe_excess(memory: int) -> str:
    """Why a run was ended that used more than this many bytes of memory."""
    return f"used more than {processes.describe_bytes(memory)} of memory"
