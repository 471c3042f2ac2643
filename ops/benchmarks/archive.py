"""An archive of 10,000 small values, beside `tar` of the same files on the disk."""

from __future__ import annotations

import http.client
import shlex
import subprocess
import time
import urllib.request
from collections.abc import Callable, Sequence
from statistics import median

from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, Watch
from ops.benchmarks.table import Row
from ops.cluster import Cluster

COUNT = 10_000
IN_FLIGHT = 16
LEAST = 0.3  # of the speed of tar
FLAT_BYTES = 16 * MIB  # by which the master's memory may grow, for what is no part of the archive
PREFIX = "bench/archive/"
_PIECE_BYTES = 1 << 20


def archive(bench: Bench, cluster: Cluster) -> None:
    """Measure the archive and its zip, each run beside one of tar, and the master's memory meanwhile."""
    count = min(COUNT, bench.plan.keys)
    bench.client.load("put", f"{cluster.master_url}/add_key/{PREFIX}", IN_FLIGHT, count=count, size=bench.plan.value)
    files = bench.directory / "archive files"
    files.mkdir()
    url = f"{cluster.master_url}/archive/{PREFIX}"
    with subprocess.Popen(["tar", "-xf", "-", "-C", str(files)], stdin=subprocess.PIPE) as unpacking:
        assert unpacking.stdin
        _fetch(url, unpacking.stdin.write)
    theirs = ["tar", "-cf", "-", "-C", str(files), "."]
    assert cluster.master.pid
    for form in ("tar", "zip"):
        ours = f"{url}?format={form}"
        with Watch(master=[cluster.master.pid]) as memory:
            runs = bench.repeat(lambda _, ours=ours: {"archive": _fetch(ours), "tar": _pack(theirs)})  # type: ignore[misc]
        ratio = median(run["tar"] / run["archive"] for run in runs)
        grown = memory.most["master"] - memory.before["master"]
        bench.add(
            Row(
                f"/archive of {count:,} × {bench.plan.value} B as {form}, speed as a multiple of tar of such files",
                f"{ratio:.2f}; memory + {grown / MIB:.0f} MiB",
                target=f"≥ {LEAST} and flat",
                reached=ratio >= LEAST and grown <= FLAT_BYTES,
                note=f"{median(run['archive'] for run in runs):.2f} s",
                commands=[f"GET {ours}", shlex.join(theirs)],
                runs=runs,
            )
        )


def _fetch(url: str, take: Callable[[bytes], object] = len) -> float:
    """The seconds that a GET takes until all of its body is read, and given to `take`. Raises `RunFailed`."""
    began = time.monotonic()
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            while piece := response.read(_PIECE_BYTES):
                take(piece)
    except (OSError, http.client.HTTPException) as error:
        raise RunFailed(f"GET {url}: {error}") from error
    return time.monotonic() - began


def _pack(command: Sequence[str]) -> float:
    """The seconds that a command takes until all of its output is read. Raises `RunFailed`."""
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        while process.stdout.read(_PIECE_BYTES):
            continue
    if process.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with status {process.returncode}")
    return time.monotonic() - began
