"""Celery and RQ as yardsticks of the job system: their virtual environment, Redis, and their workers.

Every choice favours them: Redis keeps everything in memory alone, and the broker does not confirm launches.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

from ops.benchmarks import processor
from ops.benchmarks.client import Figures
from ops.benchmarks.errors import RunFailed
from ops.cluster import Rabbit
from ops.cluster.network import answers, free_base, wait_until
from ops.cluster.processes import Child

WORKERS = 4
VHOST = "celery"
WARM = 400  # jobs
START_SECS = 20
STOP_SECS = 10
LONGEST_SECS = 600
FOLDER = Path(__file__).with_name("yardsticks")
REQUIREMENTS = FOLDER / "requirements.txt"


@dataclass(frozen=True)
class Batch:
    """Many jobs launched at once: the seconds until the last one ended, and the seconds of the launches."""

    jobs: int
    seconds: float
    launch_seconds: float
    command: str
    processor: str  # the processor time of a job, in words
    roles: dict[str, float] = field(default_factory=dict)  # the same in ms, by role

    @property
    def rate(self) -> float:
        """Jobs per second."""
        return self.jobs / self.seconds


class Peers:
    """Both, beside a RabbitMQ, with their files in `directory`. `say` is told what takes long."""

    def __init__(self, directory: Path, rabbit: Rabbit, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._python = environment(say)
        self._redis_port = free_base()
        self._rabbit = rabbit
        rabbit.create_vhost(VHOST)
        redis = f"redis://127.0.0.1:{self._redis_port}"
        self._environment = os.environ | {
            "PYTHONPATH": str(FOLDER),
            "PYTHONDONTWRITEBYTECODE": "1",
            "BENCH_BROKER": rabbit.url(VHOST),
            "BENCH_RESULTS": f"{redis}/1",
            "BENCH_REDIS": f"{redis}/0",
        }

    @contextmanager
    def celery(self) -> Iterator[Peer]:
        """Celery with one worker of `WORKERS` processes, which run many jobs each."""
        options = ["--pool", "prefork", "--concurrency", str(WORKERS), "--loglevel", "WARNING"]
        with self._started("celery_app", [["-m", "celery", "-A", "celery_app", "worker", *options]]) as peer:
            yield peer

    @contextmanager
    def rq(self) -> Iterator[Peer]:
        """RQ with `WORKERS` workers. A worker forks a process for each job."""
        options = ["--url", self._environment["BENCH_REDIS"], "--worker-class", "rq.Worker", "--quiet"]
        with self._started("rq_app", [["-m", "rq.cli", "worker", *options]] * WORKERS) as peer:
            yield peer

    @contextmanager
    def _started(self, app: str, workers: list[list[str]]) -> Iterator[Peer]:
        with ExitStack() as stack:
            redis = ["redis-server", "--port", str(self._redis_port), "--bind", "127.0.0.1", "--save", ""]
            redis += ["--appendonly", "no", "--dir", str(self._directory)]
            server = self._start(stack, "redis", redis)
            if not wait_until(lambda: answers("127.0.0.1", self._redis_port), START_SECS):
                raise RunFailed(f"Redis does not answer on port {self._redis_port}")
            shown = ""
            children = []
            for number, worker in enumerate(workers):
                children.append(self._start(stack, f"{app}-{number}", [str(self._python), *worker]))
                shown = shlex.join(["python", *worker])
            count = f"{len(workers)} × " if len(workers) > 1 else ""
            processes = {"Redis": [server], "workers": children, "RabbitMQ": self._rabbit.children}
            yield Peer(self._python, app, self._environment, count + shown, processes)

    def _start(self, stack: ExitStack, name: str, command: list[str]) -> Child:
        self._directory.mkdir(parents=True, exist_ok=True)
        child = Child(name, command, self._environment, self._directory / f"{name}.log", directory=self._directory)
        stack.callback(child.stop, STOP_SECS)
        child.start()
        return child


@dataclass(frozen=True)
class Peer:
    """A yardstick with its workers started."""

    python: Path
    app: str
    environment: dict[str, str]
    workers: str  # the command of the workers
    processes: dict[str, list[Child]]

    def seconds(self) -> dict[str, float]:
        """Processor time so far in seconds, by role; that of launches is not counted."""
        return {name: sum(map(processor.whole, children)) for name, children in self.processes.items()}

    def one(self, count: int) -> Figures:
        """Launch jobs one after the other, each when the one before has its result. Raises `RunFailed`."""
        found, command = self._drive("one", count)
        took = found["ms"]
        cuts = quantiles(took, n=100)
        return Figures(1000 * len(took) / sum(took), cuts[49], cuts[98], {}, command)

    def many(self, count: int) -> Batch:
        """Launch jobs at once. Raises `RunFailed`."""
        self._drive("many", WARM)  # so the start of the workers is not counted
        before = self.seconds()
        found, command = self._drive("many", count)
        said = processor.told(before, self.seconds(), count)
        return Batch(count, found["seconds"], found["launch_seconds"], command, said)

    def _drive(self, what: str, count: int) -> tuple[dict[str, Any], str]:
        command = [str(self.python), str(FOLDER / f"{self.app}.py"), what, str(count)]
        shown = f"{self.workers} & python {self.app}.py {what} {count}"
        try:
            done = subprocess.run(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=LONGEST_SECS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"{shown} did not end within {LONGEST_SECS} s") from error
        if done.returncode:
            raise RunFailed(f"{shown} ended with status {done.returncode}: {done.stderr[-1000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found, shown


def environment(say: Callable[[str], None]) -> Path:
    """The Python of the yardsticks' virtual environment, which is made if need be. Raises `RunFailed`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pulzar-bench"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"yardsticks-{wanted}"
    python, complete = folder / "bin" / "python", folder / "complete"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            say(f"installing Celery and RQ into {folder}")
            shutil.rmtree(folder, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run([*pip, "-r", str(REQUIREMENTS)])
            complete.touch()
    return python


def versions() -> dict[str, str]:
    """The versions of the yardsticks."""
    pinned = (line.partition("==") for line in REQUIREMENTS.read_text(encoding="utf-8").split() if "==" in line)
    known = {name: version for name, _, version in pinned}
    found = {"Celery": known["celery"], "RQ": known["rq"]}
    said = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout
    words = dict(word.split("=", 1) for word in said.split() if "=" in word)
    return found | {"Redis": words.get("v", "unknown")}


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunFailed(f"{shlex.join(command)} ended with status {done.returncode}: {done.stderr[-1000:]}")
