"""The benchmark of the web page: every screen with a million keys and jobs, and what an open page costs."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Collection
from statistics import median, quantiles
from urllib.parse import quote

from ops import http_client
from ops.benchmarks import processor
from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.million import PREFIX, REPLAY_SECS, entries, fill_node
from ops.benchmarks.table import Row
from ops.cluster import Cluster
from ops.cluster.network import wait_until
from tests.ui import screenshots

MOST_MS = 100.0  # until a screen is there
MOST_PERCENT = 1.0  # of a core, for an open page
ASKS = 20  # of each screen
POLL_SECS = 5.0  # as the page does
FOLDER = 1_000  # keys in each

_GROUPS = (("screens", "open"),)
_PAGE = {"Accept": "text/html", "Accept-Encoding": "gzip"}


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    if not names:
        return
    plan = bench.plan
    with bench.cluster("page", nodes=1) as cluster:
        bench.say(f"filling its node with {plan.keys:,} keys, and its ledger with as many jobs")
        cluster.stop_node(0)
        fill_node(bench, cluster, PREFIX, folder=FOLDER)
        cluster.stop_master()
        fill_ledger(bench, cluster, plan.keys)
        cluster.start_master()
        cluster.start_node(0)
        if not wait_until(lambda: entries(cluster) >= plan.keys, REPLAY_SECS):
            raise RunFailed(f"the master has {entries(cluster):,} of {plan.keys:,} keys after {REPLAY_SECS} s")
        cluster.wait_healthy()
        screenshots.fill(cluster.master_url)
        screenshots.bury(cluster.broker_url)
        if "screens" in names:
            _screens(bench, cluster)
        if "open" in names:
            _open(bench, cluster)


def fill_ledger(bench: Bench, cluster: Cluster, count: int) -> None:
    """Write so many jobs that have ended into the ledger of a stopped master. Raises `RunFailed`."""
    began = time.monotonic()
    command = [sys.executable, "-m", "ops.benchmarks.fill_jobs"]
    command += [str(cluster.master_directory / "ledger"), str(count)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with status {done.returncode}: {done.stderr[-1000:]}")
    bench.say(f"filled at {count / (time.monotonic() - began):,.0f} jobs/s")


def _screens(bench: Bench, cluster: Cluster) -> None:
    """Time each screen from the request to the last byte, from this machine."""
    paths = screenshots.SCREENS | {"keys, all": "/ui/keys", "keys, a folder": f"/ui/keys?prefix={PREFIX}"}
    for name, path in paths.items():
        times: list[float] = []
        size = 0
        for _ in range(ASKS):
            began = time.perf_counter()
            reply = http_client.ask("GET", cluster.master_url + quote(path, safe="/?&=%"), headers=_PAGE)
            times.append((time.perf_counter() - began) * 1e3)
            size = len(reply.body)
            if reply.status not in (200, 404):  # one of them shows an error
                raise RunFailed(f"GET {path} was answered with {reply.status}")
        middle = median(times)
        bench.add(
            Row(
                f"screen {name}, {bench.plan.keys:,} keys and jobs",
                f"{middle:.1f} ms",
                p50=f"{middle:.1f}",
                p99=f"{quantiles(times, n=100)[98]:.1f}",
                target=f"< {MOST_MS:g} ms",
                reached=middle < MOST_MS,
                note=f"{path}, {size:,} bytes, the first {times[0]:.1f} ms",
                runs=[{"ms": times}],
            )
        )


def _open(bench: Bench, cluster: Cluster) -> None:
    """Compare the master's processor time with and without an open page of the cluster."""
    seconds = max(2 * POLL_SECS, 12 * bench.plan.seconds)
    quiet = _share(cluster, seconds, asks=False)
    open_page = _share(cluster, seconds, asks=True)
    cost = (open_page - quiet) * 100
    bench.add(
        Row(
            "an open page of the cluster costs the master",
            f"{cost:.2f} % of a core",
            target=f"< {MOST_PERCENT:g} %",
            reached=cost < MOST_PERCENT,
            note=f"{open_page * 100:.2f} % with it, {quiet * 100:.2f} % without, {seconds:g} s each",
            runs=[{"with": open_page, "without": quiet}],
        )
    )


def _share(cluster: Cluster, seconds: float, asks: bool) -> float:
    """The part of a core that the master takes."""
    tag = ""
    before, began = processor.whole(cluster.master), time.monotonic()
    while time.monotonic() - began < seconds:
        if asks:
            headers = {"Accept-Encoding": "gzip", "HX-Request": "true"} | ({"If-None-Match": tag} if tag else {})
            reply = http_client.ask("GET", f"{cluster.master_url}/ui/cluster/now", headers=headers)
            tag = reply.headers.get("ETag") or tag
        time.sleep(POLL_SECS)
    return (processor.whole(cluster.master) - before) / (time.monotonic() - began)
