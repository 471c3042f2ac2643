"""The store or the jobs beside an older commit: two clusters at the same time, measured in turns."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from statistics import median

import psutil

from ops.benchmarks import jobs, processor
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import BenchError, RunFailed
from ops.benchmarks.memory import tree
from ops.benchmarks.rest import Rest
from ops.benchmarks.table import Row
from ops.cluster.network import free_base, wait_until
from ops.cluster.processes import ROOT

RUNS = 5
KEYS = 1000
_START_SECS = 90.0
# Operation, and requests in flight.
_PLAN = (("put", 1), ("put", 16), ("put", 64), ("get", 16), ("get", 1), ("follow", 16), ("delete", 16))


@dataclass
class _Side:
    """One of the two."""

    name: str
    url: str
    pid: int

    def processor_secs(self) -> float:
        """Processor time of all its processes so far, ended runs included, in seconds."""
        found = 0.0
        for process in tree(self.pid):
            with suppress(psutil.NoSuchProcess):
                found += sum(process.cpu_times()[:4])
        return found


@dataclass
class _Run:
    """What one run of one side gave."""

    figures: Figures
    processor_us: float  # of all processes of the cluster, for each operation
    roles: Mapping[str, float] = field(default_factory=dict)  # the same by role, in ms; of jobs alone


def measure(bench: Bench, commit: str, names: list[str]) -> bool:
    """Compare this checkout with `commit` in the operations of `names`; False when that failed."""
    try:
        with _both(bench, commit, {}) as (old, new):
            for operation, connections in _PLAN:
                wanted = "redirect" if operation == "follow" else operation
                if wanted in names:
                    _compare(bench, old, new, operation=operation, connections=connections, commit=commit)
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        bench.say(f"the comparison failed: {error}")
        return False
    return True


def measure_jobs(bench: Bench, commit: str, names: list[str]) -> bool:
    """Compare no-op jobs with those of `commit`, by the names one, many and launch; False when that failed."""
    settings = {"PULZAR_JOBS_DIR": str(jobs.SCRIPTS), "PULZAR_JOBS_SLOTS": str(jobs.SLOTS)}
    try:
        with (
            _both(bench, commit, settings) as (old, new),
            Rest(old.url) as old_rest,
            Rest(new.url) as new_rest,
        ):
            sides = ((old, old_rest), (new, new_rest))
            for _, rest in sides:
                rest.wait_for_script(jobs.NOOP, bench.plan.nodes)
                jobs.one_by_one(rest, jobs.NOOP, jobs.WARM)
            for name, what, run in (
                ("one", "no-op job, launch to result, one at a time", _job_by_job),
                ("many", f"{bench.plan.jobs:,} no-op jobs at once", _jobs_at_once),
                ("launch", f"launch alone, {jobs.IN_FLIGHT} in flight", _launches),
            ):
                if name not in names:
                    continue
                if name == "launch":
                    _keep_busy(bench, [rest for _, rest in sides])
                runs: dict[str, list[_Run]] = {old.name: [], new.name: []}
                for number in range(bench.plan.runs):
                    for side, rest in sides if number % 2 else reversed(sides):
                        runs[side.name].append(run(bench, side, rest))
                row = _row(what, runs[old.name], runs[new.name], commit)
                bench.add(replace(row, note=f"{row.note}; {_by_role(runs[old.name], runs[new.name])}"))
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        bench.say(f"the comparison failed: {error}")
        return False
    return True


def _by_role(old: list[_Run], new: list[_Run]) -> str:
    """The processor time of each role in ms, with that of the older build."""
    roles = sorted({role for run in (*old, *new) for role in run.roles})
    found = [(role, *(median(run.roles.get(role, 0.0) for run in runs) for runs in (new, old))) for role in roles]
    return ", ".join(f"{role} {now:.2f} ms (before {before:.2f})" for role, now, before in found if now + before > 0.05)


def _measured(side: _Side, count: int | None, work: Callable[[], Figures]) -> _Run:
    """What some work costs for each of `count` jobs, None: for each that it launched."""
    before, roles = side.processor_secs(), processor.below(side.pid)
    figures = work()
    done = max(1, int(figures.details["operations"]) if count is None else count)
    took = processor.each(roles, processor.below(side.pid), done)
    return _Run(figures, (side.processor_secs() - before) / done * 1e6, took)


def _job_by_job(bench: Bench, side: _Side, rest: Rest) -> _Run:
    return _measured(side, bench.plan.one, lambda: jobs.one_by_one(rest, jobs.NOOP, bench.plan.one))


def _jobs_at_once(bench: Bench, side: _Side, rest: Rest) -> _Run:
    count, url = bench.plan.jobs, f"{side.url}/launch_job/{jobs.NOOP}"

    def work() -> Figures:
        began = time.perf_counter()
        figures = bench.client.load("launch", url, jobs.IN_FLIGHT, count=count)
        rest.wait_for_all()
        return replace(figures, rate=count / (time.perf_counter() - began))

    return _measured(side, count, work)


def _launches(bench: Bench, side: _Side, _rest: Rest) -> _Run:
    url = f"{side.url}/launch_job/{jobs.NOOP}"
    return _measured(side, None, lambda: bench.client.load("launch", url, jobs.IN_FLIGHT, seconds=bench.plan.seconds))


def _keep_busy(bench: Bench, sides: Iterable[Rest]) -> None:
    """Have jobs that sleep in every slot, so that no other job runs."""
    for rest in sides:
        for _ in range(bench.plan.nodes * jobs.SLOTS):
            rest.launch(jobs.SLEEP, {"seconds": 3600})
        if not wait_until(lambda rest=rest: all(row["state"] == "running" for row in islice(rest.since(0), 1)), 10):  # type: ignore[misc]
            raise RunFailed("the jobs that keep all slots busy do not run")


@contextmanager
def _both(bench: Bench, commit: str, settings: Mapping[str, str]) -> Iterator[tuple[_Side, _Side]]:
    """The clusters: that of the commit, and that of this checkout."""
    before = bench.directory / "before"
    _check_out(commit, before)
    with (
        _running(bench, "before", before, settings) as old,
        _running(bench, "now", ROOT, settings) as new,
    ):
        yield old, new


def _check_out(commit: str, directory: Path) -> None:
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        raise BenchError(f"there is no commit {commit}: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(directory, filter="data")


@contextmanager
def _running(bench: Bench, name: str, checkout: Path, settings: Mapping[str, str]) -> Iterator[_Side]:
    base = free_base()
    data = bench.directory / f"data-{name}"
    command = [
        sys.executable,
        "-m",
        "ops.cluster",
        "--data",
        str(data),
        "--ports",
        str(base),
        "--nodes",
        str(bench.plan.nodes),
    ]
    bench.say(f"starting RabbitMQ, the master and {bench.plan.nodes} nodes: {name}")
    with (bench.directory / f"{name}.log").open("wb") as log:
        environment = os.environ | dict(settings)
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + _START_SECS
            while "Pulzar is running" not in Path(log.name).read_text(errors="replace"):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"it did not start: {Path(log.name).read_text(errors='replace')[-500:]}")
                time.sleep(0.1)
            url = json.loads((data / "cluster.json").read_text())["master"]["url"]
            yield _Side(name, url, process.pid)
        finally:
            process.terminate()
            process.wait(60)


def _compare(bench: Bench, old: _Side, new: _Side, *, operation: str, connections: int, commit: str) -> None:
    runs: dict[str, list[_Run]] = {old.name: [], new.name: []}
    for side in (old, new):
        _one(bench, side, operation, connections, -1)  # to warm up
    for number in range(bench.plan.runs):
        for side in (old, new) if number % 2 else (new, old):
            runs[side.name].append(_one(bench, side, operation, connections, number))
    what = "GET 1 KiB through the redirect" if operation == "follow" else f"{operation.upper()} 1 KiB"
    bench.add(_row(f"{what}, {connections} in flight", runs[old.name], runs[new.name], commit))


def _row(name: str, old: list[_Run], new: list[_Run], commit: str) -> Row:
    # Both runs of a pair had the same machine, with whatever else it did then.
    ratio = median(n.figures.rate / o.figures.rate for n, o in zip(new, old, strict=True))
    rate, old_rate = (median(run.figures.rate for run in runs) for runs in (new, old))
    p50, old_p50 = (median(run.figures.p50_ms for run in runs) for runs in (new, old))
    cost, old_cost = (median(run.processor_us for run in runs) for runs in (new, old))
    errors: dict[str, int] = {}
    for run in new:
        for kind, count in run.figures.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    return Row(
        name=name,
        figure=f"{ratio:.2f} of {commit}: {rate:,.0f}/s and {old_rate:,.0f}/s",
        p50=f"{p50:.2f}",
        p99=f"{median(run.figures.p99_ms for run in new):.2f}",
        target="≥ 0.95",
        reached=ratio >= 0.95 and not errors,
        note=f"processor time {cost:.0f} µs, before {old_cost:.0f} µs; p50 {p50:.2f} ms, before {old_p50:.2f} ms",
        errors=errors,
        commands=[new[-1].figures.command],
        runs=[run.figures.details for run in new],
    )


def _one(bench: Bench, side: _Side, operation: str, connections: int, number: int) -> _Run:
    plan, load = bench.plan, bench.client.load
    route = {"put": "add_key", "delete": "delete_key"}.get(operation, "get_key")
    name = f"bench/{operation}-{connections}-{number + 1}-"
    if operation == "delete":
        load("put", f"{side.url}/add_key/{name}", 64, count=plan.deletes, size=plan.value)
    elif operation != "put" and number < 0:
        # A value that the master keeps itself, or one that only its node has.
        size = plan.value if operation == "get" else 8 * plan.value
        load("put", f"{side.url}/add_key/bench/{operation}-{connections}-", 64, count=KEYS, size=size)
    before = side.processor_secs()
    url = f"{side.url}/{route}/{name}"
    if operation == "put":
        figures = load("put", url, connections, seconds=plan.seconds, size=plan.value)
    elif operation == "delete":
        figures = load("delete", url, connections, count=plan.deletes)
    else:
        size = plan.value if operation == "get" else 8 * plan.value
        url = f"{side.url}/get_key/bench/{operation}-{connections}-"
        figures = load(operation, url, connections, seconds=plan.seconds, size=size, keys=KEYS, random=True)
    count = max(1, figures.details.get("operations", 0) or round(figures.rate * plan.seconds))
    return _Run(figures, (side.processor_secs() - before) / count * 1e6)
