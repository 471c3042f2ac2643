"""A backup of a node to a directory on the same disk: beside cp, once more after a few changes, and beside PUTs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from ops import http_client
from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.million import PREFIX, entries, fill_node
from ops.benchmarks.table import Row
from ops.cluster import Cluster

LEAST_OF_CP = 0.7
MOST_AGAIN = 0.03  # of the bytes and of the time of the first backup, when 1 % has changed
MOST_P99 = 2.0  # of the quiet one
CHANGED = 0.01
FILES = 4  # large values
IN_FLIGHT = 16
POLL_SECS = 0.02
BACKUP_SECS = 900
MIB = 1 << 20


def backup(bench: Bench) -> None:
    """Measure a node with `plan.keys` values of `plan.value` bytes and four large ones."""
    target = bench.directory / "backups"
    target.mkdir()
    settings = {"PULZAR_BACKUP_TYPE": "directory", "PULZAR_BACKUP_ADDRESS": str(target)}
    with bench.cluster("backup", nodes=1, **settings) as cluster:
        bench.say(f"filling the stopped node with {bench.plan.keys:,} values, then {FILES} large ones")
        cluster.stop_node(0)
        fill_node(bench, cluster, sizes=str(bench.plan.value))
        cluster.start_node(0)
        while entries(cluster) < bench.plan.keys:
            time.sleep(POLL_SECS)
        cluster.wait_healthy()
        _put_large(bench, cluster)
        _quiet_rows(bench, cluster, target)
        _busy_row(bench, cluster, target)


def _put_large(bench: Bench, cluster: Cluster) -> None:
    source = bench.directory / "large.bin"
    for number in range(FILES):
        with source.open("wb") as file:
            for _ in range(bench.plan.large // MIB):
                file.write(os.urandom(MIB))
        bench.client.curl("-T", str(source), f"{cluster.master_url}/add_key/bench/large-{number}", expected=201)
    source.unlink()


def _quiet_rows(bench: Bench, cluster: Cluster, target: Path) -> None:
    """The first backup beside `cp -r` and `sync`, in turns, and each time a second one after 1 % has changed."""
    plan = bench.plan
    data = cluster.nodes[0].directory
    copied, first, again = [], [], []
    for number in range(plan.runs):
        shutil.rmtree(bench.directory / "copy", ignore_errors=True)
        _empty(cluster, target)
        copied.append(_copy(data, bench.directory / "copy"))
        os.sync()
        first.append(_back_up(cluster))
        count = int(plan.keys * CHANGED)
        where = f"{cluster.master_url}/add_key/{PREFIX}changed-{number}-"
        bench.client.load("put", where, IN_FLIGHT, count=count, size=plan.value)
        os.sync()
        again.append(_back_up(cluster))
    size = median(done["size"] for done in first)
    amount = f"{plan.keys:,} values of {plan.value} B and {FILES} of {plan.large >> 20} MiB"
    seconds = median(done["seconds"] for done in first)
    ratio = median(copied) / seconds
    bench.add(
        Row(
            f"backup of {amount} to a directory of the same disk",
            f"{seconds:.1f} s, {ratio:.2f} of cp -r and sync",
            target=f"≥ {LEAST_OF_CP} of cp -r and sync",
            reached=ratio >= LEAST_OF_CP,
            note=f"{size / MIB:,.0f} MiB; cp -r and sync took {median(copied):.1f} s",
            runs=[copied, first],
        )
    )
    share = median(done["sent"] for done in again) / size
    time_share = median(done["seconds"] for done in again) / seconds
    bench.add(
        Row(
            f"the next backup, after {CHANGED:.0%} has changed",
            f"{share:.1%} of its bytes, {time_share:.1%} of its time",
            target=f"< {MOST_AGAIN:.0%} of both",
            reached=max(share, time_share) < MOST_AGAIN,
            note=f"{median(done['seconds'] for done in again):.2f} s",
            runs=again,
        )
    )


def _busy_row(bench: Bench, cluster: Cluster, target: Path) -> None:
    """PUTs at 16 in flight while nothing else is done, and while a first backup is made, in turns."""
    plan = bench.plan
    quiet, busy = [], []
    url = f"{cluster.master_url}/add_key/{PREFIX}busy-"
    first = 0
    for _ in range(plan.runs):
        _empty(cluster, target)
        os.sync()
        figures = bench.client.load("put", url, IN_FLIGHT, seconds=plan.seconds, size=plan.value, first=first)
        quiet.append(figures.p99_ms)
        first += 1_000_000
        with ThreadPoolExecutor(1) as background:
            made = background.submit(_back_up, cluster)
            figures = bench.client.load("put", url, IN_FLIGHT, seconds=plan.seconds, size=plan.value, first=first)
            made.result(BACKUP_SECS)
        busy.append(figures.p99_ms)
        first += 1_000_000
    ratio = median(busy) / median(quiet)
    bench.add(
        Row(
            f"PUT {plan.value} B, {IN_FLIGHT} in flight, while a backup is made",
            f"p99 {median(busy):.1f} ms, {ratio:.2f} of the quiet one",
            target=f"≤ {MOST_P99:g} of the quiet one",
            reached=ratio <= MOST_P99,
            note=f"p99 {median(quiet):.1f} ms while nothing else is done",
            runs=[quiet, busy],
        )
    )


def _empty(cluster: Cluster, target: Path) -> None:
    """A target without backups, and a node that knows of none there: it would refuse one that has lost them."""
    shutil.rmtree(target)
    target.mkdir()
    (cluster.nodes[0].directory / "backup-owner").unlink(missing_ok=True)


def _copy(data: Path, copy: Path) -> float:
    """Seconds of `cp -r` and `sync`."""
    os.sync()
    began = time.monotonic()
    subprocess.run(["cp", "-r", str(data), str(copy)], check=True)
    os.sync()
    return time.monotonic() - began


def _back_up(cluster: Cluster) -> dict[str, Any]:
    """Have the node back itself up; its figures, with the seconds until the master says that it is good."""
    node = cluster.nodes[0].id
    before = _member(cluster, node)["last_good"]
    began = time.monotonic()
    reply = http_client.ask("POST", f"{cluster.master_url}/admin/backup", json.dumps({"node": node}).encode())
    if reply.status != 202:
        raise RunFailed(f"POST /admin/backup was answered {reply.status}: {reply.text}")
    while time.monotonic() - began < BACKUP_SECS:
        member = _member(cluster, node)
        if not member["running"]:
            if member["error"] or member["last_good"] == before:
                raise RunFailed(f"no backup was made: {member['error']}")
            return member | {"seconds": time.monotonic() - began}
        time.sleep(POLL_SECS)
    raise RunFailed(f"no backup within {BACKUP_SECS} s")


def _member(cluster: Cluster, node: str) -> dict[str, Any]:
    reply = http_client.ask("GET", f"{cluster.master_url}/admin/backup", timeout=10)
    found: dict[str, Any] = next(row for row in reply.data["members"] if row["member"] == node)
    return found
