"""The command line `pulzar`: many small files, the same again, and a large file beside curl."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from ops.benchmarks import large
from ops.benchmarks.bench import Bench
from ops.benchmarks.client import LONGEST_SECS
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.table import Row
from ops.cluster import Cluster

SMALL_BYTES = 10 << 10
FOLDERS = 100
LEAST_FILES = 3_000  # a second
MOST_SECONDS_AGAIN = 2.0
LEAST_RATIO = 0.9  # of curl
_LARGE = 4  # times the large value of other benchmarks
_ROOT = Path(__file__).parents[2]


def measure(bench: Bench, names: list[str]) -> bool:
    """Measure these names; whether all could be measured."""
    groups: dict[str, Callable[[Bench, Cluster], None]] = {"sync": _sync, "file": _file}
    with bench.cluster("cluster") as cluster:
        return bench.measure([(name,) for name in groups], names, lambda one: [groups[n](bench, cluster) for n in one])


def _sync(bench: Bench, cluster: Cluster) -> None:
    count = max(FOLDERS, bench.plan.keys // 100)
    source = bench.directory / "files"
    for number in range(count):
        path = source / str(number % FOLDERS) / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(SMALL_BYTES))
    up, again, down, command = [], [], [], ""
    for run in bench.repeat(lambda number: number):
        os.sync()
        seconds, said, command = _pulzar(cluster, "sync", str(source), f":bench/{run}/")
        if said["sent"] != count:
            raise RunFailed(f"{said['sent']} of {count} files were sent")
        up.append(seconds)
        seconds, said, _ = _pulzar(cluster, "sync", str(source), f":bench/{run}/")
        if said["unchanged"] != count:
            raise RunFailed(f"{said['unchanged']} of {count} files were unchanged")
        again.append(seconds)
        seconds, said, _ = _pulzar(cluster, "sync", f":bench/{run}/", str(bench.directory / f"back-{run}"))
        down.append(seconds)
    rate = count / median(up)
    name = f"pulzar sync of {count:,} files of 10 KiB"
    target, reached = f"≥ {LEAST_FILES:,}/s", rate >= LEAST_FILES
    bench.add(Row(f"{name}, up", f"{rate:,.0f}/s", target=target, reached=reached, commands=[command], runs=up))
    took = median(again)
    target = f"< {MOST_SECONDS_AGAIN:g} s"
    bench.add(Row(f"{name}, again", f"{took:.2f} s", target=target, reached=took < MOST_SECONDS_AGAIN, runs=again))
    bench.add(Row(f"{name}, down", f"{count / median(down):,.0f}/s", runs=down))


def _file(bench: Bench, cluster: Cluster) -> None:
    size = bench.plan.large * _LARGE
    source, back = bench.directory / "large.bin", bench.directory / "back.bin"
    large.make(source, size)
    took: dict[str, list[float]] = {"put": [], "curl -T": [], "get": [], "curl -o": []}
    commands: dict[str, str] = {}
    for run in range(bench.plan.runs):
        base = f"bench/large-{run}"
        os.sync()
        seconds, _, commands["put"] = _pulzar(cluster, "put", str(source), f"{base}/pulzar")
        took["put"].append(seconds)
        os.sync()
        url = f"{cluster.master_url}/add_key/{base}/curl"
        seconds, commands["curl -T"] = bench.client.curl("-T", str(source), url, expected=201)
        took["curl -T"].append(seconds)
        seconds, _, commands["get"] = _pulzar(cluster, "get", f"{base}/pulzar", str(back))
        took["get"].append(seconds)
        back.unlink()
        url = f"{cluster.master_url}/get_key/{base}/pulzar"
        seconds, commands["curl -o"] = bench.client.curl("-o", str(back), url, expected=200)
        took["curl -o"].append(seconds)
        back.unlink()
        for name in ("pulzar", "curl"):
            bench.client.curl("-X", "DELETE", f"{cluster.master_url}/delete_key/{base}/{name}?purge=1", expected=200)
    for ours, other in (("put", "curl -T"), ("get", "curl -o")):
        ratio = median(took[other]) / median(took[ours])
        figure = f"{size / (1 << 20) / median(took[ours]):,.0f} MiB/s, {ratio:.2f} of curl"
        bench.add(
            Row(
                f"pulzar {ours} of a file of {size >> 20:,} MiB, with its digest",
                figure,
                target=f"≥ {LEAST_RATIO} of curl",
                reached=ratio >= LEAST_RATIO,
                commands=[commands[ours], commands[other]],
                runs=[took[ours], took[other]],
            )
        )


def _pulzar(cluster: Cluster, *arguments: str) -> tuple[float, dict[str, int], str]:
    """Seconds that a command took, its start included; what it said last, and the command."""
    command = [sys.executable, "-m", "pulzar", "--json", *arguments]
    environment = os.environ | {"PULZAR_URL": cluster.master_url, "PYTHONPATH": str(_ROOT)}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST_SECS, check=False)
    took = time.monotonic() - began
    if done.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with status {done.returncode}: {done.stderr[-500:]}")
    said: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return took, said, shlex.join(["pulzar", *arguments])
