"""A value of 1 GiB by curl, beside nginx, and the memory of master and nodes meanwhile."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, Watch
from ops.benchmarks.nginx import Nginx
from ops.benchmarks.table import Row
from ops.cluster import Cluster
from ops.cluster.processes import Child

LEAST_RATIO = 0.7
# Memory counts as flat when it grows by less than this while a value passes.
FLAT_BYTES = 64 * MIB
CHUNK = 4 * MIB


def large(bench: Bench, cluster: Cluster, nginx: Nginx) -> None:
    """Measure PUT, with digest and fsync, and GET, each beside nginx in the same run."""
    size = bench.plan.large
    source = bench.directory / "source.bin"
    digest = make(source, size)
    took: dict[str, list[float]] = {"PUT": [], "nginx PUT": [], "GET": [], "nginx GET": []}
    commands: dict[str, str] = {}
    watches = []
    bench.say(f"{_size(size)} by curl, {bench.plan.runs + 1} times, the first to warm up")
    for run in range(-1, bench.plan.runs):
        with Watch(master=_pids(cluster.master), nodes=_pids(*(node.process for node in cluster.nodes))) as watch:
            found = _run(bench, cluster, nginx, source, run)
        watches.append(watch)
        for what, (seconds, command) in found.items():
            commands[what] = command
            if run >= 0:
                took[what].append(seconds)
        if run < 0:
            compare(cluster, digest, -1)
        _remove(bench, cluster, nginx, run)
    for method in ("PUT", "GET"):
        ratio = median(took[f"nginx {method}"]) / median(took[method])
        extra = ", fsynced" if method == "PUT" else ""
        bench.add(
            Row(
                f"{method} {_size(size)} by curl -L{extra}",
                f"{_speed(size, took[method])}, {ratio:.2f} of nginx",
                target=f"≥ {LEAST_RATIO} of nginx",
                reached=ratio >= LEAST_RATIO,
                commands=[commands[method]],
                runs=took[method],
            )
        )
        name = f"nginx: {method} {_size(size)} by curl" + (", then fsync" if method == "PUT" else "")
        figure = _speed(size, took[f"nginx {method}"])
        bench.add(Row(name, figure, commands=[commands[f"nginx {method}"]], runs=took[f"nginx {method}"]))
    _memory_rows(bench, watches, size)


def _run(bench: Bench, cluster: Cluster, nginx: Nginx, source: Path, run: int) -> dict[str, tuple[float, str]]:
    """Make the four transfers of one run; the seconds and the command of each."""
    client, found = bench.client, {}
    file = nginx.files / f"large-{run}"
    with _settled():
        found["PUT"] = client.curl("-T", str(source), f"{cluster.master_url}/add_key/{key(run)}", expected=201)
    with _settled():
        began = time.monotonic()
        _, command = client.curl("-T", str(source), f"{nginx.url}/{file.name}", expected=201)
        _fsync(file)
        found["nginx PUT"] = (time.monotonic() - began, f"{command} && sync {file}")
    with _settled():
        found["GET"] = client.curl("-o", os.devnull, f"{cluster.master_url}/get_key/{key(run)}", expected=200)
    with _settled():
        found["nginx GET"] = client.curl("-o", os.devnull, f"{nginx.url}/{file.name}", expected=200)
    return found


@contextmanager
def _settled() -> Iterator[None]:
    """Begin when everything that was written before is on the disk."""
    os.sync()
    yield


def key(run: int) -> str:
    """The key of the value of a run."""
    return f"bench/large-{run}.bin"


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make(path: Path, size: int) -> bytes:
    """Make a file of random bytes; its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for offset in range(0, size, CHUNK):
            chunk = os.urandom(min(CHUNK, size - offset))
            digest.update(chunk)
            file.write(chunk)
    return digest.digest()


def compare(cluster: Cluster, expected: bytes, run: int) -> None:
    """Raise `RunFailed` when the value that was stored has another SHA-256 than `expected`."""
    url = f"{cluster.master_url}/get_key/{key(run)}"
    digest = hashlib.sha256()
    with subprocess.Popen(["curl", "-sS", "-L", "--fail", url], stdout=subprocess.PIPE) as curl:
        if curl.stdout is None:
            raise RunFailed("curl has no output")
        while chunk := curl.stdout.read(CHUNK):
            digest.update(chunk)
    if digest.digest() != expected:
        raise RunFailed(f"{url} gave other bytes than were stored there")


def _remove(bench: Bench, cluster: Cluster, nginx: Nginx, run: int) -> None:
    bench.client.curl("-X", "DELETE", f"{cluster.master_url}/delete_key/{key(run)}", expected=200)
    (nginx.files / f"large-{run}").unlink()


def _memory_rows(bench: Bench, watches: list[Watch], size: int) -> None:
    for group, who in (("master", "the master"), ("nodes", f"the {bench.plan.nodes} nodes")):
        before, after = watches[0].before[group], watches[-1].after[group]
        most = max(watch.most[group] for watch in watches)
        growth = max(watch.most[group] - watch.before[group] for watch in watches)
        bench.add(
            Row(
                f"memory of {who} while {_size(size)} goes in and out",
                f"{before / MIB:.0f} → {most / MIB:.0f} → {after / MIB:.0f} MiB RSS",
                target=f"flat: grows < {FLAT_BYTES // MIB} MiB",
                reached=growth < FLAT_BYTES,
                runs=[[watch.before[group], watch.most[group], watch.after[group]] for watch in watches],
            )
        )


def _pids(*children: Child) -> list[int]:
    return [child.pid for child in children if child.pid]


def _size(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def _speed(size: int, took: list[float]) -> str:
    seconds = median(took)
    return f"{size / MIB / seconds:,.0f} MiB/s ({seconds:.2f} s)"
