"""The process of a run: forked from the zygote ahead of demand, it waits for a task, carries it out, and ends.

It leads a session of its own. Its descriptors are 0 (/dev/null), 1 and 2 (the log), and two high ones that scripts
seldom meet: the event pipe, and the log once more, for a script that closes the others.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from typing import NamedTuple, NoReturn

from jobs import channel, closing, context, failures, loader
from jobs.errors import JobError
from jobs.scripts import Script, locate
from node.runs import processes
from node.runs.framing import Frames
from node.runs.protocol import RunOrder, Task

EVENTS, LOG = 60, 61  # below 64, up to where a table of descriptors needs no more room
ENVIRONMENT = {channel.EVENTS_VARIABLE: str(EVENTS), "PULZAR_DATA": "", "PULZAR_DATA_KEY": ""}  # of all runs at first
_SOCKET = 3
_ENVIRONMENT_BYTES = 100_000  # the kernel refuses to start programs with a variable of more than 128 KiB
_HEADROOM_BYTES = 16 << 20  # for what follows a MemoryError
_ASKED_BYTES = 1 << 30  # beyond twice the limit may be asked for: libraries reserve far more than they use
_NEAR = 0.8  # of what may be asked for: a failure beyond it may come from the limit
_NAME_BYTES = 255  # of a file, at most
_MOST_DESCRIPTORS = 1 << 20


class Common(NamedTuple):
    """What every process of a run has from the zygote."""

    parent: int  # its pid
    marks: processes.Marks
    sources: loader.Sources
    data_bytes: int  # what its data segments hold
    title: processes.Title


def wait(sock: socket.socket, common: Common) -> NoReturn:
    """Wait for a task and carry it out; never returns."""
    status = 1
    try:
        os.setsid()
        processes.die_with_parent()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.dup2(sock.fileno(), _SOCKET)
        sock.detach()
        os.closerange(_SOCKET + 1, _MOST_DESCRIPTORS)
        if os.getppid() == common.parent:
            task = _receive(Frames(socket.socket(fileno=_SOCKET)))
            if task:
                status = _lead(task, common)
    except BaseException:  # noqa: BLE001 - this copy of the zygote must not return to its loop
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _receive(frames: Frames) -> Task | None:
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
    frames.close()
    order, *rest = messages[0]
    return Task(RunOrder(*order), *rest)


def _lead(task: Task, common: Common) -> int:
    """Run the task's script; the exit status."""
    leader = os.getpid()
    common.marks.put(task.serial)
    number, job = task.order.job_id or "?", task.order.job
    common.title.put(f"{number} {job.rpartition('/')[2]}", f"pulzar: job {number} {job} attempt {task.order.attempt}")
    to_node = channel.ToNode(EVENTS, LOG)
    context.begin(to_node, limit=task.output, secrets=task.order.secrets)
    modules = len(sys.modules)
    script: Script | None = None
    error: BaseException | None = None
    try:
        os.makedirs(task.scratch, 0o700)
        os.chdir(task.scratch)
        _environment(task, _lend_data(task) if task.order.data_path else "")
        _limit_memory(task.order.memory, common.data_bytes)
        script = locate(task.scripts, task.order.job)
        returned = loader.execute(script, common.sources, task.order.argv)
        if os.getpid() == leader:  # and not a child that the script forked and let run on to here
            context.returned(returned)
    except BaseException as raised:  # noqa: BLE001 - SystemExit too: each is an end of the script
        error = raised
    taken = processes.data_bytes() - common.data_bytes if error and task.order.memory else 0
    _limit_memory(task.order.memory, common.data_bytes + _HEADROOM_BYTES)
    ended = failures.ending(error, script)
    if os.getpid() == leader:
        reason = ended.reason
        if isinstance(error, MemoryError) and task.order.memory:
            reason = f"used more than {processes.describe_bytes(task.order.memory)} of memory (MemoryError)"
        elif ended.status and taken > _NEAR * _may_ask(task.order.memory):
            reason = reason or processes.describe_status(ended.status << 8)
            reason += f"; it had reserved {processes.describe_bytes(taken)} of memory by then, far more "
            reason += f"than the {processes.describe_bytes(task.order.memory)} that it may use"
        with suppress(JobError, OSError):  # a script that closed the pipe has its exit status
            to_node.finish(reason)
    del error
    closing.finish(script, modules)
    return ended.status


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


def _lend_data(task: Task) -> str:
    """Give the value a name of the run's own, which ends like its key, and which the script may delete; the path."""
    directory = f"{task.scratch}.data"
    os.mkdir(directory, 0o700)
    path = f"{directory}/{task.order.data_key.rpartition('/')[2][-_NAME_BYTES:] or 'data'}"
    try:
        os.link(task.order.data_path, path)
    except FileNotFoundError:
        raise JobError(f"this node's copy of {task.order.data_key} is gone") from None
    except OSError:  # not on this file system
        os.symlink(task.order.data_path, path)
    return path


def _environment(task: Task, data_path: str) -> None:
    """Add the variables of this run to the environment that all have."""
    values: dict[str, object] = {
        "HOME": task.scratch,
        "TMPDIR": task.temporary,
        processes.RUN_VARIABLE: task.order.run,
        "PULZAR_JOB_ID": task.order.job_id,
        "PULZAR_ATTEMPT": task.order.attempt,
        "PULZAR_SCRATCH": task.scratch,
    }
    if data_path:
        values |= {"PULZAR_DATA": data_path, "PULZAR_DATA_KEY": task.order.data_key}
    if len(task.order.arguments) <= _ENVIRONMENT_BYTES:
        values["PULZAR_ARGUMENTS"] = task.order.arguments.decode()
    else:
        file = f"{task.scratch}/.arguments.json"
        with open(file, "wb") as out:
            out.write(task.order.arguments)
        values["PULZAR_ARGUMENTS_FILE"] = file
    values |= {name: task.order.secrets[name] for name in task.order.variables}
    os.environ |= {name: str(value) for name, value in values.items()}
