"""Child processes, each in a session of its own with a log file; none is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ops.cluster.errors import ProcessDied

ROOT = Path(__file__).resolve().parents[2]  # the repository

BACKOFF_FIRST_SECS = 0.2
BACKOFF_MOST_SECS = 10.0
BACKOFF_RESET_SECS = 30.0
POLL_SECS = 0.02
TRIM_EVERY_SECS = 10.0
MOST_LOG_BYTES = 64 << 20  # of each log, and as much of what was before

_WRAPPER = Path(__file__).with_name("child.py")

# For the kernel, the parent is the thread that started a child: when that thread ends, the child gets its death
# signal. So one thread, which lives as long as this process, starts all children.
_starter = ThreadPoolExecutor(1, "starter")


class Child:
    """A process in a process group of its own. It may be started many times, with the same command.

    The kernel sends it `death_signal` when this process dies. `prepare` is called before each start. The environment
    may be changed between two starts.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        directory: Path = ROOT,
        death_signal: signal.Signals = signal.SIGTERM,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.command = command
        self.environment = dict(environment)
        self.log = log
        self.wanted = False  # whether a supervisor starts it again when it ends
        self.started_at = 0.0  # time.monotonic()
        self._directory = directory
        self._death_signal = death_signal
        self._prepare = prepare
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """The process id; None when it does not run."""
        return self._process.pid if self._process and self.running else None

    @property
    def running(self) -> bool:
        """Whether the process runs. When it has ended, the rest of its process group is killed."""
        with self._lock:
            if self._process is None or self._process.returncode is not None:
                return False
            if self._process.poll() is None:
                return True
            # At once, while no other process can have its id.
            self._kill_group()
            return False

    def start(self) -> None:
        """Start it unless it runs. Raises `OSError`."""
        with self._lock:
            if self.running:
                return
            if self._prepare:
                self._prepare()
            self.wanted = True
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as output:
                self._log_start = output.seek(0, os.SEEK_END)
                guard = [sys.executable, "-I", "-S", str(_WRAPPER), str(os.getpid()), str(int(self._death_signal))]
                self._process = _starter.submit(
                    subprocess.Popen[bytes],
                    guard + self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._directory,
                    env=self.environment,
                    start_new_session=True,
                ).result()
            self.started_at = time.monotonic()

    def terminate(self) -> None:
        """Ask it to stop, without waiting for its end."""
        with self._lock:
            self.wanted = False
            self.signal(signal.SIGTERM)

    def stop(self, grace: float = 10.0) -> None:
        """Ask it to stop, and kill it after `grace` seconds, with its process group."""
        self.terminate()
        with contextlib.suppress(TimeoutError):  # then it is killed
            self.wait(grace)
        self.kill()

    def kill(self) -> None:
        """Kill its process group at once (-9). A supervisor starts it again unless it was asked to stop."""
        with self._lock:
            if self._process and self.running:
                self._kill_group()
                self._process.wait()

    def signal(self, number: int) -> None:
        """Send the process a signal if it runs."""
        with self._lock:
            if self._process and self.running:
                self._process.send_signal(number)

    def wait(self, timeout: float) -> None:
        """Wait until it has ended. Raises `TimeoutError` after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.running:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{self.name} is still running after {timeout:g} s")
            time.sleep(POLL_SECS)

    def how_it_ended(self) -> str:
        """`with status 1`, `by signal SIGKILL`."""
        status = self._process.poll() if self._process else None
        if status is None:
            return "not at all"
        return f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"

    def check(self) -> None:
        """Raise `ProcessDied`, with the end of its log, when it does not run."""
        if not self.running:
            raise ProcessDied(f"{self.name} ended {self.how_it_ended()}. The end of {self.log}:\n{self.tail(20)}")

    def _kill_group(self) -> None:
        # Perhaps none is left; macOS then says EPERM.
        if self._process:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def trim_log(self, most: int) -> None:
        """When its log has more than `most` bytes, move them to `<log>.1`. What is written meanwhile may be lost.

        Raises `OSError`.
        """
        try:
            if self.log.stat().st_size <= most:
                return
        except FileNotFoundError:
            return
        # The process goes on writing to the same file: it was opened to append.
        shutil.copyfile(self.log, self.log.with_name(f"{self.log.name}.1"))
        os.truncate(self.log, 0)
        self._log_start = 0

    def tail(self, lines: int) -> str:
        """The last lines of its log since its last start."""
        try:
            with self.log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - 65536))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            text = ""
        return "\n".join("    " + line for line in text.splitlines()[-lines:]) or "    (nothing)"


class Supervisor:
    """Starts children again that died. The pause before each start doubles.

    `say` is told of each end and start, and `changed` is called after a start.
    """

    def __init__(self, children: Iterable[Child], say: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._children = list(children)
        self._say = say
        self._changed = changed
        self._closing = threading.Event()
        self._delays: dict[Child, float] = {}
        self._due: dict[Child, float] = {}
        self._trim_at = 0.0  # time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        """Start the thread that watches the children."""
        self._thread.start()

    def close(self) -> None:
        """Stop to watch; the children go on."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._closing.wait(0.1):
            self._trim_logs()
            for child in self._children:
                if child.wanted and not child.running:
                    self._revive(child)

    def _trim_logs(self) -> None:
        if time.monotonic() < self._trim_at:
            return
        self._trim_at = time.monotonic() + TRIM_EVERY_SECS
        for child in self._children:
            try:
                child.trim_log(MOST_LOG_BYTES)
            except OSError as error:
                self._say(f"{child.log} can't be made shorter: {error}")

    def _revive(self, child: Child) -> None:
        now = time.monotonic()
        if child not in self._due:
            if now - child.started_at >= BACKOFF_RESET_SECS:
                self._delays.pop(child, None)
            delay = self._delays.get(child, BACKOFF_FIRST_SECS)
            self._delays[child] = min(delay * 2, BACKOFF_MOST_SECS)
            self._due[child] = now + delay
            self._say(f"{child.name} ended {child.how_it_ended()}, see {child.log}; starting it again in {delay:.1f} s")
        elif now >= self._due[child]:
            del self._due[child]
            try:
                child.start()
            except (OSError, ProcessDied) as error:
                self._say(f"{child.name} can't be started: {error}")
                return
            self._say(f"{child.name} started again, process {child.pid}")
            self._changed()
