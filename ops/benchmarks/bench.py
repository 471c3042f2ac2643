"""What every benchmark shares: how much to do, where to do it, and the rows found so far."""

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
    """How much is done: sizes in bytes, times in seconds."""

    runs: int = 3
    seconds: float = 5.0  # of one run of small values
    value: int = 1024
    deletes: int = 20_000
    large: int = 1 << 30
    keys: int = 1_000_000
    small: int = 100  # of one of the million values
    nodes: int = 2
    jobs: int = 2000  # launched at once
    waves: int = 10  # of so many jobs each, while memory is looked at
    one: int = 300  # launched one after the other
    seconds_long: int = 100  # jobs of a second


QUICK = Plan(runs=1, seconds=1.0, deletes=2000, large=64 << 20, keys=20_000, jobs=100, waves=3, one=30, seconds_long=12)


@dataclass
class Bench:
    """One benchmark under way in `directory`."""

    directory: Path
    plan: Plan
    client: Client
    rows: list[Row] = field(default_factory=list)

    @contextmanager
    def cluster(self, name: str, nodes: int = 0, **environment: str) -> Iterator[Cluster]:
        """A healthy cluster whose data is in a folder `name`; `environment` beats the settings' defaults."""
        nodes = nodes or self.plan.nodes
        shown = " ".join(f"{key}={value}" for key, value in environment.items())
        self.say(f"starting RabbitMQ, the master and {nodes} nodes {shown}".rstrip())
        with Cluster(self.directory / name, free_base(), nodes, environment=os.environ | environment) as cluster:
            yield cluster

    @contextmanager
    def nginx(self) -> Iterator[Nginx]:
        """nginx with WebDAV on a free port."""
        with Nginx(self.directory / "nginx", free_base()) as nginx:
            yield nginx

    def measure(
        self, groups: Iterable[Sequence[str]], names: Collection[str], group: Callable[[list[str]], None]
    ) -> bool:
        """Measure what is named, a group after the other; False when one failed: that is said, and the rest goes on."""
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
        """What `run` gave for 0, 1, …: as many runs as the plan has."""
        return [run(number) for number in range(self.plan.runs)]

    def add(self, row: Row) -> None:
        """Keep a row and show it at once."""
        self.rows.append(row)
        times = f", p50 {row.p50} ms, p99 {row.p99} ms" if row.p50 else ""
        self.say(f"{row.name}: {row.figure}{times}  {row.target} {row.verdict()}".rstrip())

    def say(self, text: str) -> None:
        """Progress."""
        print(time.strftime("%H:%M:%S"), text, flush=True)
