"""The benchmark of scale: many keys, jobs, schedules and nodes, and one very large value, each beside few of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median

from ops import http_client
from ops.benchmarks import jobs, large, processor
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, Watch, usage
from ops.benchmarks.million import FEW, IN_FLIGHT, PREFIX, entries, fill_node
from ops.benchmarks.page import fill_ledger
from ops.benchmarks.rest import Rest
from ops.benchmarks.table import Row
from ops.cluster import Cluster
from ops.cluster.network import wait_until
from ops.cluster.processes import ROOT

MOST_COST = 1.10  # of the processor time that an operation takes with few
ASKS = 50  # of each request that is timed
NODES_REAL, NODES_ALL = 2, 50
LONGEST_SECS = 1800
TIMES_LARGE, TIMES_KEYS = 20, 10  # of what other benchmarks have
TOGETHER = 1_000  # jobs in one request

# The names for `--only`, in their order; those of a group share a cluster.
_GROUPS = (("keys",), ("jobs", "pending", "schedules"), ("large",), ("nodes",))
# What an operation costs the processes that all share.
_SHARED = ("RabbitMQ", "master")


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    if not names:
        return
    if names == ["keys"]:
        _keys(bench)
    elif names == ["large"]:
        _large(bench)
    elif names == ["nodes"]:
        _nodes(bench)
    else:
        _jobs(bench, names)


# Keys.


def _keys(bench: Bench) -> None:
    """Compare a master of many keys with one of few: replay, memory, GET, pages, restart."""
    plan = replace(bench.plan, keys=bench.plan.keys * TIMES_KEYS)
    bench = replace(bench, plan=plan)
    with bench.cluster("few", nodes=1) as few, bench.cluster("many", nodes=1) as many:
        bench.client.load("put", f"{few.master_url}/add_key/{PREFIX}", IN_FLIGHT, count=FEW, size=plan.small)
        many.stop_node(0)
        fill_node(bench, many)
        before = processor.seconds(many)
        began = time.monotonic()
        many.start_node(0)
        if not wait_until(lambda: entries(many) >= plan.keys, LONGEST_SECS):
            raise RunFailed(f"the master has {entries(many):,} of {plan.keys:,} keys after {LONGEST_SECS} s")
        took = time.monotonic() - began
        many.wait_healthy(LONGEST_SECS)
        used = {role: secs - before.get(role, 0.0) for role, secs in processor.seconds(many).items()}
        shown = ", ".join(f"{role} {secs:.1f}" for role, secs in used.items() if secs >= 1)
        rate = f"{plan.keys / took:,.0f} keys/s"
        bench.add(Row(f"replay of {plan.keys:,} keys", rate, note=f"{took:.0f} s; processor time in seconds: {shown}"))
        for cluster, keys in ((few, FEW), (many, plan.keys)):
            memory = usage(cluster.master.pid or 0)
            shown = f"{sum(each.anonymous for each in memory) / MIB:.0f} MiB, mapped files not counted"
            bench.add(Row(f"memory of the master with {keys:,} keys", shown, note="; ".join(map(str, memory))))
        sides = ((few, FEW), (many, plan.keys))
        _turns(
            bench, f"GET {plan.small} B, {IN_FLIGHT} in flight", [lambda c=c, n=n: _get(bench, c, n) for c, n in sides]
        )
        _timed(
            bench,
            "a page of 1,000 keys",
            few,
            many,
            lambda number: f"/keys?limit=1000&prefix={PREFIX}&after={PREFIX}{number % 10}",
        )
        many.stop_master()
        began = time.monotonic()
        many.start_master()
        many.wait_healthy(LONGEST_SECS)
        bench.add(Row(f"restart of the master with {plan.keys:,} keys", f"{time.monotonic() - began:.1f} s"))


def _get(bench: Bench, cluster: Cluster, keys: int) -> _Cost:
    url = f"{cluster.master_url}/get_key/{PREFIX}"
    return _costed(
        cluster,
        lambda: bench.client.load(
            "get", url, IN_FLIGHT, seconds=bench.plan.seconds, size=bench.plan.small, keys=keys, random=True
        ),
    )


# Jobs.


def _jobs(bench: Bench, names: Collection[str]) -> None:
    """Compare a ledger of many jobs with one of few. No node runs any of them."""
    environment = {"PULZAR_JOBS_DIR": str(jobs.SCRIPTS), "PULZAR_JOBS_SLOTS": "1"}
    with (
        bench.cluster("jobs-few", nodes=1, **environment) as few,
        bench.cluster("jobs-many", nodes=1, **environment) as many,
    ):
        for cluster, count in ((few, FEW), (many, bench.plan.keys)):
            cluster.stop_master()
            fill_ledger(bench, cluster, count)
            cluster.start_master()
            cluster.wait_healthy()
            with Rest(cluster.master_url) as rest:
                for script in (jobs.NOOP, jobs.SLEEP):
                    rest.wait_for_script(script, 1)
                rest.launch(jobs.SLEEP, {"seconds": 36_000})  # in the only slot
        if "jobs" in names:
            _compare_jobs(bench, few, many, f"{bench.plan.keys:,} finished jobs beside {FEW:,}")
        if "pending" in names:
            requests = max(1, bench.plan.keys // 10 // TOGETHER)
            for _ in range(requests):
                body = json.dumps({"jobs": [{"job": jobs.NOOP}] * TOGETHER}).encode()
                _ask(many, "POST", "/launch_jobs", body)
            _compare_jobs(bench, few, many, f"{requests * TOGETHER:,} pending jobs, too")
        if "schedules" in names:
            _schedules(bench, few, many)


def _compare_jobs(bench: Bench, few: Cluster, many: Cluster, what: str) -> None:
    _turns(
        bench,
        f"launch, {IN_FLIGHT} in flight, {what}",
        [lambda cluster=cluster: _launch(bench, cluster) for cluster in (few, many)],
    )
    _timed(bench, f"the newest 100 jobs, {what}", few, many, lambda number: "/admin/all_jobs?limit=100")
    _timed(bench, f"a page of the history, {what}", few, many, lambda number: "/admin/job_history?limit=50")
    _timed(bench, f"one job, {what}", few, many, lambda number: f"/admin/jobs/{1 + number % FEW}")


def _launch(bench: Bench, cluster: Cluster) -> _Cost:
    url = f"{cluster.master_url}/launch_job/{jobs.NOOP}"
    return _costed(cluster, lambda: bench.client.load("launch", url, IN_FLIGHT, seconds=bench.plan.seconds))


def _schedules(bench: Bench, few: Cluster, many: Cluster) -> None:
    count = max(100, bench.plan.keys // 100)
    body = json.dumps({"scheduled": {"interval": "weeks", "time_unit": 1, "repeat": 1}}).encode()
    idle = [_idle(bench, many)]
    began = time.monotonic()
    for _ in range(count):
        _ask(many, "POST", f"/launch_job/{jobs.NOOP}", body)
    made = count / (time.monotonic() - began)
    idle.append(_idle(bench, many))
    bench.add(
        Row(
            f"{count:,} schedules, none of them due",
            f"{idle[1] * 100:.2f} % of a core",
            note=f"all of the master's; {idle[0] * 100:.2f} % without them; made at {made:,.0f}/s, one after the other",
        )
    )
    what = f"{count:,} schedules"
    _turns(
        bench,
        f"launch, {IN_FLIGHT} in flight, {what}",
        [lambda cluster=cluster: _launch(bench, cluster) for cluster in (few, many)],
    )


def _idle(bench: Bench, cluster: Cluster) -> float:
    """The part of a core that the master takes when nobody asks for anything."""
    before, began = processor.whole(cluster.master), time.monotonic()
    time.sleep(4 * bench.plan.seconds)
    return (processor.whole(cluster.master) - before) / (time.monotonic() - began)


# One large value.


def _large(bench: Bench) -> None:
    """Send one value of many times the usual size up and down again, and watch the memory."""
    size = bench.plan.large * TIMES_LARGE
    source = bench.directory / "source.bin"
    digest = large.make(source, size)
    with bench.cluster("large", nodes=1) as cluster:
        pids = {"master": [cluster.master.pid or 0], "node": [cluster.nodes[0].process.pid or 0]}
        url = f"{cluster.master_url}/add_key/{large.key(0)}"
        with Watch(**pids) as watch:
            up, put = bench.client.curl("-T", str(source), url, expected=201)
            source.unlink()
            began = time.monotonic()
            large.compare(cluster, digest, 0)
            down = time.monotonic() - began
        speeds = f"up {size / MIB / up:,.0f}, down {size / MIB / down:,.0f} MiB/s"
        growth = {name: (watch.most[name] - watch.before[name]) / MIB for name in pids}
        bench.add(
            Row(
                f"one value of {size / (1 << 30):g} GiB up and down, its digest compared",
                speeds,
                target=f"flat: grows < {large.FLAT_BYTES // MIB} MiB",
                reached=max(growth.values()) < large.FLAT_BYTES / MIB,
                note=", ".join(f"{name} grew by {grown:.0f} MiB RSS at most" for name, grown in growth.items()),
                commands=[put],
            )
        )


# Nodes.


def _nodes(bench: Bench) -> None:
    """Compare a cluster of a few real nodes with the same one when played nodes have joined it."""
    with bench.cluster("nodes", nodes=NODES_REAL) as cluster:

        def put() -> _Cost:
            url = f"{cluster.master_url}/add_key/bench/nodes-{time.monotonic_ns()}-"
            return _costed(
                cluster,
                lambda: bench.client.load("put", url, IN_FLIGHT, seconds=bench.plan.seconds, size=bench.plan.value),
            )

        put()
        few = bench.repeat(lambda _: put())
        quiet = _idle(bench, cluster)
        with _played(bench, cluster):
            put()
            many = bench.repeat(lambda _: put())
            crowd = _idle(bench, cluster)
        _row(bench, f"PUT 1 KiB, {IN_FLIGHT} in flight, {NODES_ALL} nodes beside {NODES_REAL}", few, many)
        bench.add(
            Row(
                f"heartbeats of {NODES_ALL} nodes",
                f"{crowd * 100:.2f} % of a core",
                note=f"all of the master's, when nobody asks for anything; with {NODES_REAL} nodes {quiet * 100:.2f} %",
            )
        )


@contextmanager
def _played(bench: Bench, cluster: Cluster) -> Iterator[None]:
    """Have so many more nodes played, by a process of its own."""
    if cluster.rabbit is None:
        raise RunFailed("the cluster has no RabbitMQ of its own")
    names = [f"played-{number}" for number in range(NODES_ALL - NODES_REAL)]
    real = [node.id for node in cluster.nodes]
    urls = cluster.rabbit.make_roles([*real, *names])
    file = bench.directory / "played.json"
    file.write_text(json.dumps({name: urls[f"pulzar.node.{name}"] for name in names}), encoding="utf-8")
    with subprocess.Popen([sys.executable, "-m", "ops.benchmarks.played_nodes", str(file)], cwd=ROOT) as process:
        try:
            if not wait_until(lambda: cluster.health().get("nodes") == NODES_ALL, 60):
                raise RunFailed(f"not all played nodes came: {cluster.health()}")
            yield
        finally:
            process.send_signal(signal.SIGKILL)


# What all share.


@dataclass
class _Cost:
    """One run, and what an operation of it cost the master and RabbitMQ, in µs of processor time."""

    figures: Figures
    cost_us: float


def _costed(cluster: Cluster, run: Callable[[], Figures]) -> _Cost:
    before = _shared(cluster)
    figures = run()
    if figures.errors:
        raise RunFailed(f"{figures.command}: {figures.errors}")
    return _Cost(figures, (_shared(cluster) - before) / max(1, int(figures.details["operations"])) * 1e6)


def _shared(cluster: Cluster) -> float:
    return sum(took for role, took in processor.seconds(cluster).items() if role.startswith(_SHARED))


def _turns(bench: Bench, name: str, sides: Sequence[Callable[[], _Cost]]) -> None:
    """Compare few with many, in turns."""
    few, many = sides
    for side in sides:
        side()
    runs = [(few(), many()) for _ in range(bench.plan.runs)]
    _row(bench, name, *zip(*runs, strict=True))


def _row(bench: Bench, name: str, few: Sequence[_Cost], many: Sequence[_Cost]) -> None:
    rates = [median(run.figures.rate for run in side) for side in (few, many)]
    costs = [median(run.cost_us for run in side) for side in (few, many)]
    ratio = costs[1] / costs[0]
    bench.add(
        Row(
            name,
            f"{ratio:.2f} of the cost",
            p50=f"{median(run.figures.p50_ms for run in many):.2f}",
            p99=f"{median(run.figures.p99_ms for run in many):.2f}",
            target=f"≤ {MOST_COST} of the cost",
            reached=ratio <= MOST_COST,
            note=f"processor time of master and RabbitMQ {costs[1]:.0f} µs, with few {costs[0]:.0f} µs; "
            f"{rates[1]:,.0f}/s, with few {rates[0]:,.0f}/s",
            commands=[many[-1].figures.command],
        )
    )


def _timed(bench: Bench, name: str, few: Cluster, many: Cluster, path: Callable[[int], str]) -> None:
    """Time a GET at both, in turns."""
    times: dict[str, list[float]] = {"few": [], "many": []}
    for number in range(ASKS):
        for side, cluster in (("few", few), ("many", many)):
            began = time.perf_counter()
            _ask(cluster, "GET", path(number))
            times[side].append((time.perf_counter() - began) * 1e3)
    middle = {side: median(took) for side, took in times.items()}
    bench.add(
        Row(
            name,
            f"{middle['many']:.2f} ms",
            p50=f"{middle['many']:.2f}",
            p99=f"{sorted(times['many'])[-1]:.2f}",
            note=f"with few {middle['few']:.2f} ms; instead of p99 the longest of {ASKS}",
            commands=[f"GET {path(0)}"],
        )
    )


def _ask(cluster: Cluster, method: str, path: str, body: bytes | None = None) -> None:
    headers = {"Content-Type": "application/json"} if body is not None else {}
    reply = http_client.ask(method, cluster.master_url + path, body=body, headers=headers, timeout=60)
    if reply.status != 200:
        raise RunFailed(f"{method} {path} was answered {reply.status}: {reply.body[:300]!r}")
