"""What the runner and its zygote say to each other, and the zygote to the processes of runs.

Lists in frames (`framing.py`):

| message                 | to      | says                                                                       |
| ----------------------- | ------- | -------------------------------------------------------------------------- |
| `[RUN, order]`          | zygote  | begin a run; the write ends of its event pipe and its log come with it     |
| `[SIGNAL, run, number]` | zygote  | send a signal to the group of a run; SIGKILL goes to all of its processes  |
| `[REMOVE, run]`         | zygote  | remove the directories of a run whose zygote has ended                     |
| `RunExit`               | runner  | a run has ended                                                            |
| `Fenced`                | runner  | it is ready, and what fence is in force                                    |
| `[TRYING, module]`      | runner  | before that: it loads a module now                                         |
| `[FAILED, module, why]` | runner  | a module can't be loaded ahead                                             |
| `[LOADED, sizes, files]`| runner  | all are; bytes that it holds after each, and the files of modules          |
| `Task`                  | process | run this; the write ends come with it                                      |
| `[files]`               | zygote  | from a process: its run has ended well, and it is fit for another one; the |
|                         |         | files beside the script that it has loaded, and their states               |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from node.runs.fence.options import FenceOptions

RUN, SIGNAL, REMOVE = 1, 2, 3
TRYING, FAILED, LOADED = 1, 2, 3


class ZygoteOptions(NamedTuple):
    """What a zygote is told at its start."""

    socket: int  # descriptor
    node: str  # of the marks, see `processes.py`
    directory: str  # see `scratch.py`
    scripts: str  # directory
    spares: int  # see `model.RunLimits`
    processes: int
    output: int
    cache: str = ""  # directory for what libraries keep, "" for none
    cache_bytes: int = 0  # most that it may have at a start
    fence: FenceOptions = FenceOptions()
    workers: int = 4  # processes that wait for another run, at most
    number: int = 0  # 0: the plain one
    modules: Sequence[str] = ()  # to be loaded


class RunOrder(NamedTuple):
    """What the runner orders; see `model.Run`."""

    run: str
    job_id: int
    attempt: int
    job: str
    arguments: bytes  # JSON
    data_path: str  # a name of the run's own for the value, "" for none
    data_key: str
    memory: int  # bytes, 0: no limit
    argv: Sequence[str] = ()
    secrets: Mapping[str, str] = {}  # that it may ask for
    variables: Sequence[str] = ()  # names of those that are in its environment as well
    caller: str = ""  # whose it is: a process is used again for the same one only


class RunExit(NamedTuple):
    """How the processes of a run ended."""

    run: str
    status: int  # wait status of the first of its processes
    stopped: bool = False  # a signal was sent to it before
    reason: str = ""  # why the zygote killed it, "" when it did not
    note: str = ""  # what could not be killed or removed
    killed: Sequence[tuple[int, str]] = ()  # pids and command lines of processes that outlived the first one
    unbegun: bool = False  # its process was gone before it had read what to run


class Task(NamedTuple):
    """What the process of a run is told."""

    order: RunOrder
    scripts: str  # directory
    output: int  # bytes of it, at most
    scratch: str  # directory, to be made
    temporary: str  # the same, perhaps by a shorter name
    serial: int  # of the mark
    reuse: int = 0  # runs that may follow each other in the process; 0: it ends with this one
    home: str = ""  # directory of the process, then, with the scratch directories of its runs
