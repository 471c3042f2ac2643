"""What the runner and its zygote say to each other, and the zygote to the processes of runs.

Lists in frames (`frames.py`):

| message                                | to     | says                                                             |
| -------------------------------------- | ------ | ---------------------------------------------------------------- |
| `[RUN, order]`                         | zygote | begin a run; the write ends of event pipe and log come with it   |
| `[SIGNAL, run, number]`                | zygote | send a signal to its group; SIGKILL: to everything of it         |
| `[run, status, stopped, reason, note, killed]` | runner | it ended: wait status, whether a signal was sent to it before, why it was killed by the zygote, what can't be killed, what went on at its end and was killed |
| `Task`                                 | leader | run this; the write ends come with it                            |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

RUN, SIGNAL = 1, 2


class ZygoteOptions(NamedTuple):
    """What a zygote is told at its start."""

    socket: int  # descriptor
    node: str  # of the marks, see `processes.py`
    directory: str  # see `scratch.py`
    scripts: str  # directory
    spares: int  # see `runs.Limits`
    processes: int
    output: int
    cache: str = ""  # directory for what libraries keep, "" for none


class RunOrder(NamedTuple):
    """What the runner orders; see `runs.Run`."""

    run: str
    job_id: int
    attempt: int
    job: str
    arguments: bytes  # JSON
    data_path: str
    data_key: str
    memory: int  # bytes, 0: no limit
    argv: Sequence[str] = ()
    secrets: Mapping[str, str] = {}  # that it may ask for
    variables: Sequence[str] = ()  # names of those that are in its environment as well


class Task(NamedTuple):
    """What the process of a run is told."""

    order: RunOrder
    scripts: str  # directory
    output: int  # bytes of it, at most
    scratch: str  # directory, to be made
    temporary: str  # the same, perhaps by a shorter name
    serial: int  # of the mark


def read_task(message: list[Any]) -> Task:
    """The task in a message."""
    order, *rest = message
    return Task(RunOrder(*order), *rest)
