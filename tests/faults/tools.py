"""What the fault tests do to a cluster, and how they wait for it to be well again."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from broker.clock import now_ms
from master.errors import IndexUnusable
from master.index.index import Cursor, Index
from ops import http_client
from ops.cluster import Cluster, Node
from ops.cluster.errors import ConsoleError
from ops.cluster.processes import Child
from tests.faults.load import Client
from tests.support import wait_for

COMPANION = "companion"  # the controller of the master, the agent of a node
WORKER = "worker"  # a web worker of the master, the data server of a node


# Processes.


def processes(child: Child, kind: str) -> list[int]:
    """Process ids of the companion, or of the workers, of a master or a node; the youngest last."""
    found = []
    for process in _family(child):
        try:
            command, born = process.cmdline(), process.create_time()
        except psutil.Error:
            continue
        is_companion = command[1:2] == ["-m"] and command[2:3] in (["master.controller"], ["node.agent"])
        is_worker = any("spawn_main" in part for part in command)
        if is_companion if kind == COMPANION else is_worker:
            found.append((born, process.pid))
    return [pid for _, pid in sorted(found)]


def family(child: Child) -> list[int]:
    """Process ids of everything that belongs to a master or a node."""
    return [process.pid for process in _family(child)]


def _family(child: Child) -> list[psutil.Process]:
    try:
        return psutil.Process(child.pid).children(recursive=True) if child.pid else []
    except psutil.NoSuchProcess:
        return []


def kill_part(child: Child, kind: str) -> None:
    """Kill (-9) the companion, or the youngest worker, of a process; its main process has to start another one."""
    before = wait_for(lambda: processes(child, kind), 30, f"a {kind} of {child.name} to kill")
    os.kill(before[-1], signal.SIGKILL)
    wait_for(
        lambda: len(now := processes(child, kind)) >= len(before) and before[-1] not in now,
        30,
        f"another {kind} of {child.name}",
    )


def revive(cluster: Cluster) -> None:
    """Start whatever an earlier test has left broken."""
    dead = [child for child in cluster.processes if not child.running]
    for child in dead:
        child.start()
    if dead:
        settle(cluster)
    cluster.wait_healthy(30)


def living(pids: list[int]) -> list[int]:
    """Those of the processes that still run."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


# The state of a cluster.


def settle(cluster: Cluster, timeout: float = 30.0, *, full: bool = False) -> None:
    """Wait until the cluster is healthy, has heard from every node, and has in its index what they logged.

    With `full` disks `/health` is 503; then all nodes must listen. Only a heartbeat that a node has made since now
    counts. One of a process that was killed before may still lie in the queue, and says nothing of the next one. The
    log must be the one that the index knows, which a node that lost its disk or has a backup in its place changes.
    """
    asked = now_ms()
    if full:
        nodes = [node for node in cluster.nodes if node.process.wanted]
        wait_for(lambda: all(serves(cluster, node) for node in nodes), timeout, "all nodes to serve")
    else:
        cluster.wait_healthy(timeout)
    started = [node.id for node in cluster.nodes if node.process.wanted]

    def applied() -> bool:
        if not all(serves(cluster, node) for node in cluster.nodes if node.process.wanted):
            return False  # its agent may be there before its data server, and the log before the index
        try:
            index = Index(cluster.master_directory / "index", 1 << 38)
        except IndexUnusable:
            return False  # a new master has not made it yet
        with closing(index), index.read() as tables:
            heard, awaited = tables.nodes(), tables.incomplete()
            cursors = {node: tables.cursor(node) or Cursor() for node in started}
        return awaited is not None and all(
            node in heard
            and (beat := heard[node].heartbeat).at > asked
            and beat.epoch in (epoch for _, epoch in cursor.epochs)
            and cursor.seq >= beat.seq
            and not cursor.prune
            and node not in awaited
            for node, cursor in cursors.items()
        )

    wait_for(applied, timeout, "an index with all that the nodes logged")


def flip(directory: Path, content: bytes, at: int) -> Path | None:
    """Change one byte of the only file below a node's directory that has this content; the file, None for no such."""
    for file in sorted(directory.rglob("*")):
        if not file.is_file() or file.parent.name == "index":
            continue
        with suppress(FileNotFoundError), file.open("r+b") as opened:  # compaction may be quicker
            data = opened.read()
            start = data.find(content)
            if start >= 0:
                opened.seek(start + at)
                opened.write(bytes([data[start + at] ^ 0x40]))
                return file
    return None


def serves(cluster: Cluster, node: Node) -> bool:
    """Whether values can be read from a node."""
    try:
        return http_client.ask("GET", f"{node.url}/health", timeout=5, ca=cluster.ca).status == 200
    except (OSError, http.client.HTTPException):  # it is not there yet
        return False


def network(cluster: Cluster) -> dict[str, dict[str, Any]]:
    """`/admin/network`, by node."""
    with closing(Client(cluster.master_url)) as client:
        return {row["node"]: row for row in client.json("/admin/network")}


def wait_silent(cluster: Cluster, node: Node, timeout: float = 20.0) -> None:
    """Wait until the master knows that the node is not heard from."""
    wait_for(lambda: not network(cluster)[node.id]["synch"], timeout, f"{node.id} out of synch")


def wipe_index(cluster: Cluster) -> None:
    """Remove the index of a master that is stopped."""
    assert not cluster.master.running
    shutil.rmtree(cluster.master_directory / "index")


def restart_node(cluster: Cluster, number: int) -> None:
    """Start a node that was stopped, and wait until the cluster is well."""
    cluster.start_node(number)
    settle(cluster)


# Logs.


def log_text(child: Child) -> str:
    """All that a process has logged."""
    return child.log.read_text(errors="replace") if child.log.exists() else ""


def logged(child: Child, *parts: str) -> list[str]:
    """Lines of a log that have all these parts."""
    return [line for line in log_text(child).splitlines() if all(part in line for part in parts)]


def wait_logged(child: Child, *parts: str, more_than: int = 0, timeout: float = 20.0) -> str:
    """Wait until more than so many lines of a log have all these parts; returns the last one."""
    wait_for(lambda: len(logged(child, *parts)) > more_than, timeout, f"{child.name} logs {' … '.join(parts)}")
    return logged(child, *parts)[-1]


def tracebacks(cluster: Cluster) -> list[str]:
    """Lines in the logs of master and nodes that have a traceback: what nobody had thought of."""
    return [
        f"{child.name}: {line[:3000]}"
        for child in (cluster.master, *(node.process for node in cluster.nodes))
        for line in log_text(child).splitlines()
        if "traceback=" in line or re.match(r"\w*(Error|Exception|Interrupt)\b.*", line) or "panicked" in line
    ]


# RabbitMQ's console.


def api(cluster: Cluster, method: str, path: str, body: Any = None) -> Any:
    """A request to the console's HTTP API; `{vhost}` in the path stands for the cluster's own."""
    assert cluster.rabbit is not None
    return cluster.rabbit.api(method, path.replace("{vhost}", quote(cluster.vhost, safe="")), body)


def connections(cluster: Cluster) -> dict[str, str]:
    """Connections to the broker: what the console calls each, and the name that its owner gave it."""
    return {
        row["name"]: (row.get("client_properties") or {}).get("connection_name", "")
        for row in api(cluster, "GET", "vhosts/{vhost}/connections")
    }


def delete_queue(cluster: Cluster, queue: str) -> bool:
    """Delete a queue; False when there was none."""
    try:
        api(cluster, "DELETE", f"queues/{{vhost}}/{quote(queue, safe='')}")
    except ConsoleError as error:
        if " 404 " in f" {error} ":
            return False
        raise
    return True


def tree_bytes(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
