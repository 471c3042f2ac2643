"""What every benchmark shares: how much to measure, where, and the rows so far."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from ops.benchmarks.client import Client
from ops.benchmarks.errors import BenchError
from ops.benchmarks.nginx import Nginx
from ops.benchmarks.table import Row
from ops.cluster import Cluster, ClusterError
from ops.cluster.network import free_base

T = TypeVar("T")


@dataclass(frozen=True)
class Plan:
    """How much is measured. Sizes are in bytes, times in seconds."""

    runs: int = 3
    seconds: float = 5.0  # the time of one run of small values
    value: int = 1024
    deletes: int = 20_000
    large: int = 1 << 30
    keys: int = 1_000_000
    small: int = 100  # the size of one of the million values
    nodes: int = 2
    jobs: int = 2000  # jobs launched at once
    waves: int = 10  # times that `jobs` jobs are launched while memory is measured
    one: int = 300  # jobs launched one after the other
    seconds_long: int = 100  # jobs that take a second


QUICK = Plan(runs=1, seconds=1.0, deletes=2000, large=64 << 20, keys=20_000, jobs=100, waves=3, one=30, seconds_long=12)


@dataclass
class Bench:
    """A benchmark, with its files in `directory` and its rows so far."""

    directory: Path
    plan: Plan
    client: Client
    rows: list[Row] = field(default_factory=list)

    @contextmanager
    def cluster(self, name: str, nodes: int = 0, **environment: str) -> Iterator[Cluster]:
        """A healthy cluster with its data in the folder `name`; `environment` has its settings."""
        nodes = nodes or self.plan.nodes
        shown = " ".join(f"{key}={value}" for key, value in environment.items())
        self.say(f"starting RabbitMQ, the master and {nodes} nodes {shown}".rstrip())
        with Cluster(self.directory / name, free_base(), nodes, environment=os.environ | environment) as cluster:
            yield cluster

    @contextmanager
    def nginx(self) -> Iterator[Nginx]:
        """nginx with WebDAV, on a free port."""
        with Nginx(self.directory / "nginx", free_base()) as nginx:
            yield nginx

    def measure(
        self, groups: Iterable[Sequence[str]], names: Collection[str], group: Callable[[list[str]], None]
    ) -> bool:
        """Measure the names, group by group. A group that fails is reported and makes the result False."""
        complete = True
        for each in groups:
            wanted = [name for name in each if name in names]
            try:
                group(wanted)
            except (BenchError, ClusterError, OSError) as error:
                complete = False
                self.say(f"{', '.join(wanted)} failed: {error}")
        return complete

    def repeat(self, run: Callable[[int], T]) -> list[T]:
        """The results of `run(0)`, `run(1)` and so on, one for each run of the plan."""
        return [run(number) for number in range(self.plan.runs)]

    def add(self, row: Row) -> None:
        """Keep a row and print it."""
        self.rows.append(row)
        times = f", p50 {row.p50} ms, p99 {row.p99} ms" if row.p50 else ""
        self.say(f"{row.name}: {row.figure}{times}  {row.target} {row.verdict()}".rstrip())

    def say(self, text: str) -> None:
        """Print a line with the time of day."""
        print(time.strftime("%H:%M:%S"), text, flush=True)
