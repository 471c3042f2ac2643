"""What a fence is to be, as the agent tells the zygote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

OFF, AUTO, REQUIRED = "off", "auto", "required"
SHARED, PRIVATE = "shared", "private"  # /tmp


class FenceOptions(NamedTuple):
    """Plain values, since they travel as JSON."""

    mode: str = OFF
    hidden: Sequence[str] = ()  # folders and files that no run sees
    shown: Sequence[str] = ()  # folders that runs see though they are in hidden ones
    user: int = -1  # of the zygote and all runs; -1: the agent's
    group: int = -1
    network: bool = True
    tmp: str = SHARED
    cgroup: str = ""  # folder for the cgroups of runs, "" for none
    pids: int = 0  # most processes and threads of a run in its cgroup
    scratch: int = 0  # bytes of a run's scratch, 0: no limit


class Fenced(NamedTuple):
    """What is in force."""

    parts: Sequence[str]  # of `PARTS`
    missing: str = ""  # what can't be had, and why
    refused: bool = False  # no job may be run like this


PARTS = {
    "user": "runs have a user of their own",
    "files": "runs don't see the node's files, nor each other's",
    "tmp": "each run has a /tmp of its own",
    "signals": "runs can't signal or trace other processes",
    "network": "runs have no network",
    "cgroup": "each run is in a cgroup",
}
