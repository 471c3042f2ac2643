"""The process that the processes of runs are forked from: small, single-threaded, everything common loaded.

It makes a few of them ahead of demand (`leader.py`), hands tasks to them, sees them end, and kills
whatever of a run is left then; a run is reported as ended only when nothing of it is alive any more. It also watches
how much the runs take. When its agent is gone, it kills everything and ends.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from jobs import loader, scripts
from jobs.errors import BadScript
from node.runs import bytecode, early_tracker, processes, run_process
from node.runs.framing import Frames
from node.runs.process_tree import ProcessTree, RunProcesses, excess
from node.runs.protocol import RUN, SIGNAL, RunOrder, Task, ZygoteOptions
from node.runs.scratch import Scratch

# What scripts use most: loaded here, it costs them nothing.
_COMMON = (
    "base64",
    "collections",
    "csv",
    "datetime",
    "hashlib",
    "jobs.client",
    "logging",
    "math",
    "pathlib",
    "random",
    "re",
    "shutil",
    "string",
    "subprocess",
    "tempfile",
    "textwrap",
    "threading",
    "traceback",
    "urllib.parse",
    "uuid",
)

_TICK_SECS = 0.05  # while something runs
_LOOK_SECS = 0.25
_MANY = 32  # new processes in one tick, after which a look is due at once
_AGAIN_SECS = 0.5  # between tries to fork where there is no room for it
_CLEAR_SECS = 10.0  # for processes to be gone after SIGKILL
_LEARN_BYTES = 1 << 18  # larger scripts are compiled by their own processes
_ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))  # the folder with our packages
_PACKAGE = (__package__ or "").partition(".")[0]
_OOM_SCORE = 300  # when the machine has no memory left, runs go before the agent


class _Spare(NamedTuple):
    pid: int
    frames: Frames


class Zygote:
    """The loop."""

    def __init__(self, options: ZygoteOptions) -> None:
        self._options = options
        self._frames = Frames(socket.socket(fileno=options.socket))
        self._frames.socket.set_inheritable(False)
        self._marks = processes.Marks(options.node)
        self._families = ProcessTree(self._marks)
        self._sources = loader.Sources()
        self._spares: deque[_Spare] = deque()
        self._live: dict[int, RunProcesses] = {}  # by the leader's pid
        self._runs: dict[str, RunProcesses] = {}
        self._serial = 0
        self._scratch = Scratch(options.directory, options.node)
        self._look_at = 0.0
        self._fork_at = 0.0
        self._last = 0
        self._wakeup, self._wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Work until the agent is gone."""
        processes.heed_signals()  # as scripts expect
        # Not ignored: one that is sent to a run's process before that is ready for it shall wait there.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        processes.adopt_orphans()
        poll = select.poll()
        poll.register(self._frames.socket, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        self._scratch.clean()
        gc.collect()
        gc.freeze()
        # Scripts shall not find our modules: they may have some of that name. Everything here has what it needs of them.
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
        self._common = run_process.Common(
            os.getpid(), self._marks, self._sources, processes.data_bytes(), processes.Title()
        )
        try:
            while True:
                lacking = len(self._spares) < self._options.spares and time.monotonic() >= self._fork_at
                events = poll.poll(0 if lacking else int(_TICK_SECS * 1000) if self._live else None)
                for descriptor, _ in events:
                    if descriptor == self._wakeup:
                        os.read(self._wakeup, 4096)
                        self._reap()
                    else:
                        for message in self._frames.receive():
                            self._do(message)
                if self._live:
                    self._watch()
                if lacking and not events:
                    self._fork_ahead()
        except (EOFError, ConnectionError):
            self._end_all()

    def _do(self, message: list[Any]) -> None:
        kind, *fields = message
        if kind == RUN:
            self._begin(RunOrder(*fields[0]))
        elif kind == SIGNAL:
            run, number = fields
            live = self._runs.get(run)
            if live and live.status is None:
                live.stopped = True
                if number == signal.SIGKILL:
                    self._kill(live)
                elif not processes.signal_group(live.pid, number):
                    os.kill(live.pid, number)  # it has no group of its own yet

    def _fork_ahead(self) -> None:
        try:
            self._fork()
        except OSError:  # no room for another; an order that finds none says so
            self._fork_at = time.monotonic() + _AGAIN_SECS

    def _fork(self) -> None:
        """Make a process that waits for a task."""
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not pid:
            run_process.wait(theirs, self._common)
        theirs.close()
        self._spares.append(_Spare(pid, Frames(ours)))

    def _begin(self, order: RunOrder) -> None:
        """Hand an order to a process, with the two descriptors that came with it."""
        descriptors = [self._frames.descriptors.popleft(), self._frames.descriptors.popleft()]
        self._serial = self._serial % (processes.MOST_SERIALS - 1) + 1
        directories = self._scratch.path(order.run), self._scratch.temporary(order.run)
        task = Task(order, self._options.scripts, self._options.output, *directories, self._serial)
        since = self._families.clock.last()
        try:
            pid = self._hand_over(task, descriptors)
        except OSError as error:
            self._frames.send([order.run, 1 << 8, False, f"the run can't be started: {error.strerror}", "", []])
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        live = RunProcesses(task, pid, since)
        self._live[pid] = self._runs[order.run] = live
        self._learn(order.job)

    def _hand_over(self, task: Task, descriptors: list[int]) -> int:
        """Give a process its task; its number. Raises `OSError` when there can't be another process."""
        while True:
            if not self._spares:
                self._fork()
            spare = self._spares.popleft()
            copies = [os.dup(descriptor) for descriptor in descriptors]
            try:
                spare.frames.send(task, copies)
            except (BrokenPipeError, ConnectionResetError):
                continue  # that one was killed; the next
            finally:
                spare.frames.close()
            return spare.pid

    def _learn(self, job: str) -> None:
        """Compile a script for those to come. What is wrong with it, the process of its run will find and tell."""
        with suppress(OSError, ValueError, SyntaxError, RecursionError, MemoryError, BadScript):
            file = scripts.locate(self._options.scripts, job).file
            if os.stat(file).st_size <= _LEARN_BYTES:
                self._sources.get(file, quiet=True)

    # The end of runs.

    def _reap(self) -> None:
        """Take note of the processes that have ended."""
        while pid := self._ended():
            live = self._live.get(pid)
            if live:
                now = time.monotonic()
                live.until, live.spare_until = now + _CLEAR_SECS, now + processes.TRACKER_SECS
                left = [other for other in self._families.of(live, self._known()) if other != pid]
                live.left = bool(left)
                if left:  # as long as its leader is not reaped, the group's number is nobody else's
                    live.killed = [] if live.stopped or live.reason else processes.commands(left)
                    processes.kill_but_trackers(left, live.spare_until)
            status = os.waitpid(pid, 0)[1]
            if live:
                live.status = status
            elif pid == self._scratch.cleaner:
                self._scratch.cleaned()
            else:
                self._forget_spare(pid)
        for live in list(self._live.values()):
            if live.status is not None:
                self._clear(live)

    def _forget_spare(self, pid: int) -> None:
        for spare in self._spares:
            if spare.pid == pid:
                spare.frames.close()
                self._spares.remove(spare)
                self._fork_at = time.monotonic() + _AGAIN_SECS  # whatever ended it may end the next
                return

    def _ended(self) -> int:
        """A child that has ended, not reaped yet; 0 for none."""
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return 0
        return found.si_pid if found else 0

    def _clear(self, live: RunProcesses) -> None:
        """Kill what is left of a run whose leader has ended; report it when nothing is."""
        left = self._families.of(live, self._known()) if live.left else []
        if left:
            processes.kill_but_trackers(left, live.spare_until)
            if time.monotonic() < live.until:
                return  # until one of them ends, or the next tick
        del self._live[live.pid], self._runs[live.run]
        notes = [f"processes that can't be killed: {left}"] if left else map(self._scratch.remove, live.directories)
        note = "; ".join(filter(None, list(notes)))
        if not self._families.marked and not self._live:
            processes.kill(self._families.strays(self._known()))
        self._frames.send([live.run, live.status, live.stopped, live.reason, note, live.killed])

    def _known(self) -> list[int]:
        return [os.getpid(), self._scratch.cleaner, *self._live, *(spare.pid for spare in self._spares)]

    def _kill(self, live: RunProcesses, spare: bool = True) -> None:
        until = time.monotonic() + processes.TRACKER_SECS if spare else 0.0
        processes.kill_but_trackers([live.pid, *self._families.of(live, self._known())], until)

    def _end_all(self) -> None:
        now = time.monotonic()
        until, spare_until = now + _CLEAR_SECS, now + processes.TRACKER_SECS
        while time.monotonic() < until:
            while pid := self._ended():
                os.waitpid(pid, 0)
            left = self._families.strays([os.getpid()])
            if not left:
                break
            processes.kill_but_trackers(left, spare_until)
            time.sleep(0.002)
        self._scratch.close()

    # What they take.

    def _watch(self) -> None:
        """Look after the runs, now and then and when there are many new processes."""
        now, last = time.monotonic(), self._families.clock.last()
        if now < self._look_at and 0 <= last - self._last < _MANY:
            return
        self._look_at, self._last = now + _LOOK_SECS, last
        families = self._families.all(self._live.values(), self._known())
        for live in list(self._live.values()):
            if live.status is not None:
                self._clear(live)
            elif reason := excess(live, pids := families.get(live.serial, []), self._options.processes):
                live.reason = live.reason or reason
                self._kill(live, spare=len(pids) <= self._options.processes)


def _make_streams() -> None:
    """Make standard output and standard error anew, over a pipe.

    They remember whether they can be sought in, and those of a run are pipes, whatever those of this node are.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    for name, number in (("stdout", 1), ("stderr", 2)):
        kept = os.dup(number)
        os.dup2(write, number)
        raw = io.FileIO(number, "w", closefd=False)
        raw.name = f"<{name}>"
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        stream.mode = "w"  # type: ignore[misc]
        os.dup2(kept, number)
        os.close(kept)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.close(read)
    os.close(write)


def main() -> None:
    """`python -m node.runs.zygote OPTIONS`, started by the runner only; the options are JSON."""
    options = ZygoteOptions(*json.loads(sys.argv[1]))
    _make_streams()
    for name in _COMMON:
        importlib.import_module(name)
    # Whatever scripts import by name is not ours, but for what is on their own path (`jobs/surroundings.py`).
    root = _ROOT
    sys.path[:] = [path for path in sys.path if path != root]
    os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH", "").removeprefix(f"{root}{os.pathsep}")
    os.environ |= run_process.ENVIRONMENT
    bytecode.keep(options.cache)
    early_tracker.arrange()
    faulthandler.enable(2, all_threads=False)  # to the log of a run that breaks, since its processes inherit this
    processes.prefer_to_die(_OOM_SCORE)
    Zygote(options).serve()


if __name__ == "__main__":
    main()
