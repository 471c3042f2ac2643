"""1 KiB values: PUT, GET, DELETE, GET through the redirect, and nginx doing the same."""

from __future__ import annotations

from ops.benchmarks.bench import Bench
from ops.benchmarks.client import Figures
from ops.benchmarks.nginx import Nginx
from ops.benchmarks.table import rate_row
from ops.cluster import Cluster

KEYS = 1000  # that GETs choose from
MANY = 64  # in flight, for keys that are made to be read or deleted


def put(bench: Bench, cluster: Cluster) -> None:
    """Measure PUTs: every 201 is fsynced on a node and committed in the index."""
    for connections, least, p50_below_ms in ((1, 0, 2.5), (16, 4000, 0), (64, 6000, 0)):
        url = f"{cluster.master_url}/add_key/bench/put-{connections}"
        _put(bench, f"{url}-warm-", connections, bench.plan.seconds / 5)
        runs = [_put(bench, f"{url}-{run}-", connections, bench.plan.seconds) for run in range(bench.plan.runs)]
        bench.add(rate_row(f"PUT 1 KiB, {connections} in flight", runs, least=least, p50_below_ms=p50_below_ms))


def get(bench: Bench, cluster: Cluster) -> None:
    """Measure GETs that the master answers from its index."""
    _fill(bench, cluster, KEYS, "get")
    url = f"{cluster.master_url}/get_key/bench/get-"
    _get_rows(bench, "GET 1 KiB from the master", url, least=20_000, p50_below_ms=0.4)


def redirect(bench: Bench, cluster: Cluster) -> None:
    """Measure GETs with a redirect: the master keeps no values beside its index."""
    _fill(bench, cluster, KEYS, "get")
    url = f"{cluster.master_url}/get_key/bench/get-"
    for connections, least in ((16, 7000), (1, 0)):

        def follow(_: int, n: int = connections) -> Figures:
            plan = bench.plan
            return bench.client.load("follow", url, n, seconds=plan.seconds, size=plan.value, keys=KEYS, random=True)

        follow(0)  # to warm up
        name = f"GET 1 KiB through the redirect, both requests, {connections} in flight"
        bench.add(rate_row(name, bench.repeat(follow), least=least))


def delete(bench: Bench, cluster: Cluster) -> None:
    """Measure DELETEs: every 200 means a durable tombstone."""
    count = bench.plan.deletes

    def run(number: int) -> Figures:
        _fill(bench, cluster, count, f"delete-{number}")
        url = f"{cluster.master_url}/delete_key/bench/delete-{number}-"
        return bench.client.load("delete", url, 16, count=count)

    bench.add(rate_row("DELETE 1 KiB, 16 in flight", bench.repeat(run), least=4000))


def yardstick(bench: Bench, nginx: Nginx) -> None:
    """Measure nginx, which has no index, makes nothing durable and computes no digest."""
    client, plan = bench.client, bench.plan
    url = f"{nginx.url}/small/"
    folder = nginx.files / "small"
    for connections in (1, 16, 64):
        names = [f"{url}plain-{connections}-{run}-" for run in range(plan.runs)]
        runs = [_put(bench, name, connections, plan.seconds) for name in names]
        bench.add(rate_row(f"nginx: PUT 1 KiB, not durable, {connections} in flight", runs))
    for connections in (1, 16):

        def put_synced(run: int, n: int = connections) -> Figures:
            place = f"{url}synced-{n}-{run}-"
            return client.load("put", place, n, seconds=plan.seconds, size=plan.value, fsync=folder)

        runs = bench.repeat(put_synced)
        bench.add(rate_row(f"nginx: PUT 1 KiB, then fsync by the client, {connections} in flight", runs))
    client.load("put", f"{url}get-", 16, count=KEYS, size=plan.value)
    _get_rows(bench, "nginx: GET 1 KiB", f"{url}get-")


def _put(bench: Bench, url: str, connections: int, seconds: float) -> Figures:
    return bench.client.load("put", url, connections, seconds=seconds, size=bench.plan.value)


def _fill(bench: Bench, cluster: Cluster, count: int, name: str) -> None:
    url = f"{cluster.master_url}/add_key/bench/{name}-"
    bench.client.load("put", url, MANY, count=count, size=bench.plan.value)


def _get_rows(bench: Bench, name: str, url: str, *, least: float = 0, p50_below_ms: float = 0) -> None:
    client, plan = bench.client, bench.plan
    for connections in (16, 1):
        targets = {"least": least if connections == 16 else 0, "p50_below_ms": p50_below_ms if connections == 1 else 0}

        def by_load(_: int, n: int = connections) -> Figures:
            return client.load("get", url, n, seconds=plan.seconds, size=plan.value, keys=KEYS, random=True)

        def by_wrk(_: int, n: int = connections) -> Figures:
            return client.wrk(url, n, plan.seconds, KEYS)

        by_load(0)  # to warm up
        for tool, run in (("wrk", by_wrk), ("load", by_load)):
            bench.add(rate_row(f"{name}, {connections} in flight ({tool})", bench.repeat(run), **targets))
