"""restic with the store as its repository, beside the same restic with one in a local directory."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from statistics import median

from ops.benchmarks.bench import Bench
from ops.benchmarks.errors import RunFailed
from ops.benchmarks.memory import MIB, Watch
from ops.benchmarks.table import Row
from ops.cluster import Cluster

LEAST = 0.6  # of the speed with a directory
FLAT_BYTES = 64 * MIB  # by which the master's memory may grow meanwhile
_FILES = 64  # random, so that they neither compress nor repeat
_PIECE_BYTES = 1 << 20


def restic(bench: Bench, cluster: Cluster) -> None:
    """Measure a backup and a restore of random files, in turns, and the master's memory meanwhile."""
    size = 2 * bench.plan.large
    bench.say(f"making {_FILES} random files of {size // _FILES // MIB} MiB")
    source = bench.directory / "restic files"
    source.mkdir()
    for number in range(_FILES):
        _make(source / f"{number:02}", size // _FILES)
    assert cluster.master.pid
    runs: list[dict[str, dict[str, float]]] = []
    grown = 0
    for run in range(bench.plan.runs):
        places = {
            "store": f"rest:{cluster.master_url}/restic/bench/{run}/",
            "directory": str(bench.directory / f"restic-{run}"),
        }
        took: dict[str, dict[str, float]] = {}
        for name in sorted(places, reverse=run % 2 == 1):
            with Watch(master=[cluster.master.pid]) as memory:
                took[name] = _measure(bench.directory, places[name], source)
            if name == "store":
                grown = max(grown, memory.most["master"] - memory.before["master"])
        shutil.rmtree(places["directory"])
        runs.append(took)
    for what in ("backup", "restore"):
        ratio = median(run["directory"][what] / run["store"][what] for run in runs)
        speeds = {name: size / MIB / median(run[name][what] for run in runs) for name in ("store", "directory")}
        bench.add(
            Row(
                f"restic {what} of {size // MIB:,} MiB, speed as a multiple of that with a local directory",
                f"{ratio:.2f}: {speeds['store']:.0f} and {speeds['directory']:.0f} MiB/s; + {grown / MIB:.0f} MiB",
                target=f"≥ {LEAST} and flat",
                reached=ratio >= LEAST and grown <= FLAT_BYTES,
                commands=[f"restic -r {places['store']} {'backup $DIR' if what == 'backup' else 'restore latest'}"],
                runs=[{name: took[name][what] for name in took} for took in runs],
            )
        )


def _measure(directory: Path, repository: str, source: Path) -> dict[str, float]:
    """The seconds of a backup and a restore. Raises `RunFailed`."""
    target = directory / "restic restored"
    commands = {
        "init": ["init"],
        "backup": ["backup", str(source)],
        "restore": ["restore", "latest", "--target", str(target)],
    }
    environment = os.environ | {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(directory / "restic cache")}
    took = {}
    for name, arguments in commands.items():
        os.sync()
        began = time.monotonic()
        done = subprocess.run(
            ["restic", "-r", repository, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        took[name] = time.monotonic() - began
        if done.returncode:
            raise RunFailed(f"restic {name}: {done.stderr[-500:]}")
    shutil.rmtree(target)
    return took


def _make(path: Path, size: int) -> None:
    chance = random.Random(path.name)
    with path.open("wb") as file:
        for _ in range(size // _PIECE_BYTES):
            file.write(chance.randbytes(_PIECE_BYTES))
