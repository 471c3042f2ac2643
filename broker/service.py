"""How a service of Pulzar runs: a web server and one companion process beside it.

The master's companion is the controller, a node's is the agent. The main process keeps both alive and
ends both; they in turn never outlive it, even when it is killed with -9.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server import Server

from broker import logs, settings
from broker.errors import PulzarError, SettingsError

log = logs.get(__name__)

STOP_SECS = 8  # for requests under way
BACKLOG = 1024
CONNECTIONS = 20_000  # most of one web worker, idle ones too
_BACKOFF_FIRST_SECS = 0.1
_BACKOFF_MOST_SECS = 5.0
_STEADY_SECS = 10.0
_PR_SET_PDEATHSIG = 1


def parse_arguments(program: str, description: str) -> settings.Settings:
    """The settings, from the file that `--config` names and the environment; child processes get the same."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--config", type=Path, help="configuration file; see ops/server.conf", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.config:
        os.environ[settings.CONFIG_VARIABLE] = str(arguments.config.resolve())
    return settings.load()


def workers(config: settings.Settings) -> int:
    """How many web workers a master has."""
    return config.server.workers or max(1, (os.cpu_count() or 1) // 2)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process the signal when its parent is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal_number)


def raise_open_files() -> None:
    """Let this process have as many open files as it may: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Companion(Protocol):
    """What runs beside the web server: the controller or the agent."""

    def run(self) -> int:
        """Work until `stop`; the exit status."""

    def stop(self) -> None:
        """Have `run` return soon."""


def run_companion(role: str, program: str, make: Callable[[settings.Settings], Companion]) -> int:
    """Make a companion and run it until SIGTERM; exit status 2 when it can't use its configuration, else its own."""
    die_with_parent(signal.SIGTERM)
    try:
        config = settings.load()
        logs.setup(config.general.log_level, role)
        companion = make(config)
    except PulzarError as error:
        print(f"pulzar {program}: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: companion.stop())
    signal.signal(signal.SIGINT, lambda *_: companion.stop())
    log.info(f"{role} started")
    status = companion.run()
    log.info(f"{role} stopped")
    return status


class _NoCrashLoops(dict[int, float]):
    """When Granian started each worker again: never, so that one that is killed twice in five seconds comes back too.

    Granian would end the whole server instead, and break every connection of the other workers.
    """

    def get(self, _worker: int, default: Any = 0.0) -> Any:
        """Long ago."""
        return default


class Service:
    """A web server that runs `target`, a factory of an application, and the companion module beside it.

    `interface` is what the application speaks. HTTP/1.1 alone is served: with HTTP/2 the server takes a body of
    unknown length for none.
    """

    def __init__(self, target: str, interface: Interfaces, companion: str, host: str, port: int, workers: int) -> None:
        self._companion = companion
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._status = 0
        self._target = target
        self._address = _address(host, port)
        self._port = port
        self._workers = workers
        self._interface = interface

    def _server(self) -> Any:
        return Server(
            self._target,
            address=self._address,
            port=self._port,
            interface=self._interface,
            http=HTTPModes.http1,
            workers=self._workers,
            backlog=BACKLOG,
            backpressure=CONNECTIONS,
            http1_settings=HTTP1Settings(header_read_timeout=60_000),
            websockets=False,
            respawn_failed_workers=True,
            respawn_interval=0.2,
            workers_kill_timeout=STOP_SECS,
            log_enabled=False,
            factory=True,
        )

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit status."""
        # A fork would copy the lock states of this process's threads.
        multiprocessing.set_start_method("spawn", force=True)
        keeper = threading.Thread(target=self._keep, name="companion", daemon=True)
        keeper.start()
        try:
            self._serve()
        finally:
            self._stopping.set()
            if self._process and self._process.poll() is None:
                self._process.terminate()
            keeper.join(STOP_SECS)
            if self._process and self._process.poll() is None:
                log.warning("companion did not stop in time; killed", module=self._companion)
                self._process.kill()
        return self._status

    def _serve(self) -> None:
        """Serve until a signal to stop; should the server end before that, it is made anew."""
        while not self._stopping.is_set():
            server = self._server()
            server.respawned_wrks = _NoCrashLoops()
            with suppress(SystemExit):
                server.serve()
            if server.interrupt_signal:
                return
            log.error("the web server ended; starting it anew")
            self._stopping.wait(_BACKOFF_FIRST_SECS)

    def _keep(self) -> None:
        """Start the companion, and again whenever it ends."""
        backoff = _BACKOFF_FIRST_SECS
        while not self._stopping.is_set():
            started = time.monotonic()
            self._process = subprocess.Popen([sys.executable, "-m", self._companion])
            status = self._process.wait()
            if self._stopping.is_set():
                return
            if time.monotonic() - started > _STEADY_SECS:
                backoff = _BACKOFF_FIRST_SECS
            log.error("companion ended; starting it again", module=self._companion, status=status, after=backoff)
            if status == 2:  # it can't use its configuration or its directory, and won't the next time
                self._status = status
                self._stopping.set()
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, _BACKOFF_MOST_SECS)


def _address(host: str, port: int) -> str:
    """The IP address of the host, after a look whether the port is free: a clear error beats a late one."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)[0]
        if host == "localhost":
            family, address = socket.AF_INET, ("127.0.0.1", port)
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise SettingsError(f"can't listen on {host}:{port}: {error.strerror or error}") from error
    return str(address[0])
