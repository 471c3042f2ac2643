"""A cgroup for each run, version 2: limits of its processes and memory, and an end for all of them at once.

The kernel lets a process use them where its own cgroup is delegated to it: `Delegate=yes` in the unit of systemd. The
processes of the node move into `node`, since a cgroup with controllers has no processes of its own. Runs are in
`runs/<number>`.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_MARKS = ("user.delegate", "trusted.delegate")  # attributes that systemd gives to what it delegates
_WANTED = ("pids", "memory")
_GONE_SECS = 2.0
_HANDED_OVER = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")


def prepare(group: int = -1, place: Path | None = None) -> str:
    """Make the folder for the cgroups of runs, for the users of `group`; "" where that can't be.

    `place`: the cgroup of this node; it is looked up, and must be delegated, unless it is given.
    """
    if not place:
        place = _own()
        if not place or not _is_delegated(place):
            return ""
        if place.name == "node":  # of an agent that was here before
            place = place.parent
    try:
        return str(_divide(place, group))
    except OSError:  # a cgroup of others, or one with processes that can't be moved
        return ""


def _own() -> Path | None:
    """The cgroup of this process."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not in every sandbox
        return None
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    where = next((line.split()[4] for line in mounts if " - cgroup2 " in line), "")
    return Path(f"{where}{path}") if path and where else None


def _is_delegated(place: Path) -> bool:
    for folder in (place, place.parent):
        for name in _MARKS:
            with suppress(OSError):  # it has no such attribute
                if os.getxattr(folder, name) == b"1":
                    return os.access(folder, os.W_OK)
    return False


def _divide(place: Path, group: int) -> Path:
    node, runs = place / "node", place / "runs"
    node.mkdir(exist_ok=True)
    runs.mkdir(exist_ok=True)
    for pid in (place / "cgroup.procs").read_text(encoding="ascii").split():
        with suppress(ProcessLookupError):
            (node / "cgroup.procs").write_text(pid, encoding="ascii")
    for folder in (place, runs):
        there = (folder / "cgroup.controllers").read_text(encoding="ascii").split()
        for name in _WANTED:
            if name in there:
                (folder / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")
    for old in runs.iterdir():
        if old.is_dir():
            Group(old).remove()
    if group >= 0:
        # A process may be moved by who may write both here and in the cgroup above both.
        for path in (place / "cgroup.procs", runs, *(runs / name for name in _HANDED_OVER)):
            os.chown(path, -1, group)
            path.chmod(path.stat().st_mode | (0o070 if path == runs else 0o060))
    return runs


def objection(runs: Path) -> str:
    """Why the cgroups of runs, made by this process, are not as they should be; "" when they are."""
    probe = Group(runs / "probe")
    try:
        probe.place.mkdir()
        there = (probe.place / "cgroup.controllers").read_text(encoding="ascii").split()
    except OSError as error:
        return f"they can't be made ({error.strerror})"
    finally:
        probe.remove()
    lacking = [name for name in _WANTED if name not in there]
    return f"without {' and '.join(lacking)}" if lacking else ""


class Group:
    """The cgroup of one run."""

    def __init__(self, place: Path) -> None:
        self.place = place

    @classmethod
    def make(cls, runs: Path, name: str, pid: int) -> Group | None:
        """Make one and put a process into it; None when that can't be."""
        made = cls(runs / name)
        try:
            made.place.mkdir()
            made._write("cgroup.procs", pid)
        except OSError:
            made.remove()
            return None
        return made

    def limit(self, pids: int, memory: int) -> bool:
        """Limit processes and memory in bytes, 0 for no limit; whether all that was asked for is in force."""
        wanted = [("pids.max", pids)] if pids else []
        if memory:
            wanted += [("memory.max", memory), ("memory.oom.group", 1)]
        done = True
        for name, value in wanted:
            try:
                self._write(name, value)
            except OSError:  # this controller is not delegated
                done = False
        if memory:
            with suppress(OSError):  # without swap, or its accounting
                self._write("memory.swap.max", 0)
        return done

    def pids(self) -> list[int]:
        """Its processes."""
        try:
            return [int(line) for line in self._read("cgroup.procs").split()]
        except OSError:  # it is gone
            return []

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed something here for want of memory."""
        with suppress(OSError):  # without that controller
            for line in self._read("memory.events").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count) > 0
        return False

    def kill(self) -> None:
        """Kill all at once."""
        with suppress(OSError):  # it is gone, or Linux is older than 5.14
            self._write("cgroup.kill", 1)

    def remove(self) -> bool:
        """Kill all and remove the cgroup; whether it is gone."""
        end = time.monotonic() + _GONE_SECS
        while True:
            try:
                self.place.rmdir()
            except FileNotFoundError:
                return True
            except OSError:
                self.kill()
                if time.monotonic() > end:
                    return False
                time.sleep(0.002)
            else:
                return True

    def _write(self, name: str, value: int) -> None:
        (self.place / name).write_text(str(value), encoding="ascii")

    def _read(self, name: str) -> str:
        return (self.place / name).read_text(encoding="ascii")
