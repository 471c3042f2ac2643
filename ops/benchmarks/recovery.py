"""The benchmark of recovery: a replay into an empty master, and lists of all that it brought."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import time
from collections.abc import Collection
from contextlib import closing
from statistics import median
from urllib.parse import quote, urlsplit

from ops.benchmarks import processor
from ops.benchmarks.archive import archive
from ops.benchmarks.backups import backup
from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.million import POLL_SECS, REPLAY_SECS, entries, fill_node
from ops.benchmarks.restic import restic
from ops.benchmarks.table import Row
from ops.cluster import Cluster

FOLDER = 1000  # keys of one folder
PAGE = 1000  # keys
PREFIX = "bench/"

LEAST_REPLAYED = 60_000  # keys per second
LEAST_LISTED = 150_000  # keys per second
LONGEST_FOLDERS_MS = 50

_NEXT = re.compile(rb'"next":("(?:[^"\\]|\\.)*"|null)\}')

# The names for `--only`, in their order; those of a group share a cluster.
_GROUPS = (("replay", "listing", "folders"), ("archive",), ("backup",), ("restic",))


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    if not names:
        return
    if names == ["archive"]:
        with bench.cluster("archive") as cluster:
            archive(bench, cluster)
        return
    if names == ["restic"]:
        with bench.cluster("restic") as cluster:
            restic(bench, cluster)
        return
    if names == ["backup"]:
        backup(bench)
        return
    with bench.cluster("recovery", nodes=1) as cluster:
        bench.say(f"filling the log of its stopped node with {bench.plan.keys:,} values of 20 B to 1 KiB")
        cluster.stop_node(0)
        fill_node(bench, cluster, PREFIX, "20-1024", FOLDER)
        cluster.start_node(0)
        runs = bench.repeat(lambda _: _replay(bench, cluster))
        if "replay" in names:
            _replay_row(bench, runs)
        if "listing" in names:
            _listing_row(bench, cluster)
        if "folders" in names:
            _folders_row(bench, cluster)


def _replay(bench: Bench, cluster: Cluster) -> dict[str, float]:
    """Start the master without its index: keys a second from its first answer on, and processor time of each role."""
    cluster.stop_master()
    shutil.rmtree(cluster.master_directory)
    before = processor.seconds(cluster)
    started = answered = time.monotonic()
    cluster.start_master()
    while (found := entries(cluster)) < bench.plan.keys:
        if found <= 0:
            answered = time.monotonic()
        if time.monotonic() - started > REPLAY_SECS:
            raise RunFailed(f"after {REPLAY_SECS} s the master has {found:,} of {bench.plan.keys:,} entries")
        time.sleep(POLL_SECS)
    seconds = time.monotonic() - answered
    took = {role: used - before.get(role, 0.0) for role, used in processor.seconds(cluster).items()}
    cluster.wait_healthy()
    millions = bench.plan.keys / 1e6
    return {"rate": bench.plan.keys / seconds} | {role: used / millions for role, used in took.items()}


def _replay_row(bench: Bench, runs: list[dict[str, float]]) -> None:
    rate = median(run["rate"] for run in runs)
    roles = sorted({role for run in runs for role in run} - {"rate"})
    shown = ((role, median(run.get(role, 0.0) for run in runs)) for role in roles)
    used = ", ".join(f"{role} {seconds:.1f}" for role, seconds in shown if seconds >= 0.1)
    bench.add(
        Row(
            f"an empty master filled by replay from a node with {bench.plan.keys:,} values of 20 B to 1 KiB",
            f"{rate:,.0f} keys/s",
            target=f"≥ {LEAST_REPLAYED:,} keys/s",
            reached=rate >= LEAST_REPLAYED,
            note=f"from the last look at an empty index on; seconds of processor time for a million keys: {used}",
            runs=runs,
        )
    )


def _connection(cluster: Cluster) -> http.client.HTTPConnection:
    parts = urlsplit(cluster.master_url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)


def _get(connection: http.client.HTTPConnection, target: str) -> bytes:
    connection.request("GET", target)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RunFailed(f"GET {target} was answered {response.status}: {body[:300]!r}")
    return body


def _listing_row(bench: Bench, cluster: Cluster) -> None:
    """All keys by pages, one after the other on one connection. The client reads a page, and of it only `next`."""

    def run(_: int) -> dict[str, float]:
        took = []
        before = processor.seconds(cluster)
        with closing(_connection(cluster)) as connection:
            following: str | None = ""
            began = time.monotonic()
            while following is not None:
                at = time.monotonic()
                body = _get(connection, f"/keys?limit={PAGE}&prefix={PREFIX}&after={quote(following)}")
                took.append(time.monotonic() - at)
                match = _NEXT.search(body, len(body) - 1000)
                if match is None:
                    raise RunFailed(f"a page has no next: {body[-300:]!r}")
                following = json.loads(match[1])
            seconds = time.monotonic() - began
        if len(took) != -(-bench.plan.keys // PAGE):
            raise RunFailed(f"{len(took):,} pages came for {bench.plan.keys:,} keys")
        used = sum(processor.seconds(cluster).values()) - sum(before.values())
        return {
            "rate": bench.plan.keys / seconds,
            "p50_ms": median(took) * 1e3,
            "p99_ms": sorted(took)[len(took) * 99 // 100] * 1e3,
            "processor_us": used / bench.plan.keys * 1e6,
        }

    run(0)  # to warm up
    runs = bench.repeat(run)
    rate, p50, p99, used = (
        median(each[name] for each in runs) for name in ("rate", "p50_ms", "p99_ms", "processor_us")
    )
    bench.add(
        Row(
            f"list of {bench.plan.keys:,} keys by pages of {PAGE:,}, one after the other",
            f"{rate:,.0f} keys/s",
            p50=f"{p50:.2f}",
            p99=f"{p99:.2f}",
            target=f"≥ {LEAST_LISTED:,} keys/s",
            reached=rate >= LEAST_LISTED,
            note=f"p50 and p99 are those of a page; processor time of a key {used:.1f} µs",
            runs=runs,
        )
    )


def _folders_row(bench: Bench, cluster: Cluster) -> None:
    """The folders of all keys, each with its counters."""
    count = -(-bench.plan.keys // FOLDER)
    target = f"/keys?prefix={PREFIX}&delimiter=/&limit={min(count, 1000)}"

    def run(_: int) -> dict[str, float]:
        with closing(_connection(cluster)) as connection:
            began = time.monotonic()
            body = _get(connection, target)
            took = time.monotonic() - began
        folders = json.loads(body)["data"]["folders"]
        if len(folders) != count or sum(folder["keys"] for folder in folders) != bench.plan.keys:
            raise RunFailed(f"{len(folders):,} folders with other numbers of keys came: {folders[:2]}")
        return {"ms": took * 1e3}

    run(0)  # to warm up
    runs = [run(number) for number in range(20)]
    took = median(each["ms"] for each in runs)
    bench.add(
        Row(
            f"{count:,} folders of {FOLDER:,} keys, with the number and bytes of each",
            f"{took:.1f} ms",
            target=f"< {LONGEST_FOLDERS_MS} ms",
            reached=took < LONGEST_FOLDERS_MS,
            commands=[f"GET {target}"],
            runs=runs,
        )
    )
