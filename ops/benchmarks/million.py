"""A million keys: GETs beside a thousand keys, the master's memory, and the replay into an empty master."""

from __future__ import annotations

import http.client
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from statistics import median

from ops import http_client
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, usage
from ops.benchmarks.table import Row, rate_row
from ops.cluster import Cluster

FEW = 1000
IN_FLIGHT = 16
LEAST_REPLAYED = 30_000  # keys per second
# Medians of the same thing differ by this much from run to run, so a smaller difference means nothing.
NOISE = 0.05

POLL_SECS = 0.02
REPLAY_SECS = 600
PREFIX = "bench/small-"


def million(bench: Bench) -> None:
    """Measure two clusters of one node each, whose log is all that the master has to learn."""
    plan = bench.plan
    with bench.cluster("few", nodes=1) as few:
        bench.client.load("put", f"{few.master_url}/add_key/{PREFIX}", IN_FLIGHT, count=FEW, size=plan.small)
        _memory_row(bench, few, FEW)
        with bench.cluster("many", nodes=1) as many:
            bench.say(f"filling the log of its stopped node with {plan.keys:,} values")
            many.stop_node(0)
            fill_node(bench, many)
            many.start_node(0)
            _replay_row(bench, many)
            _memory_row(bench, many, plan.keys)
            _compare(bench, few, many)
            _memory_row(bench, many, plan.keys, " and GETs of all of them")


def fill_node(bench: Bench, cluster: Cluster, prefix: str = PREFIX, sizes: str = "", folder: int = 0) -> None:
    """Write the values through the node's own storage, with every record, digest and fsync. Raises `RunFailed`.

    `sizes` and `folder` are as for `ops.benchmarks.fill`.
    """
    plan = bench.plan
    command = [sys.executable, "-m", "ops.benchmarks.fill", str(cluster.nodes[0].directory)]
    command += [prefix, str(plan.keys), sizes or str(plan.small), str(folder)]
    began = time.monotonic()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with status {done.returncode}: {done.stderr[-1000:]}")
    bench.say(f"filled at {plan.keys / (time.monotonic() - began):,.0f} values/s")


def _replay_row(bench: Bench, cluster: Cluster) -> None:
    runs = bench.repeat(lambda _: _replay(bench, cluster))
    rate = median(run["rate"] for run in runs)
    burst = median(run["rate_from_first_entry"] for run in runs)
    whole = median(run["from_start_seconds"] for run in runs)
    bench.add(
        Row(
            f"an empty master filled by replay from a node with {bench.plan.keys:,} values of {bench.plan.small} B",
            f"{rate:,.0f} keys/s",
            target=f"≥ {LEAST_REPLAYED:,} keys/s",
            reached=rate >= LEAST_REPLAYED,
            note=f"counted from the master's first answer; all was there {whole:.1f} s after its start, "
            f"and {burst:,.0f} keys/s came from the first entry on",
            runs=runs,
        )
    )


def _replay(bench: Bench, cluster: Cluster) -> dict[str, float]:
    """Start the master without its index; rates and seconds. The rate counts from its first response on."""
    cluster.stop_master()
    shutil.rmtree(cluster.master_directory)
    started = time.monotonic()
    answered_at = filling_at = 0.0
    cluster.start_master()
    while (found := entries(cluster)) < bench.plan.keys:
        looked = time.monotonic()
        if found == 0 and not answered_at:
            answered_at = looked
        if found <= 0:
            filling_at = looked
        if looked - started > REPLAY_SECS:
            raise RunFailed(f"after {REPLAY_SECS} s the master has {found:,} of {bench.plan.keys:,} entries")
        time.sleep(POLL_SECS)
    full_at = time.monotonic()
    cluster.wait_healthy()
    return {
        "rate": bench.plan.keys / (full_at - (answered_at or started)),
        "rate_from_first_entry": bench.plan.keys / (full_at - filling_at),
        "from_start_seconds": full_at - started,
    }


def entries(cluster: Cluster) -> int:
    """The number of entries in the master's index; -1 while it does not respond."""
    try:
        reply = http_client.ask("GET", f"{cluster.master_url}/admin/status", timeout=10)
    except (OSError, http.client.HTTPException):
        return -1
    return int(reply.data["entries"]) if reply.status == 200 else -1


def _compare(bench: Bench, few: Cluster, many: Cluster) -> None:
    """Measure GETs of random keys from both clusters in turns, so both have the same machine."""
    sides = ((few, FEW), (many, bench.plan.keys))
    for tool in ("wrk", "load"):
        for cluster, keys in sides:  # to warm up
            _get(bench, "load", cluster, keys)
        runs = [[_get(bench, tool, cluster, keys) for cluster, keys in sides] for _ in range(bench.plan.runs)]
        by_side = list(zip(*runs, strict=True))
        for (_, keys), figures in zip(sides, by_side, strict=True):
            name = f"GET {bench.plan.small} B with {keys:,} keys, {IN_FLIGHT} in flight ({tool})"
            bench.add(rate_row(name, figures))
        ratio = median(run.rate for run in by_side[1]) / median(run.rate for run in by_side[0])
        bench.add(
            Row(
                f"GET with {bench.plan.keys:,} keys, compared with {FEW:,} ({tool})",
                f"{ratio:.2f} of its rate",
                target=f"no slower: ≥ {1 - NOISE:g}",
                reached=ratio >= 1 - NOISE,
            )
        )


def _get(bench: Bench, tool: str, cluster: Cluster, keys: int) -> Figures:
    """Run GETs of random keys once."""
    client, plan = bench.client, bench.plan
    url = f"{cluster.master_url}/get_key/{PREFIX}"
    if tool == "wrk":
        return client.wrk(url, IN_FLIGHT, plan.seconds, keys)
    return client.load("get", url, IN_FLIGHT, seconds=plan.seconds, size=plan.small, keys=keys, random=True)


def _memory_row(bench: Bench, cluster: Cluster, keys: int, when: str = "") -> None:
    used = usage(cluster.master.pid or 0)
    rss, anonymous = (sum(getattr(process, name) for process in used) / MIB for name in ("rss", "anonymous"))
    bench.add(
        Row(
            f"memory of the master with {keys:,} keys{when}",
            f"{rss:.0f} MiB RSS, {anonymous:.0f} anonymous",
            target="stated",
            note="; ".join(map(str, used)) + " MiB (RSS counts the pages of the index that are mapped)",
            runs=[asdict(process) for process in used],
        )
    )
