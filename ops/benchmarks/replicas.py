"""The benchmark of replicas: values on two of three nodes beside values on one, in the same cluster and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import median
from typing import Any

from ops.benchmarks import large
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, usage
from ops.benchmarks.rest import Rest
from ops.benchmarks.table import Row
from ops.cluster import Cluster
from ops.cluster.network import wait_until

NODES = 3
FOLDERS = {"one node": "one/", "two nodes": "two/"}
SETTINGS = {"PULZAR_GENERAL_REPLICAS": "1, two/: 2", "PULZAR_VOLUME_REPAIR_BANDWIDTH": "1G"}
IN_FLIGHT, MANY = 16, 64
LEAST_PUT, LEAST_LARGE, LEAST_REPAIR = 0.65, 0.6, 0.5
MOST_MEMORY = 1.1
LONGEST_FAILOVER_SECS = 1.0
FAILOVER_KEYS, FAILOVER_BYTES = 200, 8_192  # larger than what the master keeps itself
LARGE_COUNT = 4  # large values that are repaired beside small ones
LONGEST_SECS = 1800

# The names for `--only`, in their order; those of a group share a cluster.
_GROUPS = (("put", "large", "failover"), ("memory", "repair"))


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    if not names:
        return
    measures: dict[str, Callable[[Bench, Cluster], None]] = {
        "put": _put,
        "large": _large,
        "failover": _failover,
        "memory": _memory,
        "repair": _repair,
    }
    with bench.cluster(f"replicas-{names[0]}", nodes=NODES, **SETTINGS) as cluster:
        for name in names:
            measures[name](bench, cluster)


def _put(bench: Bench, cluster: Cluster) -> None:
    """PUT of 1 KiB, in turns."""
    runs: dict[str, list[Figures]] = {name: [] for name in FOLDERS}
    for run in range(-1, bench.plan.runs):  # the first to warm up
        for name, folder in FOLDERS.items():
            url = f"{cluster.master_url}/add_key/{folder}put-{run}-"
            found = bench.client.load("put", url, IN_FLIGHT, seconds=bench.plan.seconds, size=bench.plan.value)
            if run >= 0:
                runs[name].append(found)
    one, two = (median(run.rate for run in runs[name]) for name in FOLDERS)
    for name, figures in runs.items():
        ratio = two / one
        shown = f"{median(run.rate for run in figures):,.0f}/s"
        last = name == "two nodes"
        bench.add(
            Row(
                f"PUT 1 KiB on {name}, {IN_FLIGHT} in flight",
                f"{shown}, {ratio:.2f} of one node" if last else shown,
                p50=f"{median(run.p50_ms for run in figures):.2f}",
                p99=f"{median(run.p99_ms for run in figures):.2f}",
                target=f"≥ {LEAST_PUT} of one node" if last else "",
                reached=ratio >= LEAST_PUT if last else None,
                errors=_errors(figures),
                commands=[figures[-1].command],
                runs=[run.details for run in figures],
            )
        )


def _errors(runs: list[Figures]) -> dict[str, int]:
    return {what: sum(run.errors.get(what, 0) for run in runs) for run in runs for what in run.errors}


def _large(bench: Bench, cluster: Cluster) -> None:
    """One large value by curl, in turns."""
    source = bench.directory / "source.bin"
    large.make(source, bench.plan.large)
    took: dict[str, list[float]] = {name: [] for name in FOLDERS}
    commands = {}
    for run in range(-1, bench.plan.runs):
        for name, folder in FOLDERS.items():
            os.sync()
            url = f"{cluster.master_url}/add_key/{folder}large-{run}"
            seconds, commands[name] = bench.client.curl("-T", str(source), url, expected=201)
            if run >= 0:
                took[name].append(seconds)
            bench.client.curl("-X", "DELETE", f"{cluster.master_url}/delete_key/{folder}large-{run}", expected=200)
    ratio = median(took["one node"]) / median(took["two nodes"])
    size = bench.plan.large // MIB
    for name, times in took.items():
        last = name == "two nodes"
        shown = f"{size / median(times):,.0f} MiB/s ({median(times):.2f} s)"
        bench.add(
            Row(
                f"PUT {size:,} MiB on {name} by curl -L, fsynced",
                f"{shown}, {ratio:.2f} of one node" if last else shown,
                target=f"≥ {LEAST_LARGE} of one node" if last else "",
                reached=ratio >= LEAST_LARGE if last else None,
                commands=[commands[name]],
                runs=times,
            )
        )


def _failover(bench: Bench, cluster: Cluster) -> None:
    """GETs by curl from the moment on at which a node is killed that has some of the values."""
    folder = f"{FOLDERS['two nodes']}failover-"
    url = f"{cluster.master_url}/add_key/{folder}"
    bench.client.load("put", url, IN_FLIGHT, count=FAILOVER_KEYS, size=FAILOVER_BYTES)
    command = ["curl", "-sS", "-L", "--fail", "--retry", "1", "-o", os.devnull]
    took: list[float] = []
    errors: dict[str, int] = {}
    cluster.kill_node(0)
    until = time.monotonic() + 4 * bench.plan.seconds
    while time.monotonic() < until:
        key = f"{cluster.master_url}/get_key/{folder}{len(took) % FAILOVER_KEYS}"
        began = time.monotonic()
        done = subprocess.run([*command, key], capture_output=True, text=True, check=False)
        took.append(time.monotonic() - began)
        if done.returncode:
            what = f"curl ended with {done.returncode}"
            errors[what] = errors.get(what, 0) + 1
    cluster.start_node(0)
    cluster.wait_healthy()
    p99 = sorted(took)[len(took) * 99 // 100]
    bench.add(
        Row(
            "GET 8 KiB by curl -L --retry 1, one after the other, while a holder was just killed",
            f"{len(took):,} GETs",
            p50=f"{median(took) * 1e3:.1f}",
            p99=f"{p99 * 1e3:.1f}",
            target=f"p99 < {LONGEST_FAILOVER_SECS:g} s, no errors",
            reached=p99 < LONGEST_FAILOVER_SECS and not errors,
            errors=errors,
            commands=[" ".join([*command, key])],
            runs=[{"p99": p99, "longest": max(took), "gets": len(took)}],
        )
    )


def _memory(bench: Bench, cluster: Cluster) -> None:
    """What a key costs the master: pages of its index, and memory of its processes that is no file."""
    count = bench.plan.keys // 10
    costs: dict[str, tuple[float, float]] = {}
    for name, folder in FOLDERS.items():
        before = _pages(cluster), _anonymous(cluster)
        url = f"{cluster.master_url}/add_key/{folder}memory-"
        bench.client.load("put", url, MANY, count=count, size=bench.plan.small)
        after = _pages(cluster), _anonymous(cluster)
        costs[name] = (after[0] - before[0]) / count, (after[1] - before[1]) / count
    one, two = costs["one node"][0], costs["two nodes"][0]
    bench.add(
        Row(
            f"index of the master for each of {count:,} values of {bench.plan.small} B on two nodes",
            f"{two:.0f} B, {two / one:.2f} of one node",
            target=f"≤ {MOST_MEMORY} of one node",
            reached=two / one <= MOST_MEMORY,
            note="; ".join(
                f"{name}: {pages:.0f} B of index, {more:.0f} B else" for name, (pages, more) in costs.items()
            ),
        )
    )


def _pages(cluster: Cluster) -> int:
    with Rest(cluster.master_url) as rest:
        status = rest.get("/admin/status")
    return int(status["psize"] * (status["branch_pages"] + status["leaf_pages"] + status["overflow_pages"]))


def _anonymous(cluster: Cluster) -> int:
    return sum(process.anonymous for process in usage(cluster.master.pid or 0))


def _repair(bench: Bench, cluster: Cluster) -> None:
    """Wipe a node, and wait until every value is on two nodes again; then rsync copies as many bytes of a node."""
    count = bench.plan.keys // 5
    size = bench.plan.large // 4
    folder = FOLDERS["two nodes"]
    url = f"{cluster.master_url}/add_key/{folder}repair-"
    bench.say(f"storing {count:,} values of {bench.plan.value} B and {LARGE_COUNT} of {size // MIB} MiB on two nodes")
    bench.client.load("put", url, MANY, count=count, size=bench.plan.value)
    source = bench.directory / "repaired.bin"
    large.make(source, size)
    for number in range(LARGE_COUNT):
        bench.client.curl("-T", str(source), f"{url}large-{number}", expected=201)
    wanted = _copies(cluster)
    node = cluster.nodes[0]
    cluster.stop_node(0)
    took = _rsync(node.directory, bench.directory / "rsync")
    held = _bytes(node.directory)
    shutil.rmtree(node.directory)
    os.sync()
    began = time.monotonic()
    cluster.start_node(0)
    # The last heartbeat of the node counts until its first one with an empty log.
    wait_until(lambda: _copies(cluster) < wanted, LONGEST_SECS)
    if not wait_until(lambda: _whole(cluster), LONGEST_SECS):
        raise RunFailed(f"not every value is on two nodes after {LONGEST_SECS} s")
    repaired = time.monotonic() - began
    ratio = took / repaired
    bench.add(
        Row(
            f"repair of a wiped node's {held / MIB:,.0f} MiB, small values and large ones",
            f"{held / MIB / repaired:,.0f} MiB/s ({repaired:.1f} s), {ratio:.2f} of rsync",
            target=f"≥ {LEAST_REPAIR} of rsync",
            reached=ratio >= LEAST_REPAIR,
            note=f"from the start of the empty node on; rsync -a of its directory, and a sync: {took:.1f} s",
            runs=[{"repair": repaired, "rsync": took, "bytes": held}],
        )
    )


def _rsync(source: Path, to: Path) -> float:
    os.sync()
    began = time.monotonic()
    subprocess.run(["rsync", "-a", f"{source}/", f"{to}/"], check=True)
    os.sync()
    took = time.monotonic() - began
    shutil.rmtree(to)
    return took


def _bytes(directory: Path) -> int:
    return sum(file.stat().st_size for name in ("log", "values") for file in (directory / name).rglob("*"))


def _copies(cluster: Cluster) -> int:
    """How many values all nodes have, as their heartbeats say."""
    with Rest(cluster.master_url) as rest:
        rows: list[dict[str, Any]] = rest.get("/admin/network")
    return sum(row["keys"] for row in rows)


def _whole(cluster: Cluster) -> bool:
    with Rest(cluster.master_url) as rest:
        repair = rest.get("/admin/status")["repair"]
    return bool(repair["checked"]) and not (repair["lacking"] or repair["under_way"])
