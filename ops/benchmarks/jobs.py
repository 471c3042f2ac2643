"""The benchmark of the job system: its rows, and which of them share a cluster."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from ops.benchmarks import processor
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, Usage, usage
from ops.benchmarks.peers import WORKERS, Batch, Peers
from ops.benchmarks.rest import Rest
from ops.benchmarks.table import Row, rate_row
from ops.cluster import Cluster
from ops.cluster.network import wait_until

SCRIPTS = Path(__file__).with_name("scripts")
NOOP, WARM_NOOP, ECHO, SLEEP = "bench/noop", "bench/warm", "bench/echo", "bench/sleep"

SLOTS = 2  # for each node
WARM = 40
IN_FLIGHT = 16
ONE_BELOW_MS = 15
TIMES_RQ = 3
TIMES_CELERY = 1  # for runs in processes that are used again, as Celery's are
LEAST_LAUNCHED = 3500  # per second, one by one
LEAST_TOGETHER = 15_000  # per second, by requests of `TOGETHER`
TOGETHER, TOGETHER_IN_FLIGHT = 1000, 4
MOST_PIPELINE_MS = 1.3
PIPELINE = ("RabbitMQ", "node agent", "master controller")
OVERHEAD = 0.05  # beyond the time of the jobs themselves
GROWTH = 0.1  # an agent's memory counts as flat up to this

# The names for `--only`, in their order; those of a group share a cluster.
_GROUPS = (("one", "many", "long"), ("launch",), ("memory",))


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    if not names:
        return
    slots = 1 if names == ["launch"] else SLOTS
    settings = {"DIR": str(SCRIPTS), "SLOTS": str(slots), "MAX_PENDING": "1000000"}
    with (
        bench.cluster(
            f"jobs-{names[0]}", **{f"PULZAR_JOBS_{name}": value for name, value in settings.items()}
        ) as cluster,
        Rest(cluster.master_url) as rest,
    ):
        for script in (NOOP, WARM_NOOP, ECHO, SLEEP):
            rest.wait_for_script(script, bench.plan.nodes)
        for name in names:
            {"one": one, "many": many, "long": long, "launch": launch, "memory": memory}[name](bench, cluster, rest)


_WHAT = {
    NOOP: "no-op job",
    WARM_NOOP: "warm no-op job",
    ECHO: "job with a line of log and an output",
}


def one(bench: Bench, cluster: Cluster, rest: Rest) -> None:
    """Measure one job at a time, from its launch to the response that says how it ended."""
    count = bench.plan.one
    for script, below in ((NOOP, ONE_BELOW_MS), (WARM_NOOP, 0), (ECHO, 0)):
        for _ in range(WARM):
            _timed(rest, script)

        def run(_: int, path: str = script) -> Figures:
            return one_by_one(rest, path, count)

        what = _WHAT[script]
        bench.add(rate_row(f"{what}, launch to result, one at a time", bench.repeat(run), p50_below_ms=below))
    peers = _peers(bench, cluster)
    for name, peer in (("Celery", peers.celery), ("RQ", peers.rq)):
        with peer() as started:
            runs = [started.one(count) for _ in range(bench.plan.runs)]
        bench.add(rate_row(f"{name}: no-op job, launch to result, one at a time", runs))


def one_by_one(rest: Rest, script: str, count: int) -> Figures:
    """Launch a script, and wait for its end, so many times."""
    took = [_timed(rest, script) for _ in range(count)]
    cuts = quantiles(took, n=100)
    asked = f"POST /launch_job/{script}, then GET /admin/jobs/<id> until it has ended, {count} times"
    return Figures(1000 * count / sum(took), cuts[49], cuts[98], {}, asked)


def _timed(rest: Rest, script: str) -> float:
    """The milliseconds of one job. Raises `RunFailed` unless it is completed."""
    began = time.perf_counter()
    job = rest.wait(rest.launch(script, {}))
    took = (time.perf_counter() - began) * 1e3
    if job["status"] != "completed":
        raise RunFailed(f"job {job['job']} of {script}: {job['state']}: {job['reason']}")
    return took


def many(bench: Bench, cluster: Cluster, rest: Rest) -> None:
    """Measure many jobs at once, in turns with the yardsticks; the others are idle meanwhile."""
    count, peers = bench.plan.jobs, _peers(bench, cluster)
    ours: list[Batch] = []
    warm: list[Batch] = []
    warm_together: list[Batch] = []
    celery: list[Batch] = []
    rq: list[Batch] = []
    errors: dict[str, int] = {}
    warm_errors: dict[str, int] = {}
    for script in (NOOP, WARM_NOOP):
        _at_once(bench, cluster, rest, script, WARM, errors={})
    for _ in range(bench.plan.runs):
        ours.append(_at_once(bench, cluster, rest, NOOP, count, errors=errors))
        warm.append(_at_once(bench, cluster, rest, WARM_NOOP, count, errors=warm_errors))
        warm_together.append(_at_once(bench, cluster, rest, WARM_NOOP, count, errors=warm_errors, together=True))
        for peer, batches in ((peers.celery, celery), (peers.rq, rq)):
            with peer() as started:
                batches.append(started.many(count))
    rate, beside_rq = _rate(ours), _rate(rq)
    nodes = bench.plan.nodes
    bench.add(_pipeline(ours, errors))
    row = Row(
        name=f"{count:,} no-op jobs at once, {nodes} nodes × {SLOTS} slots",
        figure=_figure(ours),
        target=f"≥ {TIMES_RQ} × RQ",
        reached=rate >= TIMES_RQ * beside_rq and not errors,
        note=f"{rate / beside_rq:.1f} × RQ, {rate / _rate(celery):.2f} × Celery, which uses its processes again; "
        f"{ours[-1].processor}",
        errors=errors,
        commands=[ours[-1].command],
        runs=[asdict(batch) for batch in ours],
    )
    bench.add(row)
    for batches, how in ((warm, ""), (warm_together, f", launched by requests of {TOGETHER:,}")):
        beside_celery = _rate(batches) / _rate(celery)
        bench.add(
            Row(
                name=f"{count:,} warm no-op jobs at once{how}, {nodes} nodes × {SLOTS} slots",
                figure=_figure(batches),
                target=f"≥ {TIMES_CELERY} × Celery",
                reached=beside_celery >= TIMES_CELERY and not warm_errors,
                note=f"{beside_celery:.2f} × Celery; {batches[-1].processor}",
                errors=warm_errors,
                commands=[batches[-1].command],
                runs=[asdict(batch) for batch in batches],
            )
        )
    for name, batches in (
        (f"RQ: the same, {WORKERS} workers, a process for each job", rq),
        (f"Celery: the same, {WORKERS} prefork processes, acks_late", celery),
    ):
        commands, runs = [batches[-1].command], [asdict(batch) for batch in batches]
        bench.add(Row(name=name, figure=_figure(batches), note=batches[-1].processor, commands=commands, runs=runs))


def pipeline_ms(batch: Batch) -> float:
    """Processor time of what is around a run, in ms a job: RabbitMQ, the agents and the controller."""
    return sum(batch.roles.get(role, 0.0) for role in PIPELINE)


def _pipeline(batches: list[Batch], errors: dict[str, int]) -> Row:
    cost = median(map(pipeline_ms, batches))
    return Row(
        name=f"processor time around a run, {batches[-1].jobs:,} waiting",
        figure=f"{cost:.2f} ms a job",
        target=f"≤ {MOST_PIPELINE_MS} ms",
        reached=cost <= MOST_PIPELINE_MS and not errors,
        note=f"of {', '.join(PIPELINE)} together, launches included",
        errors=errors,
        commands=[batches[-1].command],
        runs=[batch.roles for batch in batches],
    )


def _at_once(
    bench: Bench,
    cluster: Cluster,
    rest: Rest,
    script: str,
    count: int,
    *,
    errors: dict[str, int],
    body: str = "{}",
    together: bool = False,
) -> Batch:
    """Launch `count` jobs, one by one or `together`, and wait until none is pending.

    Jobs that are not completed go to `errors`.
    """
    before, used = rest.newest(), processor.seconds(cluster)
    began = time.perf_counter()
    if together:
        launched = many_launched(bench, cluster.master_url, count, script)
    else:
        launched = _launch(bench, cluster, script, count=count, body=body)
    rest.wait_for_all()
    took = time.perf_counter() - began
    now = processor.seconds(cluster)
    said, roles = processor.told(used, now, count), processor.each(used, now, count)
    states = [row["state"] for row in rest.since(before)]
    wrong = dict(launched.errors) | {state: states.count(state) for state in {*states} - {"completed"}}
    if len(states) != count:
        wrong["lost or doubled"] = abs(count - len(states))
    for what, times in wrong.items():
        errors[what] = errors.get(what, 0) + times
    return Batch(count, took, launched.details["seconds"], launched.command, said, roles)


def long(bench: Bench, cluster: Cluster, rest: Rest) -> None:
    """Measure how much time of the slots is lost between jobs of a second."""
    count, slots = bench.plan.seconds_long, bench.plan.nodes * SLOTS
    least = count / slots
    errors: dict[str, int] = {}
    batch = _at_once(bench, cluster, rest, SLEEP, count, errors=errors, body='{"seconds": 1}')
    most = least * (1 + OVERHEAD)
    row = Row(
        name=f"{count} jobs of 1 s over {slots} slots",
        figure=f"{batch.seconds:.2f} s",
        target=f"≤ {most:.2f} s",
        reached=batch.seconds <= most and not errors,
        note=f"{(batch.seconds / least - 1) * 100:.1f} % over {least:g} s",
        errors=errors,
        commands=[batch.command],
        runs=[asdict(batch)],
    )
    bench.add(row)


def launch(bench: Bench, cluster: Cluster, rest: Rest) -> None:
    """Measure launches alone: a job that sleeps keeps every slot busy, so no other job runs."""
    for _ in cluster.nodes:
        rest.launch(SLEEP, {"seconds": 3600})
    if not wait_until(lambda: all(row["state"] == "running" for row in rest.since(0)), 10):
        raise RunFailed("the jobs that keep all slots busy do not run")
    before = rest.newest()
    warm = _launch(bench, cluster, NOOP, seconds=bench.plan.seconds / 5)
    used = processor.seconds(cluster)
    runs = bench.repeat(lambda _: _launch(bench, cluster, NOOP, seconds=bench.plan.seconds))
    took = processor.told(used, processor.seconds(cluster), sum(int(run.details["operations"]) for run in runs))
    answered = sum(int(run.details["operations"]) for run in (warm, *runs))
    kept = rest.newest() - before
    # The console's figures are some seconds old.
    wait_until(lambda: _queued(cluster) == kept, 15)
    row = rate_row(f"launch alone, {IN_FLIGHT} in flight", runs, least=LEAST_LAUNCHED)
    if not answered == kept == _queued(cluster):
        row.errors[f"of {answered} launched, {kept} in the ledger, {_queued(cluster)} in the queue"] = 1
    shares = [run.details["client_cpu_seconds"] / run.details["seconds"] for run in runs]
    note = (
        f"all slots busy meanwhile with jobs that sleep; {answered:,} answered, {kept:,} in the ledger and "
        f"{_queued(cluster):,} in pulzar.jobs afterwards; the client took {median(shares) * 100:.0f} % of a core; "
        f"{took}"
    )
    bench.add(replace(row, note=note, reached=bool(row.reached) and not row.errors))
    together(bench, cluster, rest)


def together(bench: Bench, cluster: Cluster, rest: Rest) -> None:
    """Measure launches by requests of many jobs, while every slot is busy; then until RabbitMQ has all of them."""
    before, used = rest.newest(), processor.seconds(cluster)
    runs: list[Figures] = []
    settled: list[float] = []
    for _ in range(bench.plan.runs):
        began, first, queued = time.monotonic(), rest.newest(), _queued(cluster)
        found = many_launched(bench, cluster.master_url, bench.plan.jobs * 10)
        kept = rest.newest() - first
        if not wait_until(partial(_holds, cluster, queued + kept), 60):
            raise RunFailed("RabbitMQ has not got all jobs after a minute")
        settled.append(kept / (time.monotonic() - began))
        runs.append(replace(found, rate=kept / found.details["seconds"]))
    jobs = rest.newest() - before
    took = processor.told(used, processor.seconds(cluster), jobs)
    row = rate_row(
        f"launch by requests of {TOGETHER:,} jobs, {TOGETHER_IN_FLIGHT} in flight", runs, least=LEAST_TOGETHER
    )
    note = (
        f"durable in the ledger; RabbitMQ's console, some seconds late, showed all of them at {median(settled):,.0f}/s;"
        f" p50 and p99 of a request; {took}"
    )
    bench.add(replace(row, note=note))


def many_launched(bench: Bench, url: str, count: int, script: str = NOOP) -> Figures:
    """Launch by requests of up to `TOGETHER` jobs each; the rate is that of requests."""
    size = min(count, TOGETHER)
    body = json.dumps({"jobs": [{"job": script}] * size}, separators=(",", ":"))
    found = bench.client.load("launch", f"{url}/launch_jobs", TOGETHER_IN_FLIGHT, count=count // size, body=body)
    return replace(found, command=found.command.replace(body, f'{{"jobs": [{{"job": "{script}"}}, … {size} of them]}}'))


def _holds(cluster: Cluster, jobs: int) -> bool:
    return _queued(cluster) >= jobs


def _queued(cluster: Cluster) -> int:
    assert cluster.rabbit is not None
    found = cluster.rabbit.api("GET", "queues/%2F/pulzar.jobs")
    return int(found.get("messages", -1))


def memory(bench: Bench, cluster: Cluster, rest: Rest) -> None:
    """Measure an agent's memory after the first wave of jobs and after the last one."""
    plan = bench.plan
    errors: dict[str, int] = {}
    samples: list[list[Usage]] = []
    batches: list[Batch] = []
    for wave in range(plan.waves):
        batches.append(_at_once(bench, cluster, rest, NOOP, plan.jobs, errors=errors))
        samples.append(_agents(cluster))
        bench.say(f"{(wave + 1) * plan.jobs:,} jobs: " + "; ".join(map(str, samples[-1])))
    first, last = ([use.anonymous for use in sample] for sample in (samples[0], samples[-1]))
    growth = max(after / before for before, after in zip(first, last, strict=True)) - 1
    row = Row(
        name=f"memory of an agent, {plan.jobs:,} → {plan.jobs * plan.waves:,} no-op jobs of the cluster",
        figure=f"{max(first) / MIB:.1f} → {max(last) / MIB:.1f} MiB",
        target=f"+ {GROWTH * 100:.0f} % at most",
        reached=growth <= GROWTH and not errors,
        note=f"not counting mapped files; {growth * 100:+.1f} %; jobs/s of the first and the last wave: "
        f"{batches[0].rate:.0f} and {batches[-1].rate:.0f}; after the last one: {'; '.join(_all(cluster))}",
        errors=errors,
        commands=[f"{batches[-1].command}  # {plan.waves} times, each when all jobs have ended"],
        runs=[{"jobs": (at + 1) * plan.jobs, "agents": [asdict(use) for use in s]} for at, s in enumerate(samples)],
    )
    bench.add(row)


def _agents(cluster: Cluster) -> list[Usage]:
    found = [use for node in cluster.nodes for use in usage(node.process.pid or 0) if use.role == "agent"]
    if len(found) != len(cluster.nodes):
        raise RunFailed(f"{len(cluster.nodes)} nodes have {len(found)} agents")
    return found


def _all(cluster: Cluster) -> list[str]:
    """The processes of master and nodes, each with its memory in MiB."""
    processes = {"master": cluster.master, **{node.id: node.process for node in cluster.nodes}}
    shown = []
    for name, child in processes.items():
        roles = {use.role: use.anonymous / MIB for use in usage(child.pid or 0)}
        shown.append(f"{name}: " + ", ".join(f"{role} {size:.0f}" for role, size in roles.items()))
    return shown


def _launch(
    bench: Bench, cluster: Cluster, script: str, *, count: int = 0, seconds: float = 0, body: str = "{}"
) -> Figures:
    url = f"{cluster.master_url}/launch_job/{script}"
    return bench.client.load("launch", url, min(IN_FLIGHT, count or IN_FLIGHT), count=count, seconds=seconds, body=body)


def _peers(bench: Bench, cluster: Cluster) -> Peers:
    assert cluster.rabbit is not None
    return Peers(bench.directory / "yardsticks", cluster.rabbit, bench.say)


def _rate(batches: list[Batch]) -> float:
    return median(batch.rate for batch in batches)


def _figure(batches: list[Batch]) -> str:
    launching = median(batch.jobs / batch.launch_seconds for batch in batches)
    return f"{_rate(batches):,.0f}/s (launched at {launching:,.0f}/s)"
