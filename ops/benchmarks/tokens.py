"""What tokens and the audit log cost: the same cluster with and without both, measured in turns."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from master.security import tokens as token_file
from master.security.rights import Right
from ops.benchmarks import processor
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.table import Row
from ops.cluster import Cluster

RUNS = 5
IN_FLIGHT = 16
KEYS = 1000
# The most that they may cost of the throughput.
_MOST = {"get": 0.05, "put": 0.03}
_RIGHTS = ("read:bench/", "write:bench/")


@dataclass
class _Side:
    """One of the two clusters."""

    cluster: Cluster
    token: str


@dataclass
class _Run:
    """One run: the figures of the load client, and processor time for each operation, in microseconds."""

    figures: Figures
    master_us: float
    all_us: float


def tokens(bench: Bench) -> None:
    """Measure GET and PUT; a quiet machine shows it in the rate, a busy one in the processor time of the master."""
    text, made = token_file.make("bench", map(Right.parse, _RIGHTS), None)
    path = bench.directory / "bench-tokens"
    path.touch(0o600)
    path.write_text(f"{made.line()}\n", encoding="ascii")
    # As installed: a PUT has a line in the audit log, and a GET has none unless that is asked for.
    watched = {"PULZAR_SECURITY_TOKENS": str(path), "PULZAR_SECURITY_AUDIT": "changes"}
    with (
        bench.cluster("without", 1, PULZAR_SECURITY_AUDIT="none") as plain,
        bench.cluster("with", 1, **watched) as guarded,
    ):
        sides = _Side(plain, ""), _Side(guarded, text)
        for operation, most in _MOST.items():
            for side in sides:
                _one(bench, side, operation, 0)  # to warm up
            runs: list[tuple[_Run, _Run]] = []
            for number in range(1, (RUNS if bench.plan.runs > 1 else 1) + 1):
                pair = [_one(bench, side, operation, number) for side in (sides if number % 2 else sides[::-1])]
                without, guarded_run = pair if number % 2 else pair[::-1]
                runs.append((without, guarded_run))
            bench.add(_row(operation, most, runs))


def _one(bench: Bench, side: _Side, operation: str, number: int) -> _Run:
    plan, load = bench.plan, bench.client.load
    route = {"put": "add_key"}.get(operation, "get_key")
    url = f"{side.cluster.master_url}/{route}/bench/{operation}-"
    if operation == "get" and not number:
        stored = url.replace(f"/{route}/", "/add_key/")
        load("put", stored, 64, count=KEYS, size=plan.value, token=side.token)
    before, master = sum(processor.seconds(side.cluster).values()), processor.whole(side.cluster.master)
    if operation == "put":
        figures = load("put", f"{url}{number}-", IN_FLIGHT, seconds=plan.seconds, size=plan.value, token=side.token)
    else:
        figures = load(
            "get", url, IN_FLIGHT, seconds=plan.seconds, size=plan.value, keys=KEYS, random=True, token=side.token
        )
    done = max(1, int(figures.details["operations"]))
    of_master = processor.whole(side.cluster.master) - master
    of_all = sum(processor.seconds(side.cluster).values()) - before
    return _Run(figures, of_master / done * 1e6, of_all / done * 1e6)


def _row(operation: str, most: float, runs: list[tuple[_Run, _Run]]) -> Row:
    # Both runs of a pair had the same machine, with whatever else it did then.
    kept = median(guarded.figures.rate / without.figures.rate for without, guarded in runs)
    of_all = median(guarded.all_us / without.all_us for without, guarded in runs)
    with_us, without_us = (median(pair[side].master_us for pair in runs) for side in (1, 0))
    errors: dict[str, int] = {}
    for pair in runs:
        for run in pair:
            for kind, count in run.figures.errors.items():
                errors[kind] = errors.get(kind, 0) + count
    rates = [median(pair[side].figures.rate for pair in runs) for side in (1, 0)]
    return Row(
        name=f"{operation.upper()} 1 KiB with tokens and audit, {IN_FLIGHT} in flight",
        figure=f"{kept:.3f} of that without: {rates[0]:,.0f}/s and {rates[1]:,.0f}/s",
        p50=f"{median(guarded.figures.p50_ms for _, guarded in runs):.2f}",
        p99=f"{median(guarded.figures.p99_ms for _, guarded in runs):.2f}",
        target=f"≥ {1 - most:.2f}",
        reached=kept >= 1 - most and not errors,
        note=f"processor time of the cluster {of_all:.3f} of that without; of the master {with_us:.0f} µs, "
        f"without {without_us:.0f} µs",
        errors=errors,
        commands=[runs[-1][1].figures.command],
        runs=[[pair[0].figures.details, pair[1].figures.details] for pair in runs],
    )
