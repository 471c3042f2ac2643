"""The benchmark of the store: which rows share a cluster."""

from __future__ import annotations

from collections.abc import Collection

from ops.benchmarks.bench import Bench
from ops.benchmarks.large import large
from ops.benchmarks.million import million
from ops.benchmarks.small import delete, get, put, redirect, yardstick
from ops.benchmarks.tokens import tokens

# The names for `--only`, in their order; those of a group share a cluster.
_GROUPS = (("put", "get", "delete"), ("redirect",), ("large",), ("million",), ("nginx",), ("tokens",))


def measure(bench: Bench, names: Collection[str]) -> bool:
    """Measure the names; False when a group failed."""
    return bench.measure(_GROUPS, names, lambda wanted: _measure(bench, wanted))


def _measure(bench: Bench, names: list[str]) -> None:
    match names:
        case []:
            return
        case ["redirect"]:
            with bench.cluster("redirect", PULZAR_SERVER_CACHED="0") as cluster:
                redirect(bench, cluster)
        case ["tokens"]:
            tokens(bench)
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
