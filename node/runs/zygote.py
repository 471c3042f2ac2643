"""The zygote, a small process with one thread that has loaded everything common: processes of runs are forked from it.

It makes a few of them ahead of demand (`run_process.py`), gives them their tasks and sees them end. Then it kills what
is left of the run; a run is reported as ended when none of its processes is alive any more. It also watches how much
memory and how many processes the runs take. When its agent is gone, it kills everything and ends.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import io
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from jobs import loader, scripts
from jobs.errors import BadScript
from node.runs import bytecode, early_tracker, processes, run_process, scratch
from node.runs.fence.groups import Group
from node.runs.fence.options import FenceOptions
from node.runs.fence.quota import ScratchUse
from node.runs.fence.view import TEMPORARY, View
from node.runs.framing import Frames, Message
from node.runs.process_tree import ProcessTree, RunProcesses, describe_excess, excess
from node.runs.protocol import FAILED, REMOVE, RUN, SIGNAL, RunExit, RunOrder, Task, ZygoteOptions
from node.runs.scratch import Scratch
from node.runs.zygotes.workers import MOST_BYTES, Key, Worker, Workers, files_of

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

    def __init__(self, options: ZygoteOptions, view: View) -> None:
        self._options = options
        self._view = view
        self._frames = Frames(socket.socket(fileno=options.socket))
        self._frames.socket.set_inheritable(False)
        self._marks = processes.Marks(options.node)
        self._tree = ProcessTree(self._marks)
        self._sources = loader.Sources()
        self._spares: OrderedDict[int, Frames] = OrderedDict()  # processes that wait for a task, by pid
        self._by_pid: dict[int, RunProcesses] = {}  # by the pid of the leader
        self._by_token: dict[str, RunProcesses] = {}
        self._serial = 0
        self._groups: dict[int, Group] = {}  # of processes that wait, by pid
        self._poll = select.poll()
        self._workers: Workers[Frames, Group] = Workers(options.workers)
        self._sockets: dict[int, Worker[Frames, Group]] = {}  # that are listened to, by descriptor
        self._group_serial = 0
        self._scratch = Scratch(options.directory, options.node)
        self._look_at = 0.0
        self._fork_at = 0.0
        self._last_pid = 0  # given by the kernel at the last look
        self._wakeup, self._wakeup_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def tell(self, message: Sequence[object]) -> None:
        """Tell the runner something; `Fenced` also says that values may be lent. Raises `OSError`."""
        self._frames.send(message)

    def load(self, imports: ModuleType) -> bool:
        """Load the modules that the options name; whether runs may be forked then. Raises `OSError`."""
        if not self._tree.marked:
            for module in self._options.modules:
                self.tell([FAILED, module, "this system does not let processes be marked"])
            return False
        fit: bool = imports.load(self._options.modules, f"{self._options.directory}/{scratch.HOME}", self.tell)
        return fit

    def serve(self) -> None:
        """Work until the agent is gone."""
        processes.heed_signals()  # as scripts expect
        # Blocked, not ignored: a signal that comes before a run's process is ready for it waits there.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup_end, warn_on_full_buffer=False)
        processes.adopt_orphans()
        poll = self._poll
        poll.register(self._frames.socket, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        if not self._options.number:
            self._scratch.clean()
        atexit.unregister(logging.shutdown)  # `jobs.closing` sees to it where a script has logged to something
        gc.collect()
        gc.freeze()
        # Scripts must not find our modules: they may have some of that name. What is needed here has been imported.
        for name in [name for name in sys.modules if name.partition(".")[0] == _PACKAGE]:
            del sys.modules[name]
        self._common = run_process.Common(
            *(os.getpid(), self._marks, self._sources, processes.data_bytes(), processes.Title(), self._view),
        )
        try:
            while True:
                lacking = len(self._spares) < self._options.spares and time.monotonic() >= self._fork_at
                events = poll.poll(0 if lacking else self._patience())
                for descriptor, _ in events:
                    if descriptor == self._wakeup:
                        os.read(self._wakeup, 4096)
                        self._reap()
                    elif descriptor in self._sockets:
                        self._heard(self._sockets[descriptor])
                    elif descriptor == self._frames.socket.fileno():
                        for message in self._frames.receive():
                            self._do(message)
                if self._by_pid:
                    self._watch()
                if lacking and not events:
                    self._fork_ahead()
        except (EOFError, ConnectionError):
            self._end_all()

    def _patience(self) -> int | None:
        """Milliseconds to wait for something to happen, None for ever."""
        if self._workers:
            self._end_old_workers()
        if self._by_pid:
            return int(_TICK_SECS * 1000)
        seconds = self._workers.due(time.monotonic())
        return None if seconds is None else int(seconds * 1000) + 1

    def _end_old_workers(self) -> None:
        now = time.monotonic()
        for worker in self._workers.old(now):
            self._let_go(worker)
        for worker in self._workers.late(now):
            self._dismiss(worker)

    def _do(self, message: Message) -> None:
        kind, *fields = message
        if kind == RUN:
            self._begin(RunOrder(*fields[0]))
        elif kind == REMOVE:
            run = fields[0]
            for name in (run, f"{run}.data", f"{run}.tmp"):
                self._scratch.remove(self._scratch.path(name))
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
            pid = processes.fork(bool(self._options.modules))
        except OSError:
            ours.close()
            theirs.close()
            raise
        if not pid:
            run_process.wait(theirs, self._common)
        theirs.close()
        self._spares[pid] = Frames(ours, MOST_BYTES)
        if self._options.fence.cgroup:
            self._group_serial += 1
            group = Group.make(Path(self._options.fence.cgroup), f"{os.getpid()}.{self._group_serial}", pid)
            if group:
                self._groups[pid] = group

    def _begin(self, order: RunOrder) -> None:
        """Hand an order to a process, with the two descriptors that came with it."""
        descriptors = [self._frames.descriptors.popleft(), self._frames.descriptors.popleft()]
        self._serial = self._serial % (processes.SERIALS - 1) + 1
        serial = self._options.number * processes.SERIALS + self._serial
        since = self._tree.clock.last()
        try:
            task, pid, group = self._hand_over(order, serial, descriptors)
        except OSError as error:
            self._frames.send(RunExit(order.run, 1 << 8, reason=f"the run can't be started: {error.strerror}"))
            return
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        use = ScratchUse([task.scratch, f"{task.home or task.scratch}.tmp"]) if self._options.fence.scratch else None
        self._by_pid[pid] = self._by_token[order.run] = RunProcesses(task, pid, since, group=group, use=use)
        self._learn(order.job)

    def _task(self, order: RunOrder, serial: int, reuse: int = 0, worker: Worker[Frames, Group] | None = None) -> Task:
        """What a process is told; with `reuse`, its scratch is inside a directory of the process."""
        home = ""
        place = order.run
        if reuse:
            home = worker.home if worker else self._scratch.path(f"w{serial}")
            place = f"{os.path.basename(home)}/{worker.runs + 1 if worker else 1}"
        temporary = TEMPORARY if self._view.private_tmp else self._scratch.temporary(place)
        path = self._scratch.path(place)
        if reuse and order.data_path:
            # The process sees its own directory alone, and the agent could not know that.
            os.makedirs(home, 0o700, exist_ok=True)
            os.rename(os.path.dirname(order.data_path), f"{path}.data")
            order = order._replace(data_path=f"{path}.data/{os.path.basename(order.data_path)}")
        return Task(
            *(order, self._options.scripts, self._options.output, path, temporary, serial), reuse=reuse, home=home
        )

    def _hand_over(self, order: RunOrder, serial: int, descriptors: list[int]) -> tuple[Task, int, Group | None]:
        """Give a process its task, which is told, with its pid and cgroup.

        Raises `OSError` when there can't be another process.
        """
        source = self._source(order.job)
        key = Key(order.job, order.caller, order.memory, source.stamp) if source and source.reuse else None
        while key and source:
            worker, unfit = self._workers.take(key)
            for each in unfit:
                self._dismiss(each)
            if not worker:
                break
            task = self._task(order, serial, source.reuse, worker)
            order = task.order
            if worker.group:
                worker.group.limit(self._options.fence.pids, order.memory)
            if self._send_task(worker.frames, task, descriptors):
                worker.runs += 1
                return task, worker.pid, worker.group
            self._dismiss(worker)
        task = self._task(order, serial, source.reuse if source and key else 0)
        while True:
            if not self._spares:
                self._fork()
            pid, frames = self._spares.popitem(last=False)
            group = self._groups.pop(pid, None)
            if group:
                group.limit(self._options.fence.pids, order.memory)
            if not self._send_task(frames, task, descriptors):
                frames.close()
                if group:
                    group.remove()
                continue  # that one was killed; the next
            if key:
                worker = Worker(pid, key, task.home, frames=frames, group=group)
                worker.runs = 1
                self._workers.add(worker)
                self._sockets[frames.socket.fileno()] = worker
                self._poll.register(frames.socket, select.POLLIN)
            else:
                frames.close()
            return task, pid, group

    @staticmethod
    def _send_task(frames: Frames, task: Task, descriptors: list[int]) -> bool:
        """Send a task with copies of the descriptors; False: nobody is there."""
        try:
            frames.send(task, [os.dup(descriptor) for descriptor in descriptors])
        except (BrokenPipeError, ConnectionResetError):  # it has ended
            return False
        return True

    def _source(self, job: str) -> loader.Source | None:
        """The script as it was compiled here, None when it was not, or has changed since."""
        try:
            return self._sources.known(scripts.locate(self._options.scripts, job).file)
        except BadScript:  # the process of the run tells
            return None

    # Processes that are used again.

    def _heard(self, worker: Worker[Frames, Group]) -> None:
        """Read what a worker says: that its run has ended well. The end of its process tells the rest."""
        try:
            messages = [files_of(message) for message in worker.frames.receive(wait=False)]
        except ConnectionResetError:  # of a Unix socket the kernel says so when what was sent is unread
            worker.unread = True
            self._release(worker)
            return
        except (EOFError, OSError, ValueError):  # it ends; or the script has written what it likes
            self._release(worker)
            return
        run = self._by_pid.get(worker.pid)
        for files in messages:
            if run is None or run.status is not None:
                break
            left = [pid for pid in self._tree.of(run, self._known()) if pid != worker.pid]
            if left or run.stopped or run.reason:
                self._release(worker)  # it ends, and what is left is seen to as at the end of any run
                return
            del self._by_pid[run.pid], self._by_token[run.token]
            note = "; ".join(filter(None, map(self._scratch.remove, run.directories)))
            self._frames.send(RunExit(run.token, 0, note=note))
            run = None
            for other in self._workers.rest(worker, files):
                self._let_go(other)

    def _release(self, worker: Worker[Frames, Group]) -> None:
        """Stop to listen to a worker, which ends by itself then."""
        if self._sockets.pop(worker.frames.socket.fileno(), None):
            self._poll.unregister(worker.frames.socket)
            worker.frames.close()

    def _let_go(self, worker: Worker[Frames, Group]) -> None:
        """Let a worker that has no run end."""
        self._release(worker)
        self._workers.leave(worker)

    def _dismiss(self, worker: Worker[Frames, Group]) -> None:
        """End a worker that has no run, at once."""
        self._let_go(worker)
        processes.kill([worker.pid])

    def _end_worker(self, worker: Worker[Frames, Group]) -> None:
        """Remove what a worker, whose process has ended, had for all of its runs."""
        self._release(worker)
        self._workers.drop(worker.pid)
        if worker.group:
            worker.group.remove()
        for path in (worker.home, f"{worker.home}.tmp"):
            self._scratch.remove(path)

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
            worker = self._workers.get(pid)
            if worker and worker.frames.socket.fileno() in self._sockets:
                self._heard(worker)  # what it has said before its end counts
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
                if run.memory and run.group and run.group.out_of_memory():
                    run.reason = run.reason or describe_excess(run.memory)
            if worker:
                self._release(worker)
                if not run:
                    self._end_worker(worker)
            elif pid == self._scratch.cleaner:
                self._scratch.cleaned()
            elif frames := self._spares.pop(pid, None):
                frames.close()
                if group := self._groups.pop(pid, None):
                    group.remove()
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
            if run.group and time.monotonic() >= run.spare_until:
                run.group.kill()
            if time.monotonic() < run.until:
                return  # until one of them ends, or the next tick
        del self._by_pid[run.pid], self._by_token[run.token]
        unbegun = False
        if worker := self._workers.get(run.pid):
            unbegun = worker.unread and not (run.has_rest or run.stopped or run.reason)
            self._end_worker(worker)
        elif run.group:
            run.group.remove()
        notes = [f"processes that can't be killed: {left}"] if left else map(self._scratch.remove, run.directories)
        note = "; ".join(filter(None, list(notes)))
        if not self._tree.marked and not self._by_pid and not self._options.number:
            processes.kill(self._tree.strays(self._known()))
        exit = RunExit(run.token, run.status or 0, run.stopped, run.reason, note=note, killed=run.killed)
        self._frames.send(exit._replace(unbegun=unbegun))

    def _known(self) -> list[int]:
        return [os.getpid(), self._scratch.cleaner, *self._by_pid, *self._spares, *self._workers.pids()]

    def _kill(self, run: RunProcesses, spare: bool = True) -> None:
        until = time.monotonic() + processes.TRACKER_SECS if spare else 0.0
        if run.group and not spare:
            run.group.kill()
        processes.kill_but_trackers([run.pid, *self._tree.of(run, self._known())], until)

    def _end_all(self) -> None:
        now = time.monotonic()
        until, spare_until = now + _CLEAR_SECS, now + processes.TRACKER_SECS
        while time.monotonic() < until:
            while pid := self._ended():
                os.waitpid(pid, 0)
            left = self._left()
            if not left:
                break
            processes.kill_but_trackers(left, spare_until)
            time.sleep(0.002)
        groups = [*self._groups.values(), *(run.group for run in self._by_pid.values())]
        groups += [worker.group for pid in self._workers.pids() if (worker := self._workers.get(pid))]
        for group in filter(None, groups):
            group.remove()
        if not self._options.number:
            self._scratch.close()

    def _left(self) -> list[int]:
        """Processes that must end before this one: of the plain zygote, all others of the node."""
        if not self._options.number:
            return self._tree.strays([os.getpid()])
        spares = [pid for pid in self._spares if not processes.ended(pid)]
        return [*spares, *self._marks.of_zygote(self._options.number)]

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
            elif reason := excess(
                run, pids := pids_of.get(run.serial, []), self._options.processes, self._options.fence.scratch
            ):
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
    options = options._replace(fence=FenceOptions(*options.fence))
    _make_streams()
    for name in _COMMON.split():
        importlib.import_module(name)
    imports = importlib.import_module("node.runs.zygotes.imports") if options.modules else None
    # Scripts import nothing of ours, but for what is on their own path (`jobs/surroundings.py`).
    sys.path[:] = [path for path in sys.path if path != _ROOT]
    os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH", "").removeprefix(f"{_ROOT}{os.pathsep}")
    os.environ |= run_process.ENVIRONMENT
    bytecode.keep(options.cache)
    early_tracker.arrange()
    faulthandler.enable(2, all_threads=False)  # to the log of a run that breaks, since its processes inherit this
    processes.prefer_to_die(_OOM_SCORE)
    view = View(options.fence, options.directory)
    fenced = view.close()
    if not options.number:
        scratch.begin(Path(options.directory), options.cache_bytes)
    zygote = Zygote(options, view)
    try:
        if imports and not zygote.load(imports):
            return
        zygote.tell(fenced)
    except (BrokenPipeError, ConnectionResetError):  # the agent is gone already
        return
    zygote.serve()


if __name__ == "__main__":
    main()
