"""The benchmark of the store: which rows share a cluster."""

from __future__ import annotations

from collections.abc import Collection

from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import BenchError
from ops.benchmarks.large import large
from ops.benchmarks.million import million
from ops.benchmarks.small import delete, get, put, redirect, yardstick
from ops.cluster import ClusterError

# Names that `--only` takes, in the order in which they are measured, and those that share a cluster.
_GROUPS = (("put", "get", "delete"), ("redirect",), ("large",), ("million",), ("nginx",))


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure what is named; False when some of it could not be. A group that fails is said, and the rest goes on."""
    complete = True
    for group in _GROUPS:
        wanted = [name for name in group if name in names]
        try:
            _measure(bench, wanted)
        except (BenchError, ClusterError, OSError) as error:
            complete = False
            bench.say(f"{', '.join(wanted)} failed: {error}")
    return complete


def _measure(bench: Bench, names: list[str]) -> None:
    match names:
        case []:
            return
        case ["redirect"]:
            with bench.cluster("redirect", PULZAR_SERVER_CACHED="0") as cluster:
                redirect(bench, cluster)
        case ["large"]:
            with bench.cluster("large") as cluster, bench.nginx() as nginx:
                large(bench, cluster, nginx)
        case ["million"]:
            million(bench)
        case ["nginx"]:
            with bench.nginx() as nginx:
                yardstick(bench, nginx)
        case _:
            with bench.cluster("store") as cluster:
                for name in names:
                    {"put": put, "get": get, "delete": delete}[name](bench, cluster)
