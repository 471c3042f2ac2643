"""Runs as the agent knows them: what to run, how it goes, what came of it. A run is one attempt at a job on this node.

Processes of runs don't load this module. Times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker.messages.runs import RunEnd
from node.runs.fence.options import FenceOptions
from node.runs.zygotes.fleet import Limits


class RunLimits(NamedTuple):
    """What each run of a node may take; limits of one run alone stand in `Run`."""

    log: int = 1 << 20  # bytes that are kept of a log
    output: int = 1 << 20  # bytes
    grace: float = 5.0  # seconds between TERM and KILL
    processes: int = 512  # of one run, at once
    spares: int = 2  # processes made ahead of demand; as many as there are slots, but few
    cache: int = 4 << 30  # bytes that libraries' caches may have at a start, 0: there are none
    fence: FenceOptions = FenceOptions()
    workers: int = 4  # processes of each zygote that wait for another run of their script, at most
    zygotes: Limits = Limits()  # with modules loaded ahead


class Run(NamedTuple):
    """What to run."""

    token: str  # random, hex
    job_id: int  # 0 when not known yet
    attempt: int
    job: str  # "folder/script"
    arguments: Mapping[str, object]  # as JSON has them
    data_path: str = ""  # local path of the value named by pulzar_data, "" for none
    data_key: str = ""  # its key
    timeout: float = 0.0  # seconds, 0: none
    memory: int = 0  # bytes, 0: no limit
    argv: tuple[str, ...] = ()  # for sys.argv of the script
    access: str = ""  # token that it uses the store with, "" for none
    modules: tuple[str, ...] = ()  # that are to be loaded ahead
    caller: str = ""  # whose it is: only runs of the same one may follow each other in a process


class RunProgress(NamedTuple):
    """What is new of a run."""

    run: Run
    done: float | None  # None: the job has not told
    total: float | None
    text: str
    log: bytes  # the newest bytes of the log since the last time, at most LIVE_BYTES
    offset: int  # where in the whole log they begin


class Outcome(NamedTuple):
    """How a run ended, and what it printed and returned."""

    run: Run
    end: RunEnd
    log: bytes = b""  # what was printed, cut in the middle when it was too much
    output: bytes = b""  # JSON, b"" for none
    progress: tuple[float | None, float | None, str] = (None, None, "")  # the last it told, see `RunProgress`
