"""Finds and kills every process of a run, whatever it did to get away.

A process may change its session, its parent and its environment, but it does not change its resource limits by
accident. RLIMIT_LOCKS has had no effect since Linux 2.4.25. Every child still inherits it, through fork, exec and
setsid, and one system call tells it of any process. So each run is marked with a number of its own there. In sandboxes
that don't allow this, a process is known by its session, or by PULZAR_RUN in its environment.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterable
from contextlib import suppress

NODE_VARIABLE = "PULZAR_NODE_RUNS"
RUN_VARIABLE = "PULZAR_RUN"

_RLIMIT_LOCKS = 10
_SERIAL_BITS = 31
MOST_SERIALS = (1 << _SERIAL_BITS) - 1
_ZYGOTE_BITS = 24  # serials of one zygote; its number is above them
SERIALS = 1 << _ZYGOTE_BITS
_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_PAGE_BYTES = resource.getpagesize()
TRACKER_SECS = 4.0  # for trackers to remove shared memory when all others are gone; mostly milliseconds
_TRACKER = b"resource_tracker import main"
_TRACKERS = (_TRACKER, b"torch_shm_manager")
_OF_PYTHON = (*_TRACKERS, b"multiprocessing.forkserver import main")  # they end by themselves when they are not needed
_COMMAND_BYTES = 4096
_RANGE = 512  # fewer pids than this are tried one by one; for more, /proc is listed

_prctl = ctypes.CDLL(None, use_errno=True).prctl


_main_thread = threading.main_thread()
_fork = ctypes.PyDLL(None, use_errno=True).fork  # without what `os.fork` does for threads, of which there is one


def fork(whole: bool) -> int:
    """Fork this process, which has one thread; 0 in the child. Raises `OSError`.

    `whole`: as `os.fork` does it, which calls what modules have registered for a fork. Else only what is needed without
    other threads: it leaves out 200 of the child's page faults, nearly half of its processor time.
    """
    if whole:
        return os.fork()
    random.seed()  # here, for the child: there each page that is written to is copied first
    pid: int = _fork()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if not pid:
        _main_thread._native_id = os.getpid()  # type: ignore[attr-defined]
    return pid


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of all its descendants whose own parents end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def prefer_to_die(score: int) -> None:
    """Make the kernel kill this process and its children before others when memory is short; 1000 is the most."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+", encoding="ascii") as file:  # not in every sandbox
        if int(file.read()) < score:
            file.write(str(score))


class Marks:
    """The marks of one node's runs: its number in the upper half, the run's serial below; 0 is the zygote's own."""

    def __init__(self, node: str) -> None:
        """`node` is 8 or more hex digits that no other node on this machine has."""
        self.node = node
        self._base = (int(node[:8], 16) >> 1 | 1) << _SERIAL_BITS

    def put(self, serial: int, again: bool = False) -> bool:
        """Mark this process and what it will start; whether the system lets it.

        `again`: it will be marked once more, with another serial.
        """
        mark = self._base + serial
        try:
            # Limits may only be lowered, by those who are not root: so the zygote's, for 0, is the highest.
            value = mark if serial else self._base + MOST_SERIALS
            most = self._base + MOST_SERIALS if again else value
            resource.setrlimit(_RLIMIT_LOCKS, (value, most))
        except (ValueError, OSError):  # not in every sandbox
            return False
        return True

    def serial(self, pid: int) -> int:
        """The serial in the mark of a process, 0 for none of a run, -1 for none of this node's or no process."""
        try:
            mark = resource.prlimit(pid, _RLIMIT_LOCKS)[0]
        except (ProcessLookupError, PermissionError):  # it has ended, or is another user's
            return -1
        if mark >> _SERIAL_BITS << _SERIAL_BITS != self._base:
            return -1
        return (mark - self._base) % MOST_SERIALS

    def of_zygote(self, number: int) -> list[int]:
        """All processes of the runs of the zygote with this number."""
        return [pid for pid in all_processes() if (serial := self.serial(pid)) > 0 and serial // SERIALS == number]

    def everything(self) -> list[int]:
        """All processes of this node's zygotes and runs."""
        variable = f"{NODE_VARIABLE}={self.node}".encode()
        return [pid for pid in all_processes() if self.serial(pid) >= 0 or variable in environment(pid)]


def all_processes() -> list[int]:
    """The pids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


class Clock:
    """Tells how many processes there have been: the kernel gives pids one after the other."""

    def __init__(self) -> None:
        self._loadavg = os.open("/proc/loadavg", os.O_RDONLY)

    def last(self) -> int:
        """The pid that was given last."""
        return int(os.pread(self._loadavg, 128, 0).rsplit(b" ", 1)[1])

    def since(self, last: int) -> Iterable[int]:
        """The pids of all processes that began after `last`, and perhaps of others."""
        now = self.last()
        if last <= now < last + _RANGE:
            return range(last + 1, now + 1)
        return all_processes()


def _proc(pid: int, name: str, most: int = -1) -> bytes:
    """At most so many bytes of a file about a process in /proc; b"" when it is gone or can't be seen."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            return file.read(most)
    except OSError:  # it has ended meanwhile, or is another user's
        return b""


def environment(pid: int) -> list[bytes]:
    """The environment that a process was started with; nothing when it can't be seen."""
    return _proc(pid, "environ").split(b"\0")


def commands(pids: Iterable[int]) -> list[tuple[int, str]]:
    """Processes with their command lines. Those that have ended or serve Python itself are left out."""
    found: list[tuple[int, str]] = []
    for pid in pids:
        text = _proc(pid, "cmdline", _COMMAND_BYTES)
        if not text and resident([pid]):  # it has only just begun its program, and a name is all it has yet
            text = _proc(pid, "comm", _COMMAND_BYTES)
        if text and not ended(pid) and not any(helper in text for helper in _OF_PYTHON):
            found.append((pid, text.replace(b"\0", b" ").decode(errors="replace").strip()))
    return found


class Title:
    """What `ps` and `top` show of this process and of its forks.

    The command line stays where the kernel put it. That memory can be written, but not made longer.
    """

    def __init__(self) -> None:
        fields = _proc(os.getpid(), "stat").rpartition(b") ")[2].split()
        self._start, end = int(fields[45]), int(fields[46])
        self._room = max(0, end - self._start)  # 0 where the system does not tell

    def put(self, name: str, text: str) -> None:
        """Show `name`, cut to 15 characters, as the name of the process, and `text` as its command line."""
        _prctl(_PR_SET_NAME, name.encode("ascii", "replace")[:15])
        if self._room:
            # Its last byte must be a zero, else the kernel takes the environment for more of it.
            ctypes.memmove(self._start, text.encode()[: self._room - 1].ljust(self._room, b"\0"), self._room)


def session(pid: int) -> int:
    """The session of a process, 0 when it is gone."""
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):  # a process of a run is never another user's
        return 0


def data_bytes() -> int:
    """What RLIMIT_DATA counts of this process."""
    return int(_proc(os.getpid(), "statm").split()[5]) * _PAGE_BYTES


def resident(pids: Iterable[int]) -> int:
    """The memory that some processes hold, in bytes; what they share is counted for each."""
    fields = [_proc(pid, "statm").split() for pid in pids]
    return sum(int(field[1]) for field in fields if field) * _PAGE_BYTES


def proportional(pids: Iterable[int]) -> int:
    """The memory that some processes hold, in bytes; what several share is counted once. Slow for large ones."""
    lines = [line for pid in pids for line in _proc(pid, "smaps_rollup").splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(b"Pss:")) << 10


def heed_signals() -> None:
    """Make signals work as in a program that a person starts, whatever this process was told to ignore.

    `nohup node &` ignores some, and every process that comes from here would inherit that.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # those Python ignores itself
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there is one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # its last process has ended
        return False
    return True


def kill(pids: Iterable[int]) -> None:
    """Kill processes of runs and their groups. A group dies at once, so none of its processes can fork away."""
    own = os.getpgrp()
    for pid in pids:
        try:
            group = os.getpgid(pid)
            if group != own:
                os.killpg(group, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has ended meanwhile
            continue


def kill_but_trackers(pids: Collection[int], until: float) -> None:
    """Kill processes of runs; before `until`, by the monotonic clock, spare those that clean up after the others.

    As long as there is one of these, the others are killed one by one, since it may be in the same group.
    """
    spared = {pid for pid in pids if _is_tracker(pid)} if time.monotonic() < until else set()
    if not spared:
        kill(pids)
    for pid in set(pids) - spared if spared else ():
        with suppress(ProcessLookupError, PermissionError):  # it has ended meanwhile
            os.kill(pid, signal.SIGKILL)


def _is_tracker(pid: int) -> bool:
    """Whether a process removes shared memory and semaphores for multiprocessing, joblib or PyTorch.

    One that has no command line as yet may become one: it is about to be another program.
    """
    command = _proc(pid, "cmdline", _COMMAND_BYTES)
    return any(tracker in command for tracker in _TRACKERS) if command else not ended(pid)


def ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to notice."""
    return _proc(pid, "stat").rpartition(b") ")[2][:1] in b"ZX"


def sweep(marks: Marks, seconds: float, number: int = -1) -> int:
    """Kill all that is left of a node's runs; how many processes are still there after `seconds`.

    `number`: that of the zygote whose runs are meant, -1: all of them.
    """
    now = time.monotonic()
    until, spare_until = now + seconds, now + TRACKER_SECS
    while left := [pid for pid in (marks.everything() if number < 0 else marks.of_zygote(number)) if not ended(pid)]:
        kill_but_trackers(left, spare_until)
        if time.monotonic() > until:
            break
        time.sleep(0.005)
    return len(left)


def describe_status(status: int) -> str:
    """What a wait status says, in words; "" for success."""
    if status & 0x7F == 0:
        code = status >> 8
        return f"exit status {code}" if code else ""
    number = status & 0x7F
    try:
        return f"killed by signal {number} ({signal.Signals(number).name})"
    except ValueError:  # one without a name, like those for real time
        return f"killed by signal {number}"


def describe_bytes(count: int) -> str:
    """A number of bytes for a person: `64 MiB`."""
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << bits:
            return f"{count / (1 << bits):.4g} {unit}"
    return f"{count} bytes"


if __name__ == "__main__":  # `python -m node.runs.processes NODE SECONDS NUMBER`, as the user of runs
    sys.exit(min(sweep(Marks(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])), 100))
