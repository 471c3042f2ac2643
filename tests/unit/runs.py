"""A runner with scripts of a test's own, and what is to be seen of its processes.

`python -m tests.unit.runs DIRECTORY` is a runner in a process of its own, which can be killed: it takes
runs as JSON lines on standard input and writes outcomes to standard output.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.secret_file import SecretFile
from node.runs.model import Outcome, Run, RunLimits, RunProgress
from node.runs.runner import Runner
from tests.support import wait_for

ROOT = Path(__file__).parents[2]
SECRETS = {"PULZAR_BROKER_URL": "amqp://u:hidden@h", "PULZAR_GENERAL_SECRET": "hidden", "PULZAR_BACKUP_PSW": "hidden"}


def alive(mark: str) -> list[int]:
    """The processes with this text in their command line or in the environment they were started with."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
    return [pid for pid in pids if pid != os.getpid() and mark.encode() in told(pid)]


def told(pid: int) -> bytes:
    """The command line and the environment of a process; nothing of one that has ended."""
    text = b""
    for file in ("cmdline", "environ"):
        try:
            text += Path(f"/proc/{pid}/{file}").read_bytes()
        except OSError:
            continue
    return text


def descriptors(pid: int) -> int:
    """How many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def zombies(parent: int) -> list[int]:
    """The children of a process that have ended and were not reaped."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                state, above = Path(f"/proc/{name}/stat").read_text().rpartition(") ")[2].split()[:2]
            except OSError:
                continue
            if state == "Z" and int(above) == parent:
                found.append(int(name))
    return found


class Node:
    """A runner; everything about it is below one directory, whose name tells its processes from others."""

    def __init__(
        self, directory: Path, scripts: Path | None = None, master: str = "localhost:9", passed: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.work = directory / "work"
        self.scripts = scripts or directory / "scripts"
        self._master = master
        self._passed = passed
        self.secrets = ""  # path of the file
        self.progress: list[RunProgress] = []
        self.ends: list[Outcome] = []
        self.left_out: dict[str, str] = {}  # modules that can't be loaded ahead
        self._outcomes: dict[str, Outcome] = {}
        self._changed = threading.Condition()
        self._runner: Runner | None = None

    def script(self, job: str, text: str) -> Path:
        """Write a script, or a module beside one."""
        file = self.scripts / f"{job}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    def start(self, **limits: Any) -> Node:
        """Start the runner."""
        given = RunLimits(**({"grace": 0.5} | limits))
        environment = {**os.environ, **SECRETS, "PULZAR_MASTER": self._master}
        self._runner = Runner(
            *(self.work, self.scripts, given),
            environment=environment,
            on_end=self._on_end,
            on_progress=self.progress.append,
            passed=self._passed,
            secrets=SecretFile(self.secrets),
            on_left_out=self._on_left_out,
        )
        self._runner.start()
        return self

    @property
    def runner(self) -> Runner:
        """The runner, which is started when it was not."""
        if not self._runner:
            self.start()
        assert self._runner
        return self._runner

    def stop(self) -> None:
        """Stop the runner."""
        if self._runner:
            self._runner.stop()
            self._runner = None

    def _on_end(self, outcome: Outcome) -> None:
        with self._changed:
            self.ends.append(outcome)
            self._outcomes[outcome.run.token] = outcome
            self._changed.notify_all()

    def _on_left_out(self, found: Mapping[str, str]) -> None:
        self.left_out = dict(found)

    def begin(self, job: str, arguments: dict[str, Any] | None = None, **fields: Any) -> str:
        """Have a job run; its token."""
        run = Run(
            secrets.token_hex(8), fields.pop("job_id", 1), fields.pop("attempt", 1), job, arguments or {}, **fields
        )
        self.runner.run(run)
        return run.token

    def outcome(self, run: str, seconds: float = 60.0) -> Outcome:
        """Wait for a run to end."""
        with self._changed:
            assert self._changed.wait_for(lambda: run in self._outcomes, seconds), "the run did not end in time"
            return self._outcomes[run]

    def run(self, job: str, arguments: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        """Have a job run and wait for its end."""
        return self.outcome(self.begin(job, arguments, **fields))

    def execute(self, text: str, arguments: dict[str, Any] | None = None, **fields: Any) -> Outcome:
        """Run a plain script of this text."""
        self.script("test/script", text)
        return self.run("test/script", arguments, **fields)

    def printed(self, run: str, text: str) -> None:
        """Wait until a run has printed something; it must take its time after that."""
        wait_for(lambda: any(text.encode() in told.log for told in self.progress if told.run.token == run))

    @property
    def zygote(self) -> int:
        """The zygote's pid."""
        return int(wait_for(lambda: [pid for pid in alive(str(self.directory)) if is_zygote(pid)])[0])

    def others(self) -> list[int]:
        """Processes of runs that are alive: all but the zygote and those it keeps ready."""
        zygote = self.zygote
        pids = [pid for pid in alive(str(self.directory)) if pid != zygote and not is_spare(pid, zygote)]
        return [pid for pid in pids if b"tests.unit.runs" not in told(pid)]


def is_zygote(pid: int) -> bool:
    """Whether a process is a zygote, and not one that was forked from it: those are leaders of sessions of their own."""
    try:
        above = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return False
    return b"node.runs.zygote" in told(pid) and b"node.runs.zygote" not in told(above)


def is_spare(pid: int, zygote: int) -> bool:
    """Whether a process waits for a task: its standard output is still that of the zygote."""
    if b"node.runs.zygote" not in told(pid):
        return False
    try:
        return os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{zygote}/fd/1")
    except OSError:
        return False


def separate(directory: Path, *prefix: str) -> subprocess.Popen[str]:
    """A runner in a process of its own."""
    command = [*prefix, sys.executable, "-m", "tests.unit.runs", str(directory)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def main() -> None:
    """Run what comes on standard input until it ends."""
    directory = Path(sys.argv[1])

    def tell(outcome: Outcome) -> None:
        print(
            json.dumps([outcome.end.state.name.lower(), outcome.end.reason, outcome.log.decode("utf-8", "replace")]),
            flush=True,
        )

    runner = Runner(
        *(directory / "work", directory / "scripts", RunLimits(grace=0.5)),
        environment=os.environ,
        on_end=tell,
        on_progress=lambda _: None,
    )
    runner.start()
    for line in sys.stdin:
        runner.run(Run(secrets.token_hex(8), 1, 1, json.loads(line), {}))
    runner.stop()


if __name__ == "__main__":
    main()
