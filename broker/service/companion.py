"""The companion process beside a web server: the master's controller, or a node's agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from broker import logs, process, settings
from broker.backoff import Backoff
from broker.errors import PulzarError

log = logs.get(__name__)

UNUSABLE = 2  # exit status: the configuration or the directory can't be used, and couldn't the next time
_STEADY_SECS = 10.0


class Companion(Protocol):
    """What runs in a companion process."""

    def run(self) -> int:
        """Work until `stop` is called; returns the exit status."""

    def stop(self) -> None:
        """Make `run` return soon; called in a signal handler."""


def run_companion(role: str, program: str, make: Callable[[settings.Settings], Companion]) -> int:
    """Make a companion and run it until SIGTERM; returns its exit status, or `UNUSABLE`."""
    process.die_with_parent(signal.SIGTERM)
    try:
        config = settings.load()
        logs.setup(config.general.log_level, role)
        companion = make(config)
    except PulzarError as error:
        print(f"pulzar {program}: {error}", file=sys.stderr)
        return UNUSABLE
    signal.signal(signal.SIGTERM, lambda *_: companion.stop())
    signal.signal(signal.SIGINT, lambda *_: companion.stop())
    process.collect_rarely()
    log.info(f"{role} started")
    status = companion.run()
    log.info(f"{role} stopped")
    return status


class CompanionKeeper:
    """Runs a companion module as a process of its own, and starts it again whenever it ends.

    A companion that ends with `UNUSABLE` is not started again. This process then gets SIGTERM.
    """

    def __init__(self, module: str) -> None:
        self.stopping = threading.Event()
        self.status = 0  # the exit status of the service
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep, name="companion", daemon=True)

    def start(self) -> None:
        """Start the companion."""
        self._thread.start()

    def stop(self, secs: float) -> None:
        """End the companion; it is killed when it has not ended after `secs` seconds."""
        self.stopping.set()
        if self._process and self._process.poll() is None:
            self._process.terminate()
        self._thread.join(secs)
        if self._process and self._process.poll() is None:
            log.warning("companion did not stop in time; killed", module=self._module)
            self._process.kill()

    def _keep(self) -> None:
        backoff = Backoff(_STEADY_SECS)
        while not self.stopping.is_set():
            started = time.monotonic()
            self._process = subprocess.Popen([sys.executable, "-m", self._module])
            status = self._process.wait()
            if self.stopping.is_set():
                return
            pause = backoff.pause(time.monotonic() - started)
            if status == UNUSABLE:  # its own last line says why
                self.status = status
                self.stopping.set()
                os.kill(os.getpid(), signal.SIGTERM)
                return
            log.error("companion ended; starting it again", module=self._module, status=status, after=pause)
            self.stopping.wait(pause)
