"""The memory of the processes of a cluster."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

import psutil

SAMPLE_SECS = 0.05
MIB = 1 << 20


@dataclass(frozen=True)
class Usage:
    """The memory of one process, in bytes. `rss` includes mapped files, `anonymous` does not."""

    role: str
    rss: int
    uss: int
    anonymous: int

    def __str__(self) -> str:
        return (
            f"{self.role}: {self.rss / MIB:.0f} RSS / {self.uss / MIB:.0f} USS / {self.anonymous / MIB:.0f} anonymous"
        )


def tree(pid: int) -> list[psutil.Process]:
    """A process and its descendants, parents first; empty when it is gone."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def usage(pid: int) -> list[Usage]:
    """The memory of a process and of each of its descendants now."""
    found = []
    for process in tree(pid):
        try:
            full = process.memory_full_info()
            found.append(Usage(role(process.cmdline()), full.rss, full.uss, _anonymous(process.pid)))
        except psutil.NoSuchProcess:
            continue
    return found


def role(command: list[str]) -> str:
    """The role of a process of a cluster, by its command."""
    if "-m" in command:
        package, _, module = command[command.index("-m") + 1].partition(".")
        return module or f"{package} itself"
    return "resource tracker" if "resource_tracker" in " ".join(command) else "web worker"


def _anonymous(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            return next((int(line.split()[1]) << 10 for line in status if line.startswith("RssAnon:")), 0)
    except OSError:
        return 0


class Watch:
    """Samples the resident memory of groups of processes while the context lasts, in bytes.

    A group has a name, and the processes with the ids given and their descendants.
    """

    def __init__(self, **groups: list[int]) -> None:
        self.before: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.after: dict[str, int] = {}
        self._processes = {group: [process for pid in pids for process in tree(pid)] for group, pids in groups.items()}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        self.before = self._now()
        self.most = dict(self.before)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.after = self._now()

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECS):
            for group, rss in self._now().items():
                self.most[group] = max(self.most[group], rss)

    def _now(self) -> dict[str, int]:
        return {group: sum(map(_rss, processes)) for group, processes in self._processes.items()}


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
