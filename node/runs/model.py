"""Runs of jobs: what is to be run, how it goes, how it ended. A run is one attempt at a job on this node.

Times are milliseconds since the epoch.
"""

from __future__ import annotations

import signal
from enum import Enum
from typing import Any, NamedTuple


class State(Enum):
    """How a run ended."""

    COMPLETED = "completed"  # its exit status was 0
    FAILED = "failed"  # anything else that nobody asked for
    CANCELLED = "cancelled"  # somebody asked for it


class RunLimits(NamedTuple):
    """What the runs of a node may take; what is said of one run alone stands in `Run`."""

    log: int = 1 << 20  # bytes that are kept of a log
    output: int = 1 << 20  # bytes
    grace: float = 5.0  # seconds between TERM and KILL
    processes: int = 512  # of one run, at once
    spares: int = 2  # processes made ahead of demand; as many as there are slots, but few
    cache: int = 4 << 30  # bytes that libraries' caches may have at a start, 0: there are none


class Run(NamedTuple):
    """What to run."""

    run: str  # random token, hex
    job_id: int  # 0 when not known yet
    attempt: int
    job: str  # "folder/script"
    arguments: dict[str, Any]  # as JSON has them
    data_path: str = ""  # local path of the value named by pulzar_data, "" for none
    data_key: str = ""  # its key
    timeout: float = 0.0  # seconds, 0: none
    memory: int = 0  # bytes, 0: no limit
    argv: tuple[str, ...] = ()  # for sys.argv of the script


class RunProgress(NamedTuple):
    """What is new of a run."""

    run: Run
    done: float | None  # None: the job has not told
    total: float | None
    text: str
    log: bytes  # the newest bytes of the log since the last time, at most LIVE_BYTES
    offset: int  # where in the whole log they begin


class Outcome(NamedTuple):
    """How a run ended."""

    run: Run
    state: State
    reason: str  # "" or what happened, for a person
    started: int
    ended: int
    log: bytes  # what was printed, cut in the middle when it was too much
    output: bytes  # JSON, b"" for none
    progress: tuple[float | None, float | None, str] = (None, None, "")  # the last it told, see `RunProgress`


def ending(status: int) -> str:
    """What a wait status says, "" for success."""
    if status & 0x7F == 0:
        code = status >> 8
        return f"exit status {code}" if code else ""
    number = status & 0x7F
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"killed by signal {number}"
    return f"killed by signal {number} ({name})"


def size(count: int) -> str:
    """Bytes for a person: `64 MiB`."""
    for unit, bits in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << bits:
            return f"{count / (1 << bits):.4g} {unit}"
    return f"{count} bytes"
