"""The process of a run: forked from the zygote ahead of demand, it waits for a task, carries it out, and ends.

Where its script says so, it does not end but waits for another task, as long as nothing of the last run is left.

It leads a session of its own. Its descriptors are 0 (/dev/null), 1 and 2 (the log), and two high ones that scripts
seldom meet: the event pipe, and the log once more, for a script that closes the others.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import resource
import socket
import sys
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

from jobs import channel, closing, context, failures, loader
from jobs.errors import JobError
from jobs.scripts import Script, locate
from node.runs import processes
from node.runs.fence.view import TEMPORARY, View
from node.runs.framing import Frames
from node.runs.protocol import RunOrder, Task
from node.runs.zygotes import fresh

EVENTS, LOG = 60, 61  # below 64, up to where a table of descriptors needs no more room
ENVIRONMENT = {channel.EVENTS_VARIABLE: str(EVENTS), "PULZAR_DATA": "", "PULZAR_DATA_KEY": ""}  # of all runs at first
_SOCKET = 3
_ENVIRONMENT_BYTES = 100_000  # the kernel refuses to start programs with a variable of more than 128 KiB
_HEADROOM_BYTES = 16 << 20  # for what follows a MemoryError
_ASKED_BYTES = 1 << 30  # beyond twice the limit may be asked for: libraries reserve far more than they use
_NEAR = 0.8  # of what may be asked for: a failure beyond it may come from the limit
_MOST_DESCRIPTORS = 1 << 20


class Common(NamedTuple):
    """What every process of a run has from the zygote."""

    parent: int  # its pid
    marks: processes.Marks
    sources: loader.Sources
    data_bytes: int  # what its data segments hold
    title: processes.Title
    view: View


def wait(sock: socket.socket, common: Common) -> NoReturn:
    """Wait for a task and carry it out; never returns."""
    status = 1
    try:
        os.setsid()
        processes.die_with_parent()
        # The functions of the module `signal` make an enum of each result.
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        os.dup2(sock.fileno(), _SOCKET)
        sock.detach()
        os.closerange(_SOCKET + 1, _MOST_DESCRIPTORS)
        common.view.prepare()
        fresh.seed()
        if os.getppid() == common.parent:
            frames = Frames(socket.socket(fileno=_SOCKET))
            task = _receive(frames)
            if task:
                status = _Leader(frames, common).work(task)
    except BaseException:  # noqa: BLE001 - this copy of the zygote must not return to its loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _receive(frames: Frames) -> Task | None:
    """The next task, with its descriptors in place; None when there is none any more."""
    try:
        while not (messages := frames.receive()):
            continue
    except (EOFError, ConnectionResetError):  # the zygote needs no more processes
        return None
    for descriptor in (EVENTS, LOG):
        source = frames.descriptors.popleft()
        os.dup2(source, descriptor, inheritable=descriptor == EVENTS)
        os.close(source)
    os.dup2(LOG, 1)
    os.dup2(LOG, 2)
    order, *rest = messages[0]
    return Task(RunOrder(*order), *rest)


def _let_go() -> None:
    """Take the pipes of a run that has ended out of this process."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2, LOG, EVENTS):
        os.dup2(null, descriptor, inheritable=descriptor != LOG)
    os.close(null)


class _Leader:
    """The first process of a run, or of one run after the other."""

    def __init__(self, frames: Frames, common: Common) -> None:
        self._frames = frames
        self._common = common
        self._pid = os.getpid()
        self._modules = len(sys.modules)
        common.sources.used.clear()
        self._script: Script | None = None
        self._program: loader.Program | None = None
        self._baseline: fresh.Baseline | None = None  # where this process is used again
        self._exit_functions: fresh.ExitFunctions | None = None
        self._count = 0

    def work(self, task: Task) -> int:
        """Run the task's script, and those that follow; the exit status."""
        if not task.reuse:
            self._frames.close()
        while True:
            self._count += 1
            status, error = self._run(task)
            if error or not self._baseline or not self._is_fit(self._baseline, task):
                break
            following = self._next()
            if not following:
                status = 0
                break
            task = following
        del error
        if self._exit_functions:
            self._exit_functions.call()
        closing.finish(self._script, self._modules)
        return status

    def _run(self, task: Task) -> tuple[int, BaseException | None]:
        """Run a script; the exit status, and what it raised."""
        common = self._common
        common.marks.put(task.serial, again=bool(task.reuse))
        number, job = task.order.job_id or "?", task.order.job
        common.title.put(
            f"{number} {job.rpartition('/')[2]}", f"pulzar: job {number} {job} attempt {task.order.attempt}"
        )
        to_node = channel.ToNode(EVENTS, LOG)
        context.begin(to_node, limit=task.output, secrets=task.order.secrets)
        error: BaseException | None = None
        try:
            self._enter(task)
            os.chdir(task.scratch)
            _environment(task)
            _limit_memory(task.order.memory, common.data_bytes)
            self._script = locate(task.scripts, task.order.job)
            if not self._program:
                self._program = loader.Program(self._script, common.sources)
            returned = self._execute(self._program, task)
            if os.getpid() == self._pid:  # and not a child that the script forked and let run on to here
                context.returned(returned)
        except BaseException as raised:  # noqa: BLE001 - SystemExit too: each is an end of the script
            error = raised
        return self._tell(task, error, to_node), error

    def _enter(self, task: Task) -> None:
        """Make the directories of a run, and, before the first one, leave everything else. Raises `OSError`."""
        lent = os.path.dirname(task.order.data_path)
        if not task.reuse:
            _make(task.scratch)
            self._common.view.enter(task.scratch, lent)
            return
        if not self._baseline:
            self._baseline = fresh.Baseline()
            with suppress(FileExistsError):  # it has a value already
                _make(task.home)
            self._common.view.enter(task.home, "")
            if self._common.view.private_tmp:
                self._baseline.look_at(TEMPORARY)
            self._exit_functions = fresh.ExitFunctions(task.scripts)
        os.mkdir(task.scratch, 0o700)

    def _execute(self, program: loader.Program, task: Task) -> Any:
        """What the script returns. Raises whatever it raises."""
        if not self._exit_functions:
            return loader.perform(program.load(task.order.argv))
        self._exit_functions.open = not self._common.sources.get(program.file).class_name
        job = program.load(task.order.argv)
        self._exit_functions.open = True
        return loader.perform(job)

    def _tell(self, task: Task, error: BaseException | None, to_node: channel.ToNode) -> int:
        """Tell the node how a run has ended; the exit status."""
        common, memory = self._common, task.order.memory
        taken = processes.data_bytes() - common.data_bytes if error and memory else 0
        _limit_memory(memory, common.data_bytes + _HEADROOM_BYTES)
        ended = failures.ending(error, self._script)
        if os.getpid() == self._pid:
            reason = ended.reason
            if isinstance(error, MemoryError) and memory:
                reason = f"used more than {processes.describe_bytes(memory)} of memory (MemoryError)"
            elif ended.status and taken > _NEAR * _may_ask(memory):
                reason = reason or processes.describe_status(ended.status << 8)
                reason += f"; it had reserved {processes.describe_bytes(taken)} of memory by then, far more "
                reason += f"than the {processes.describe_bytes(memory)} that it may use"
            with suppress(JobError, OSError):  # a script that closed the pipe has its exit status
                to_node.finish(reason)
        return ended.status

    def _is_fit(self, baseline: fresh.Baseline, task: Task) -> bool:
        """End a run that has ended well; whether another one may follow it here."""
        if os.getpid() != self._pid or self._count >= task.reuse or baseline.unfit(TEMPORARY):
            return False
        if self._exit_functions and self._program:
            self._exit_functions.call()
            closing.finish_run(self._program.passing)
        if baseline.unfit(TEMPORARY) or not _has_pipes():
            return False
        baseline.restore()
        if self._count == 1:
            gc.freeze()
        return True

    def _next(self) -> Task | None:
        """Say that the run is over; the next one, None when there is none."""
        _let_go()
        try:
            self._frames.send([list(self._common.sources.used.items())])
        except OSError:  # the zygote has ended
            return None
        return _receive(self._frames)


def _make(directory: str) -> None:
    """Make a directory, and what is above it if a script has removed that. Raises `OSError`."""
    try:
        os.mkdir(directory, 0o700)
    except FileNotFoundError:
        os.makedirs(directory, 0o700)


def _has_pipes() -> bool:
    """Whether the run still has its log and its pipe: scripts may close anything."""
    try:
        return os.fstat(1).st_ino == os.fstat(2).st_ino == os.fstat(LOG).st_ino and bool(os.fstat(EVENTS))
    except OSError:  # one of them is closed
        return False


def _limit_memory(memory: int, data_bytes: int) -> None:
    """Limit the memory that this process may ask for, to far more than the `memory` bytes that it may hold.

    The zygote looks after the latter. `data_bytes` come from the zygote and don't count.
    """
    if memory:
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        wanted = _may_ask(memory) + data_bytes
        most = wanted + _HEADROOM_BYTES if hard < 0 else hard
        resource.setrlimit(resource.RLIMIT_DATA, (min(wanted, most), most))


def _may_ask(memory: int) -> int:
    return 2 * memory + _ASKED_BYTES


def _environment(task: Task) -> None:
    """Add the variables of this run to the environment that all have."""
    values: dict[str, object] = {
        "HOME": task.scratch,
        "TMPDIR": task.temporary,
        processes.RUN_VARIABLE: task.order.run,
        "PULZAR_JOB_ID": task.order.job_id,
        "PULZAR_ATTEMPT": task.order.attempt,
        "PULZAR_SCRATCH": task.scratch,
    }
    if task.order.data_path:
        values |= {"PULZAR_DATA": task.order.data_path, "PULZAR_DATA_KEY": task.order.data_key}
    if len(task.order.arguments) <= _ENVIRONMENT_BYTES:
        values["PULZAR_ARGUMENTS"] = task.order.arguments.decode()
    else:
        file = f"{task.scratch}/.arguments.json"
        with open(file, "wb") as out:
            out.write(task.order.arguments)
        values["PULZAR_ARGUMENTS_FILE"] = file
    values |= {name: task.order.secrets[name] for name in task.order.variables}
    os.environ |= {name: str(value) for name, value in values.items()}
