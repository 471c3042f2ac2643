"""Finding and killing every process of a run, whatever it did to get away.

A process may change its session, its parent, its environment; what it can't do by accident is to change
its resource limits. RLIMIT_LOCKS has had no effect since Linux 2.4.25, but every child still inherits it, through
fork, exec and setsid, and one system call tells it of any process. So each run is marked with a number of its own
there. Where that can't be set (some sandboxes), its session and PULZAR_RUN in its environment have to do.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Collection, Iterable
from contextlib import suppress

NODE_VARIABLE = "PULZAR_NODE_RUNS"
RUN_VARIABLE = "PULZAR_RUN"

_RLIMIT_LOCKS = 10
_SERIAL_BITS = 31
MOST_SERIALS = (1 << _SERIAL_BITS) - 1
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PAGE_BYTES = resource.getpagesize()
TRACKER_SECS = 4.0  # for those that remove shared memory to do so, once all others are gone; mostly milliseconds
_TRACKER = b"resource_tracker import main"
_TRACKERS = (_TRACKER, b"torch_shm_manager")
_OF_PYTHON = (*_TRACKERS, b"multiprocessing.forkserver import main")  # they end by themselves when they are not needed
_COMMAND_BYTES = 4096
_RANGE = 512  # processes: fewer numbers than this are tried one by one, more are looked up in /proc

_prctl = ctypes.CDLL(None, use_errno=True).prctl


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Have the kernel make this process the parent of all its descendants whose own parents end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def prefer_to_die(score: int) -> None:
    """Have the kernel end this process and its children before others when it has no memory left; 1000 is the most."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:  # not in every sandbox
        if int(file.read()) < score:
            file.write(str(score))


class Marks:
    """The marks of one node's runs: its number in the upper half, the run's serial below; 0 is the zygote's own."""

    def __init__(self, node: str) -> None:
        """`node` is 8 or more hex digits that no other node on this machine has."""
        self.node = node
        self._base = (int(node[:8], 16) >> 1 | 1) << _SERIAL_BITS

    def put(self, serial: int) -> bool:
        """Mark this process and what it will start; whether the system lets it."""
        mark = self._base + serial
        try:
            # Limits may only be lowered, by those who are not root: so the zygote's, for 0, is the highest.
            value = mark if serial else self._base + MOST_SERIALS
            resource.setrlimit(_RLIMIT_LOCKS, (value, value))
        except (ValueError, OSError):
            return False
        return True

    def serial(self, pid: int) -> int:
        """The serial in the mark of a process, 0 for none of a run, -1 for none of this node's or no process."""
        try:
            mark = resource.prlimit(pid, _RLIMIT_LOCKS)[0]
        except (ProcessLookupError, PermissionError):
            return -1
        if mark >> _SERIAL_BITS << _SERIAL_BITS != self._base:
            return -1
        return (mark - self._base) % MOST_SERIALS

    def everything(self) -> list[int]:
        """All processes of this node's zygotes and runs."""
        variable = f"{NODE_VARIABLE}={self.node}".encode()
        return [pid for pid in all_processes() if self.serial(pid) >= 0 or variable in environment(pid)]


def all_processes() -> list[int]:
    """The numbers of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


class Clock:
    """Tells how many processes there have been: the kernel gives numbers one after the other."""

    def __init__(self) -> None:
        self._loadavg = os.open("/proc/loadavg", os.O_RDONLY)

    def last(self) -> int:
        """The number that was given last."""
        return int(os.pread(self._loadavg, 128, 0).rsplit(b" ", 1)[1])

    def since(self, last: int) -> Iterable[int]:
        """The numbers of the processes that began since `last` was the last one, and perhaps of others."""
        now = self.last()
        if last <= now < last + _RANGE:
            return range(last + 1, now + 1)
        return all_processes()


def environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; nothing when it can't be seen."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def commands(pids: Iterable[int]) -> list[tuple[int, str]]:
    """Processes with their command lines. Those that have ended or serve Python itself are left out."""
    found: list[tuple[int, str]] = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                text = file.read(_COMMAND_BYTES)
            if not text and resident([pid]):  # it has only just begun its program, and a name is all it has yet
                with open(f"/proc/{pid}/comm", "rb") as file:
                    text = file.read(_COMMAND_BYTES)
        except OSError:
            continue
        command = text.replace(b"\0", b" ").decode(errors="replace").strip()
        if text and not ended(pid) and not any(helper in text for helper in _OF_PYTHON):
            found.append((pid, command))
    return found


class Title:
    """What `ps` and `top` show of this process and of those that are forked from it.

    The command line is where the kernel put it: in memory that is ours to write, but not to make longer.
    """

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        self._start, end = int(fields[45]), int(fields[46])
        self._room = max(0, end - self._start)  # 0 where the system does not tell

    def put(self, name: str, text: str) -> None:
        """`name` is that of the process, of which 15 characters are kept, `text` its command line."""
        _prctl(_PR_SET_NAME, name.encode("ascii", "replace")[:15])
        if self._room:
            # Its last byte must be a zero, else the kernel takes the environment for more of it.
            ctypes.memmove(self._start, text.encode()[: self._room - 1].ljust(self._room, b"\0"), self._room)


def session(pid: int) -> int:
    """The session of a process, 0 when it is gone."""
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return 0


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * _PAGE_BYTES


def resident(pids: Iterable[int]) -> int:
    """The memory that some processes hold, in bytes; what they share is counted for each."""
    pages = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                pages += int(file.read().split()[1])
        except OSError:  # ended meanwhile
            continue
    return pages * _PAGE_BYTES


def proportional(pids: Iterable[int]) -> int:
    """The memory that some processes hold, in bytes; what several share is counted once. Slow for large ones."""
    kilobytes = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
                kilobytes += sum(int(line.split()[1]) for line in file if line.startswith(b"Pss:"))
        except OSError:  # ended meanwhile
            continue
    return kilobytes << 10


def heed_signals() -> None:
    """Have signals do what they do in a program that a person starts, whatever this process was told to ignore.

    `nohup node &` ignores some, and what is ignored is so in all that comes from here.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # those Python ignores itself
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def kill(pids: Iterable[int]) -> None:
    """Kill processes of runs, and the groups they are in: a group goes at once, so that nothing forks its way out."""
    own = os.getpgrp()
    for pid in pids:
        try:
            group = os.getpgid(pid)
            if group != own:
                os.killpg(group, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def kill_but_trackers(pids: Collection[int], until: float) -> None:
    """Kill processes of runs; until then, by the monotonic clock, not those that clean up when all others are gone.

    As long as there is one of these, the others are killed one by one, since it may be in the same group.
    """
    spared = {pid for pid in pids if _is_tracker(pid)} if time.monotonic() < until else set()
    if not spared:
        kill(pids)
    for pid in set(pids) - spared if spared else ():
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _is_tracker(pid: int) -> bool:
    """Whether a process is one that multiprocessing, joblib or PyTorch has for removing shared memory and semaphores.

    One that has no command line as yet may become one: it is just about to be another program.
    """
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            command = file.read(_COMMAND_BYTES)
    except OSError:  # ended meanwhile
        return False
    return any(tracker in command for tracker in _TRACKERS) if command else not ended(pid)


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to notice."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] in b"ZX"
    except OSError:
        return True


def sweep(marks: Marks, seconds: float) -> int:
    """Kill all that is left of a node's runs; how many processes were still there after so many seconds."""
    now = time.monotonic()
    until, spare_until = now + seconds, now + TRACKER_SECS
    while left := [pid for pid in marks.everything() if not ended(pid)]:
        kill_but_trackers(left, spare_until)
        if time.monotonic() > until:
            break
        time.sleep(0.005)
    return len(left)
