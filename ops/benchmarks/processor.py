"""The processor time of the processes of a cluster, by role.

Unlike a rate, it depends little on what else runs on the machine.
"""

from __future__ import annotations

from contextlib import suppress

import psutil

from ops.benchmarks.memory import role, tree
from ops.cluster import Cluster
from ops.cluster.processes import Child

_SHOWN_MS = 0.01


def seconds(cluster: Cluster) -> dict[str, float]:
    """Processor time so far, in seconds, by role. Those of runs are together, whether they have ended or not."""
    found: dict[str, float] = {}
    agents = _agents(cluster)
    zygotes: set[int] = set()
    broker = cluster.rabbit.children if cluster.rabbit else []
    for process in cluster.processes:
        whose = "RabbitMQ" if process in broker else "master" if process is cluster.master else "node"
        for member in tree(process.pid or 0):
            try:
                times, command, parent = member.cpu_times(), member.cmdline(), member.ppid()
            except psutil.NoSuchProcess:
                continue
            kind = whose if process in broker else "runs" if parent in zygotes else f"{whose} {role(command)}"
            found[kind] = found.get(kind, 0.0) + times.user + times.system
            if "node.runs.zygote" in command and parent in agents:
                zygotes.add(member.pid)
                found["runs"] = found.get("runs", 0.0) + times.children_user + times.children_system
    return found


def below(pid: int) -> dict[str, float]:
    """The same for the processes below one that runs a whole cluster, as `ops/up` does. A spare process is a run."""
    found: dict[str, float] = {}
    packages: dict[int, str] = {}  # of the processes that are modules
    zygotes: set[int] = set()
    for member in tree(pid):
        try:
            times, command, parent = member.cpu_times(), member.cmdline(), member.ppid()
        except psutil.NoSuchProcess:
            continue
        module = command[command.index("-m") + 1] if "-m" in command[:-1] else ""
        package, _, name = module.partition(".")
        if parent in zygotes:
            kind = "runs"
        elif name:
            kind = f"{package} {name}"
        elif "beam" in "".join(command[:1]):
            kind = "RabbitMQ"
        elif module or parent not in packages:
            kind = "others"
        else:
            kind = f"{packages[parent]} web worker"
        if module:
            packages[member.pid] = package
        found[kind] = found.get(kind, 0.0) + times.user + times.system
        if module == "node.runs.zygote" and parent not in zygotes:
            zygotes.add(member.pid)
            found["runs"] = found.get("runs", 0.0) + times.children_user + times.children_system
    return found


def whole(child: Child) -> float:
    """Processor time of a process and its descendants so far, in seconds."""
    found = 0.0
    for member in tree(child.pid or 0):
        with suppress(psutil.NoSuchProcess):
            found += sum(member.cpu_times()[:4])  # of user and system, of its own and of children that have ended
    return found


def _agents(cluster: Cluster) -> set[int]:
    found = set()
    for node in cluster.nodes:
        for member in tree(node.process.pid or 0):
            with suppress(psutil.NoSuchProcess):  # a run, which has ended meanwhile
                if "node.agent" in member.cmdline():
                    found.add(member.pid)
    return found


def each(before: dict[str, float], after: dict[str, float], jobs: int) -> dict[str, float]:
    """The processor time of a job in ms, by role."""
    return {kind: (after[kind] - before.get(kind, 0.0)) / max(1, jobs) * 1e3 for kind in after}


def told(before: dict[str, float], after: dict[str, float], jobs: int) -> str:
    """The processor time of a job in words, the largest part first."""
    took = each(before, after, jobs)
    parts = sorted(took.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{kind} {ms:.2f}" for kind, ms in parts if ms >= _SHOWN_MS)
    return f"processor time of a job: {sum(took.values()):.2f} ms ({shown})"
