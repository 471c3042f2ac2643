"""Events: what listeners cost PUTs, and what requests that wait for keys cost the master's memory."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from broker import process
from ops import http_client
from ops.benchmarks import memory, processor
from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.table import Row
from ops.cluster import Cluster
from ops.cluster.network import wait_until

LISTENERS = 100
RATE = 1_000  # events per second
MOST_SLOWER = 1.3  # p99 of a PUT with listeners, to that without
WAITERS = 5_000
MOST_BYTES = 150_000_000  # of the master, for all who wait
_WOKEN = 200  # of them, one after the other
_SETTLE_SECS = 120.0
_ROOT = Path(__file__).resolve().parents[2]
_GROUPS = (("fanout",), ("waiters",))


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    if "fanout" in names:
        with bench.cluster("fanout") as cluster:
            _fanout(bench, cluster)
    if "waiters" in names:
        with bench.cluster("waiters") as cluster:
            _waiters(bench, cluster)


def _fanout(bench: Bench, cluster: Cluster) -> None:
    """PUTs at a fixed rate, in turns with nobody who listens and with listeners to all of them."""
    seconds = max(2.0, 2 * bench.plan.seconds)
    _put(bench, cluster, "warm", 2.0)
    pairs: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = []
    shares: list[float] = []
    for number in range(bench.plan.runs):
        quiet = _put(bench, cluster, f"quiet-{number}", seconds)
        with _listeners(cluster) as ended:
            before, began = processor.whole(cluster.master), time.monotonic()
            heard = _put(bench, cluster, f"heard-{number}", seconds)
            time.sleep(1.0)  # for the last events
            shares.append((processor.whole(cluster.master) - before) / (time.monotonic() - began))
            told = ended()
        pairs.append((quiet, heard, told))
    slower = median(heard["p99_ms"] / quiet["p99_ms"] for quiet, heard, _ in pairs)
    lost = sum(LISTENERS * heard["operations"] - told["events"] for _, heard, told in pairs)
    rate = median(heard["rate"] for _, heard, _ in pairs)
    errors = {"PUTs": sum(quiet["errors"] + heard["errors"] for quiet, heard, _ in pairs), "events": lost}
    errors["streams"] = sum(told["closed"] for _, _, told in pairs)
    bench.add(
        Row(
            f"{rate:,.0f} PUT/s, {LISTENERS} listen to each event",
            f"p99 {slower:.2f} of that without",
            p50=f"{median(heard['p50_ms'] for _, heard, _ in pairs):.2f}",
            p99=f"{median(heard['p99_ms'] for _, heard, _ in pairs):.2f}",
            target=f"≤ {MOST_SLOWER:g}",
            reached=slower <= MOST_SLOWER and rate >= RATE * 0.95 and not any(errors.values()),
            note=f"quiet p50 {median(quiet['p50_ms'] for quiet, _, _ in pairs):.2f} ms, "
            f"p99 {median(quiet['p99_ms'] for quiet, _, _ in pairs):.2f} ms; "
            f"the master takes {median(shares) * 100:.0f} % of a core with listeners",
            errors={name: count for name, count in errors.items() if count},
            runs=[list(pair) for pair in pairs],
        )
    )


@contextmanager
def _listeners(cluster: Cluster) -> Iterator[Any]:
    """Listeners, in a process of their own; a function that ends them and gives what they have heard."""
    parts = urlsplit(cluster.master_url)
    command = [sys.executable, "-m", "ops.benchmarks.event_clients", "listen"]
    command += [str(parts.hostname), str(parts.port), str(LISTENERS)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin
        assert client.stdout
        try:
            if client.stdout.readline().strip() != "ready":
                raise RunFailed(f"{shlex.join(command)} could not listen")

            def ended() -> dict[str, Any]:
                assert client.stdin
                assert client.stdout
                client.stdin.close()
                told: dict[str, Any] = json.loads(client.stdout.readline())
                return told

            yield ended
        finally:
            client.kill()


def _put(bench: Bench, cluster: Cluster, name: str, seconds: float) -> dict[str, Any]:
    parts = urlsplit(cluster.master_url)
    command = [sys.executable, "-m", "ops.benchmarks.event_clients", "put", str(parts.hostname), str(parts.port)]
    command += [f"bench/{name}/", str(RATE), f"{seconds:g}", str(bench.plan.value)]
    done = subprocess.run(command, cwd=_ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with status {done.returncode}: {done.stderr[-1000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _waiters(bench: Bench, cluster: Cluster) -> None:
    """Memory of the master with so many requests that wait, each for a key of its own; then some are woken."""
    process.raise_open_files()
    parts = urlsplit(cluster.master_url)
    place = (str(parts.hostname), int(parts.port or 0))
    number = WAITERS if bench.plan.runs > 1 or bench.plan.seconds > 1 else WAITERS // 10
    _put(bench, cluster, "warm", 2.0)
    before = _private(cluster)
    with ExitStack() as stack:
        waiters = [stack.enter_context(socket.create_connection(place, 60)) for _ in range(number)]
        for own, waiter in enumerate(waiters):
            head = f"GET /get_key/wait/{own}?wait=300 HTTP/1.1\r\nHost: {place[0]}:{place[1]}\r\n\r\n"
            waiter.sendall(head.encode())
        if not wait_until(lambda: _waiting(cluster) >= number, _SETTLE_SECS):
            raise RunFailed(f"{_waiting(cluster)} of {number} requests wait after {_SETTLE_SECS:g} s")
        cost = _private(cluster) - before
        times: list[float] = []
        for own in range(0, number, max(1, number // _WOKEN)):
            reply = http_client.ask("PUT", f"{cluster.master_url}/add_key/wait/{own}", b"x")
            acknowledged = time.perf_counter()
            if reply.status != 201 or b" 200 " not in waiters[own].recv(4096)[:20]:
                raise RunFailed(f"the request for wait/{own} was not answered with its value")
            times.append((time.perf_counter() - acknowledged) * 1e3)
    bench.add(
        Row(
            f"{number:,} requests wait for as many keys",
            f"{cost / 1e6:.0f} MB of the master",
            p50=f"{median(times):.2f}",
            p99=f"{quantiles(times, n=100)[98]:.2f}",
            target=f"< {MOST_BYTES / 1e6:.0f} MB",
            reached=cost < MOST_BYTES,
            note=f"{cost / number / 1e3:.1f} kB each; p50 and p99: from the 201 of a PUT to the response of who waits",
            runs=[{"bytes": cost, "ms": times}],
        )
    )


def _private(cluster: Cluster) -> int:
    """Bytes that the processes of the master have for themselves."""
    pid = cluster.master.pid
    assert pid
    return sum(usage.anonymous for usage in memory.usage(pid))


def _waiting(cluster: Cluster) -> int:
    """How many requests wait, as the master's figures say; these are up to a second old."""
    lines = http_client.ask("GET", f"{cluster.master_url}/metrics").body.decode().splitlines()
    return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("pulzar_key_waiters")))
