"""The store beside an older one: two clusters at the same time, measured in turns."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import BenchError
from ops.benchmarks.memory import tree
from ops.benchmarks.table import Row
from ops.cluster.network import free_base
from ops.cluster.processes import ROOT

RUNS = 5
KEYS = 1000
_START_SECS = 90.0
# Operation, and requests in flight.
_PLAN = (("put", 1), ("put", 16), ("put", 64), ("get", 16), ("get", 1), ("follow", 16), ("delete", 16))


@dataclass
class _Side:
    """One of the two clusters."""

    name: str
    url: str
    pid: int

    def processor_secs(self) -> float:
        """Processor time of all its processes so far, in seconds."""
        return sum(sum(process.cpu_times()[:2]) for process in tree(self.pid))


@dataclass
class _Run:
    """The result of one run of one side."""

    figures: Figures
    processor_us: float  # processor time of the whole cluster per operation, in microseconds


def measure(bench: Bench, commit: str, names: list[str]) -> bool:
    """Compare this checkout with `commit` in the operations of `names`; False when that failed."""
    before = bench.directory / "before"
    try:
        _check_out(commit, before)
        with _running(bench, "before", before) as old, _running(bench, "now", ROOT) as new:
            for operation, connections in _PLAN:
                wanted = "redirect" if operation == "follow" else operation
                if wanted in names:
                    _compare(bench, old, new, operation, connections, commit=commit)
    except (BenchError, OSError, subprocess.SubprocessError) as error:
        bench.say(f"the comparison failed: {error}")
        return False
    return True


def _check_out(commit: str, directory: Path) -> None:
    packed = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        raise BenchError(f"there is no commit {commit}: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(directory, filter="data")


@contextmanager
def _running(bench: Bench, name: str, checkout: Path) -> Iterator[_Side]:
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
        process = subprocess.Popen(command, cwd=checkout, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
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


def _compare(bench: Bench, old: _Side, new: _Side, operation: str, connections: int, *, commit: str) -> None:
    runs: dict[str, list[_Run]] = {old.name: [], new.name: []}
    for side in (old, new):
        _one(bench, side, operation, connections, -1)  # to warm up
    for number in range(bench.plan.runs):
        for side in (old, new) if number % 2 else (new, old):
            runs[side.name].append(_one(bench, side, operation, connections, number))
    rates = {name: median(run.figures.rate for run in each) for name, each in runs.items()}
    costs = {name: median(run.processor_us for run in each) for name, each in runs.items()}
    # Both runs of a pair had the same machine, with whatever else it did then.
    ratio = median(n.figures.rate / o.figures.rate for n, o in zip(runs[new.name], runs[old.name], strict=True))
    what = "GET 1 KiB through the redirect" if operation == "follow" else f"{operation.upper()} 1 KiB"
    errors: dict[str, int] = {}
    for run in runs[new.name]:
        for kind, count in run.figures.errors.items():
            errors[kind] = errors.get(kind, 0) + count
    bench.add(
        Row(
            name=f"{what}, {connections} in flight",
            figure=f"{ratio:.2f} of {commit}: {rates[new.name]:,.0f}/s and {rates[old.name]:,.0f}/s",
            p50=f"{median(run.figures.p50_ms for run in runs[new.name]):.2f}",
            p99=f"{median(run.figures.p99_ms for run in runs[new.name]):.2f}",
            target="≥ 0.95",
            reached=ratio >= 0.95 and not errors,
            note=f"processor time of an operation {costs[new.name]:.0f} µs, before {costs[old.name]:.0f} µs",
            errors=errors,
            commands=[runs[new.name][-1].figures.command],
            runs=[run.figures.details for run in runs[new.name]],
        )
    )


def _one(bench: Bench, side: _Side, operation: str, connections: int, number: int) -> _Run:
    plan, load = bench.plan, bench.client.load
    route = {"put": "add_key", "delete": "delete_key"}.get(operation, "get_key")
    name = f"bench/{operation}-{connections}-{number + 1}-"
    if operation == "delete":
        load("put", f"{side.url}/add_key/{name}", 64, count=plan.deletes, size=plan.value)
    elif operation != "put" and number < 0:
        # The master answers a GET of a small value itself; a larger value is on its node alone.
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
