"""The zygote, a small process with one thread that has loaded everything common: processes of runs are forked from it.

It makes a few of them ahead of demand (`run_process.py`), gives them their tasks and sees them end. Then it kills what
is left of the run; a run is reported as ended when none of its processes is alive any more. It also watches how much
memory and how many processes the runs take. When its agent is gone, it kills everything and ends.
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
from collections import OrderedDict
from contextlib import suppress

from jobs import loader, scripts
from jobs.errors import BadScript
from node.runs import bytecode, early_tracker, processes, run_process
from node.runs.framing import Frames, Message
from node.runs.process_tree import ProcessTree, RunProcesses, excess
from node.runs.protocol import RUN, SIGNAL, RunExit, RunOrder, Task, ZygoteOptions
from node.runs.scratch import Scratch

# The modules that scripts use most: loaded here, they cost a run nothing.
_COMMON = (
    "base64 collections csv datetime hashlib jobs.client logging math pathlib random re shutil string subprocess "
    "tempfile textwrap threading traceback urllib.parse uuid"
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


class Zygote:
    """The loop that forks, watches and ends the processes of runs."""

    def __init__(self, options: ZygoteOptions) -> None:
        self._options = options
        self._frames = Frames(socket.socket(fileno=options.socket))
        self._frames.socket.set_inheritable(False)
        self._marks = processes.Marks(options.node)
        self._tree = ProcessTree(self._marks)
        self._sources = loader.Sources()
        self._spares: OrderedDict[int, Frames] = OrderedDict()  # processes that wait for a task, by pid
        self._by_pid: dict[int, RunProcesses] = {}  # by the pid of the leader
        self._by_token: dict[str, RunProcesses] = {}
        self._serial = 0
        self._scratch = Scratch(options.directory, options.node)
        self._look_at = 0.0
        self._fork_at = 0.0
        self._last_pid = 0  # given by the kernel at the last look
        self._wakeup, self._wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Work until the agent is gone."""
        processes.heed_signals()  # as scripts expect
        # Blocked, not ignored: a signal that comes before a run's process is ready for it waits there.
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
        # Scripts must not find our modules: they may have some of that name. What is needed here has been imported.
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
        self._common = run_process.Common(
            os.getpid(), self._marks, self._sources, processes.data_bytes(), processes.Title()
        )
        try:
            while True:
                lacking = len(self._spares) < self._options.spares and time.monotonic() >= self._fork_at
                events = poll.poll(0 if lacking else int(_TICK_SECS * 1000) if self._by_pid else None)
                for descriptor, _ in events:
                    if descriptor == self._wakeup:
                        os.read(self._wakeup, 4096)
                        self._reap()
                    else:
                        for message in self._frames.receive():
                            self._do(message)
                if self._by_pid:
                    self._watch()
                if lacking and not events:
                    self._fork_ahead()
        except (EOFError, ConnectionError):
            self._end_all()

    def _do(self, message: Message) -> None:
        kind, *fields = message
        if kind == RUN:
            self._begin(RunOrder(*fields[0]))
        elif kind == SIGNAL:
            token, number = fields
            run = self._by_token.get(token)
            if run and run.status is None:
                run.stopped = True
                if number == signal.SIGKILL:
                    self._kill(run)
                elif not processes.signal_group(run.pid, number):
                    os.kill(run.pid, number)  # it has no group of its own yet

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
        self._spares[pid] = Frames(ours)

    def _begin(self, order: RunOrder) -> None:
        """Hand an order to a process, with the two descriptors that came with it."""
        descriptors = [self._frames.descriptors.popleft(), self._frames.descriptors.popleft()]
        self._serial = self._serial % (processes.MOST_SERIALS - 1) + 1
        directories = self._scratch.path(order.run), self._scratch.temporary(order.run)
        task = Task(order, self._options.scripts, self._options.output, *directories, self._serial)
        since = self._tree.clock.last()
        try:
            pid = self._hand_over(task, descriptors)
        except OSError as error:
            self._frames.send(RunExit(order.run, 1 << 8, reason=f"the run can't be started: {error.strerror}"))
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._by_pid[pid] = self._by_token[order.run] = RunProcesses(task, pid, since)
        self._learn(order.job)

    def _hand_over(self, task: Task, descriptors: list[int]) -> int:
        """Give a process its task; its pid. Raises `OSError` when there can't be another process."""
        while True:
            if not self._spares:
                self._fork()
            pid, frames = self._spares.popitem(last=False)
            copies = [os.dup(descriptor) for descriptor in descriptors]
            try:
                frames.send(task, copies)
            except (BrokenPipeError, ConnectionResetError):
                continue  # that one was killed; the next
            finally:
                frames.close()
            return pid

    def _learn(self, job: str) -> None:
        """Compile a script for the next runs of it."""
        # What is wrong with it, the process of its run finds and tells.
        with suppress(OSError, ValueError, SyntaxError, RecursionError, MemoryError, BadScript):
            file = scripts.locate(self._options.scripts, job).file
            if os.stat(file).st_size <= _LEARN_BYTES:
                self._sources.get(file, quiet=True)

    # The end of runs.

    def _reap(self) -> None:
        """Note which processes have ended, and kill what is left of their runs."""
        while pid := self._ended():
            run = self._by_pid.get(pid)
            if run:
                now = time.monotonic()
                run.until, run.spare_until = now + _CLEAR_SECS, now + processes.TRACKER_SECS
                left = [other for other in self._tree.of(run, self._known()) if other != pid]
                run.has_rest = bool(left)
                if left:  # as long as its leader is not reaped, the group's number is nobody else's
                    run.killed = [] if run.stopped or run.reason else processes.commands(left)
                    processes.kill_but_trackers(left, run.spare_until)
            status = os.waitpid(pid, 0)[1]
            if run:
                run.status = status
            elif pid == self._scratch.cleaner:
                self._scratch.cleaned()
            elif frames := self._spares.pop(pid, None):
                frames.close()
                self._fork_at = time.monotonic() + _AGAIN_SECS  # whatever ended it may end the next
        for run in list(self._by_pid.values()):
            if run.status is not None:
                self._clear(run)

    def _ended(self) -> int:
        """A child that has ended, not reaped yet; 0 for none."""
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # there is no child
            return 0
        return found.si_pid if found else 0

    def _clear(self, run: RunProcesses) -> None:
        """Kill what is left of a run whose leader has ended; report the run when nothing is left."""
        left = self._tree.of(run, self._known()) if run.has_rest else []
        if left:
            processes.kill_but_trackers(left, run.spare_until)
            if time.monotonic() < run.until:
                return  # until one of them ends, or the next tick
        del self._by_pid[run.pid], self._by_token[run.token]
        notes = [f"processes that can't be killed: {left}"] if left else map(self._scratch.remove, run.directories)
        note = "; ".join(filter(None, list(notes)))
        if not self._tree.marked and not self._by_pid:
            processes.kill(self._tree.strays(self._known()))
        self._frames.send(RunExit(run.token, run.status or 0, run.stopped, run.reason, note=note, killed=run.killed))

    def _known(self) -> list[int]:
        return [os.getpid(), self._scratch.cleaner, *self._by_pid, *self._spares]

    def _kill(self, run: RunProcesses, spare: bool = True) -> None:
        until = time.monotonic() + processes.TRACKER_SECS if spare else 0.0
        processes.kill_but_trackers([run.pid, *self._tree.of(run, self._known())], until)

    def _end_all(self) -> None:
        now = time.monotonic()
        until, spare_until = now + _CLEAR_SECS, now + processes.TRACKER_SECS
        while time.monotonic() < until:
            while pid := self._ended():
                os.waitpid(pid, 0)
            left = self._tree.strays([os.getpid()])
            if not left:
                break
            processes.kill_but_trackers(left, spare_until)
            time.sleep(0.002)
        self._scratch.close()

    # What they take.

    def _watch(self) -> None:
        """Look at what the runs take: now and then, and when there are many new processes."""
        now, last = time.monotonic(), self._tree.clock.last()
        if now < self._look_at and 0 <= last - self._last_pid < _MANY:
            return
        self._look_at, self._last_pid = now + _LOOK_SECS, last
        pids_of = self._tree.all(self._by_pid.values(), self._known())
        for run in list(self._by_pid.values()):
            if run.status is not None:
                self._clear(run)
            elif reason := excess(run, pids := pids_of.get(run.serial, []), self._options.processes):
                run.reason = run.reason or reason
                self._kill(run, spare=len(pids) <= self._options.processes)


def _make_streams() -> None:
    """Make standard output and standard error again, over a pipe.

    They remember whether they can seek. Those of a run are pipes, whatever those of this node are.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    for name, number in (("stdout", 1), ("stderr", 2)):
        original = os.dup(number)
        os.dup2(write, number)
        raw = io.FileIO(number, "w", closefd=False)
        raw.name = f"<{name}>"
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
        )
        stream.mode = "w"  # type: ignore[misc]
        os.dup2(original, number)
        os.close(original)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.close(read)
    os.close(write)


def main() -> None:
    """`python -m node.runs.zygote OPTIONS`, started by the runner only; the options are JSON."""
    options = ZygoteOptions(*json.loads(sys.argv[1]))
    _make_streams()
    for name in _COMMON.split():
        importlib.import_module(name)
    # Scripts import nothing of ours, but for what is on their own path (`jobs/surroundings.py`).
    sys.path[:] = [path for path in sys.path if path != _ROOT]
    os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH", "").removeprefix(f"{_ROOT}{os.pathsep}")
    os.environ |= run_process.ENVIRONMENT
    bytecode.keep(options.cache)
    early_tracker.arrange()
    faulthandler.enable(2, all_threads=False)  # to the log of a run that breaks, since its processes inherit this
    processes.prefer_to_die(_OOM_SCORE)
    Zygote(options).serve()


if __name__ == "__main__":
    main()
