"""What is wrong with the cluster, in words, with what to do about it. Pure functions of what the master knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broker import VERSION, topology
from master.cluster.nodes import Row
from master.web.ui.frame import formats

NEARLY_FULL_PERCENT = 90
CLOCK_SECS = 5.0  # a node whose clock is off by more is named
_STEPS = ("bad", "warn")


class Problem(NamedTuple):
    """One thing that is wrong."""

    level: str  # bad: something does not work; warn: it will not for long
    what: str
    advice: str
    path: str = ""  # of the page that says more, below the root


class State(NamedTuple):
    """What the master knows at one moment."""

    nodes: list[Row]
    objection: str  # why a new key would not be stored; "" when it would
    broker_problem: str | None  # None: connected
    controller: bool
    restoring: list[str]
    backup_warnings: list[str]
    certificate_warnings: list[str]
    depths: Mapping[str, int]
    clocks: Mapping[str, float]  # node → seconds that its clock is ahead
    doubts: Sequence[str] = ()  # why values may lack copies


def find(state: State, now: float) -> list[Problem]:
    """All problems, the worst first."""
    found = [*_of_master(state), *_of_nodes(state, now), *_of_queues(state.depths)]
    found += [
        Problem(
            "warn", f"{sentence[:1].upper()}{sentence[1:]}.", "Look at the log of the node, and back up now.", "backup"
        )
        for sentence in state.backup_warnings
    ]
    found += [
        Problem(
            "warn",
            f"{sentence[:1].upper()}{sentence[1:]}.",
            "Replace its two files; the server takes them within seconds. `manage.py certificates` makes new ones.",
        )
        for sentence in state.certificate_warnings
    ]
    found += [
        Problem("warn", f"{sentence[:1].upper()}{sentence[1:]}.", "Take no disk away until that is over.")
        for sentence in state.doubts
    ]
    return sorted(found, key=lambda problem: _STEPS.index(problem.level))


def _of_master(state: State) -> Iterable[Problem]:
    if state.broker_problem is not None:
        yield Problem(
            "bad",
            f"The master has no connection to RabbitMQ: {state.broker_problem or 'it is connecting'}.",
            "Start RabbitMQ, or set [broker] url. Values are read meanwhile; nothing is stored and no job starts.",
        )
    elif not state.controller:
        yield Problem("bad", "The controller of the master is away.", "It starts again by itself; its log says why.")
    elif state.nodes and state.objection and not state.restoring:
        yield Problem("bad", f"New keys are refused: {state.objection}.", "See to the nodes below.")
    if state.restoring and state.nodes:
        yield Problem(
            "warn",
            f"The index is being filled again; it waits for {', '.join(state.restoring)}.",
            "Keys that it does not know yet answer 503. Start the nodes that are silent.",
        )


def _of_nodes(state: State, now: float) -> Iterable[Problem]:
    for row in state.nodes:
        name = row["node"]
        page = f"nodes/{formats.path(name)}"
        if not row["synch"]:
            age = formats.duration(max(0.0, now - row["last_seen"]))
            yield Problem(
                "bad",
                f"Node {name} is out of synch: it was last heard from {age} ago.",
                "Start it again, or look at its log. If it is gone for good, forget it on its page.",
                page,
            )
            continue
        if row["full"]:
            yield Problem(
                "bad",
                f"Node {name} is full: {formats.size(row['disk_free'])} are free.",
                "It takes no more values. Delete keys, enlarge its disk, or add a node.",
                page,
            )
        elif row["percent"] >= NEARLY_FULL_PERCENT:
            yield Problem(
                "warn",
                f"The disk of node {name} is {row['percent']} % full: {formats.size(row['disk_free'])} are free.",
                "Delete keys, enlarge the disk, or add a node.",
                page,
            )
        if abs(ahead := state.clocks.get(name, 0.0)) > CLOCK_SECS:
            way = "ahead of" if ahead > 0 else "behind"
            yield Problem(
                "warn",
                f"The clock of node {name} is {formats.duration(abs(ahead))} {way} the master's.",
                "Run chrony or systemd-timesyncd on both. Lifetimes and newest values follow the clocks.",
                page,
            )
        if row["version"] != VERSION:
            yield Problem(
                "warn",
                f"Node {name} runs version {row['version']}, and the master {VERSION}.",
                "Upgrade the node.",
                page,
            )


def _of_queues(depths: Mapping[str, int]) -> Iterable[Problem]:
    if dead := depths.get(topology.DEAD, 0):
        yield Problem(
            "warn",
            f"{formats.count(dead)} message{'s' * (dead != 1)} could not be used and wait{'s' * (dead == 1)} in "
            f"{topology.DEAD}.",
            "Each says why. Put right what is wrong, then send them again or drop them.",
            "dead",
        )
