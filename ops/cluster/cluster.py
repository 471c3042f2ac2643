"""A cluster: its parts, the order in which they start, and when it is healthy."""

from __future__ import annotations

import http.client
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

from broker import settings, topology
from broker.process import hold
from ops import http_client
from ops.cluster import network, state
from ops.cluster.errors import ClusterError, DirectoryInUse, NotHealthy
from ops.cluster.installation import MACHINE, Installation
from ops.cluster.processes import ROOT, Child, Supervisor
from ops.cluster.rabbitmq import Rabbit

HEALTHY_SECS = 60.0
NODE_SECS = 3.0  # more for each node at the start
STOP_SECS = 20.0  # open requests are answered first

# Settings that each process gets, whatever the environment says.
PER_PROCESS = (
    "PULZAR_SERVER_PORT",
    "PULZAR_SERVER_DIR",
    "PULZAR_VOLUME_NODE",
    "PULZAR_VOLUME_PORT",
    "PULZAR_VOLUME_DIR",
)

# The time that the children of a cluster that was killed may take to end.
LEFTOVER_SECS = 10.0


@dataclass
class Node:
    """A node of the cluster."""

    id: str
    url: str
    port: int
    directory: Path
    process: Child

    @property
    def host(self) -> str:
        """The host that it is reached at."""
        return urlsplit(self.url).hostname or ""


class Cluster:
    """RabbitMQ, a master and nodes in one directory; a context manager that starts and stops them.

    `base_port` is the port of the master; the others follow it. With `broker_url` that broker is used and none is
    started; else each process has a user of its own in RabbitMQ, by its role. With `role_urls` (user → URL) they have
    these in the one that was given. The processes get `environment`: its `PULZAR_…` settings win, except those in
    `PER_PROCESS`. With `supervise`, processes that die are started again. `say` is called with news for a person.
    `step` makes a context that shows how long something takes. Raises `ClusterError` or `SettingsError`.
    """

    def __init__(
        self,
        directory: Path,
        base_port: int,
        nodes: int = 2,
        broker_url: str | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        supervise: bool = False,
        rabbitmq: Installation = MACHINE,
        role_urls: Mapping[str, str] | None = None,
        say: Callable[[str], None] = lambda text: None,
        step: Callable[[str], Any] | None = None,
    ) -> None:
        if not 1 <= nodes <= network.MOST_NODES:
            raise ClusterError(f"a cluster has 1 to {network.MOST_NODES} nodes here, not {nodes}")
        if not 1 <= base_port <= network.LAST_BASE:
            raise ClusterError(f"the base of the ports is from 1 to {network.LAST_BASE}, not {base_port}")
        self.directory = directory.resolve()
        self.logs = self.directory / "logs"
        self.base_port = base_port
        self.broker_url = broker_url or ""  # with credentials; known when RabbitMQ runs
        self.role_urls = dict(role_urls or {})  # user of RabbitMQ → URL; empty: all use `broker_url`
        self.rabbit: Rabbit | None = None
        self.secret = ""
        self._environment = dict(environment)
        self._say = say
        self._step = step or _silent_step
        self._lock: int | None = None
        self._supervise = supervise
        self._supervisor: Supervisor | None = None

        if not broker_url:
            offsets = (network.AMQP, network.CONSOLE, network.DISTRIBUTION, network.EPMD)
            ports = [base_port + offset for offset in offsets]
            log = self.logs / "rabbitmq.log"
            self.rabbit = Rabbit(self.directory / "rabbitmq", *ports, log=log, installation=rabbitmq)
        # The processes listen on the loopback interface unless the environment or a file says otherwise.
        hosts = {} if environment.get(settings.CONFIG_VARIABLE) else _LOOPBACK
        self._environment = hosts | self._environment
        known = settings.load(environ=self._environment)
        self._given_secret: str = known.general.secret
        self.jobs = ROOT / known.jobs.dir  # the processes run there
        self.master_directory = self.directory / "master"
        self.master_url = _url(known.scheme(known.server), known.server.host, base_port)
        self.ca = known.security.ca
        self._environment |= {"PULZAR_SERVER_PORT": str(base_port), "PULZAR_SERVER_DIR": str(self.master_directory)}
        self.master = self._child("master", self._environment, "master")
        self.nodes: list[Node] = []
        for number in range(1, nodes + 1):
            id, port = f"node-{number}", base_port + number
            own = self.directory / id
            process = self._child(id, self._environment | _volume(known.volume.advertise, id, port, own), "node")
            self.nodes.append(Node(id, _url(known.scheme(known.volume), known.volume.host, port), port, own, process))

    @property
    def vhost(self) -> str:
        """The virtual host of RabbitMQ that the cluster uses."""
        return unquote(urlsplit(self.broker_url).path[1:]) or "/"

    @property
    def processes(self) -> list[Child]:
        """Every process of the cluster, in the order in which they start."""
        return (self.rabbit.children if self.rabbit else []) + self._own

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until it is healthy. When this fails, call `stop`. Raises `ClusterError`."""
        self._take_directory()
        if self.rabbit:
            with self._step("starting RabbitMQ"):
                self.rabbit.start()
            if self.rabbit.anew:
                self._say(f"RabbitMQ began anew: {self.rabbit.anew}. Jobs and keys come again from ledger and logs")
            self.broker_url = self.rabbit.url()
            self.role_urls = self.rabbit.make_roles(node.id for node in self.nodes)
        with self._step(f"starting the master and {len(self.nodes)} node{'s' * (len(self.nodes) > 1)}"):
            for child in self._own:
                self._start(child)
            self.wait_healthy(HEALTHY_SECS + NODE_SECS * len(self.nodes))
        if self._supervise:
            self._supervisor = Supervisor(self.processes, self._say, self._write_state)
            self._supervisor.start()

    def stop(self) -> None:
        """Stop everything in order, and wait until it has ended."""
        if self._supervisor:
            self._supervisor.close()
            self._supervisor = None
        for child in self._own:
            child.terminate()
        deadline = time.monotonic() + STOP_SECS
        for child in self._own:
            child.stop(max(0.0, deadline - time.monotonic()))
        if self.rabbit:
            self.rabbit.stop()
        if self._lock is not None:
            self._write_state(running=False)
            os.close(self._lock)
            self._lock = None

    def kill(self) -> None:
        """Kill every process at once (-9)."""
        for child in self.processes:
            child.kill()

    def wait_healthy(self, timeout: float = HEALTHY_SECS) -> None:
        """Wait until the master is ready and in synch with every node that was started.

        Raises `NotHealthy` after `timeout` seconds, and `ProcessDied` when one of them has ended.
        """
        seen: list[str] = []

        def healthy() -> bool:
            if not self._supervisor:
                for child in self.processes:
                    if child.wanted:
                        child.check()
            started = [node for node in self.nodes if node.process.wanted]
            silent = [node.id for node in started if not network.answers(node.host, node.port)]
            health = self.health()
            in_synch = health.get("nodes")
            seen[:] = [f"/health: {health or 'no answer'}", f"not listening: {', '.join(silent) or 'none'}"]
            return not silent and health.get("ready") is True and isinstance(in_synch, int) and in_synch >= len(started)

        if not network.wait_until(healthy, timeout):
            raise NotHealthy(f"not healthy after {timeout:g} s ({'; '.join(seen)}); the logs are in {self.logs}")

    def health(self) -> dict[str, Any]:
        """The data of the master's /health; empty when it does not respond."""
        try:
            data = http_client.ask("GET", f"{self.master_url}/health", timeout=5, ca=self.ca).data
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
            return {}
        return data if isinstance(data, dict) else {}

    def start_master(self) -> None:
        """Start the master, and don't wait for it."""
        self._start(self.master)

    def kill_master(self) -> None:
        """Kill the master and all of its processes at once (-9)."""
        self.master.kill()

    def stop_master(self) -> None:
        """Stop the master in order."""
        self.master.stop(STOP_SECS)

    def start_node(self, index: int) -> None:
        """Start a node, and don't wait for it."""
        self._start(self.nodes[index].process)

    def kill_node(self, index: int) -> None:
        """Kill a node and all of its processes at once (-9)."""
        self.nodes[index].process.kill()

    def stop_node(self, index: int) -> None:
        """Stop a node in order."""
        self.nodes[index].process.stop(STOP_SECS)

    def describe(self, running: bool) -> dict[str, Any]:
        """What `cluster.json` says of it, passwords included."""
        rabbit = self.rabbit
        broker = urlsplit(self.broker_url)
        return {
            "running": running,
            "pid": os.getpid(),
            "directory": str(self.directory),
            "logs": str(self.logs),
            "master": {
                "url": self.master_url,
                "port": self.base_port,
                "pid": self.master.pid,
                "directory": str(self.master_directory),
            },
            "nodes": [
                {
                    "id": node.id,
                    "url": node.url,
                    "port": node.port,
                    "pid": node.process.pid,
                    "directory": str(node.directory),
                }
                for node in self.nodes
            ],
            "broker": {
                "url": self.broker_url,
                "host": broker.hostname,
                "port": broker.port,
                "user": unquote(broker.username or ""),
                "password": unquote(broker.password or ""),
                "vhost": self.vhost,
                "pid": rabbit.process.pid if rabbit else None,
                # Who has these may launch jobs through the exchange pulzar.launch, and nothing else.
                "publisher": self.role_urls.get(topology.PUBLISHER_USER),
            },
            # Of a broker that was given, the console isn't known.
            "console": {
                "url": rabbit.console_url,
                "port": rabbit.console_port,
                "user": rabbit.user,
                "password": rabbit.password,
            }
            if rabbit
            else None,
            "secret": self.secret,
        }

    @property
    def _own(self) -> list[Child]:
        return [self.master, *(node.process for node in self.nodes)]

    def _start(self, child: Child) -> None:
        user = topology.MASTER_USER if child is self.master else topology.node_user(child.name)
        child.environment["PULZAR_BROKER_URL"] = self.role_urls.get(user, self.broker_url)
        child.environment["PULZAR_GENERAL_SECRET"] = self.secret
        if child is self.master and (rabbit := self.rabbit):
            login = f"http://{rabbit.user}:{rabbit.password}@"
            child.environment.setdefault("PULZAR_BROKER_CONSOLE", rabbit.console_url.replace("http://", login, 1))
        child.start()
        self._write_state()

    def _child(self, name: str, environment: Mapping[str, str], module: str) -> Child:
        return Child(name, [sys.executable, "-m", module], environment, self.logs / f"{name}.log")

    def _take_directory(self) -> None:
        new = not self.directory.exists()
        try:
            self.directory.mkdir(0o700, parents=True, exist_ok=True)
            self._lock = hold(self.directory)
        except BlockingIOError:
            raise DirectoryInUse(
                f"another ops/up is running on {self.directory}; stop it, or choose another directory with --data DIR"
            ) from None
        except OSError as error:
            raise ClusterError(f"the data directory {self.directory} can't be used: {error.strerror}") from error
        try:
            self._look_around()
        except BaseException:
            if new:  # nothing was started, so nothing stays
                os.close(self._lock)
                self._lock = None
                self.directory.rmdir()
            raise

    def _look_around(self) -> None:
        """Make sure that the cluster can start here. Raises `ClusterError`."""
        for directory in (self.logs, self.master_directory, *(node.directory for node in self.nodes)):
            if directory.is_dir():  # older ones were not private
                directory.chmod(0o700)
        before = state.read(self.directory)
        ports = {"master": self.base_port} | {node.id: node.port for node in self.nodes}
        if self.rabbit:
            b = self.base_port
            ports |= {"RabbitMQ": b + network.AMQP, "RabbitMQ's console": b + network.CONSOLE}
            ports |= {"Erlang distribution": b + network.DISTRIBUTION, "epmd": b + network.EPMD}
        network.require(ports, patience=LEFTOVER_SECS if before.get("running") else 0.0)
        secret = before.get("secret")
        self.secret = self._given_secret or (secret if isinstance(secret, str) and secret else secrets.token_hex(16))

    def _write_state(self, running: bool = True) -> None:
        state.write(self.directory, self.describe(running))


_LOOPBACK = {"PULZAR_SERVER_HOST": "127.0.0.1", "PULZAR_VOLUME_HOST": "127.0.0.1"}


def _volume(advertised: str, id: str, port: int, directory: Path) -> dict[str, str]:
    own = {"PULZAR_VOLUME_NODE": id, "PULZAR_VOLUME_PORT": str(port), "PULZAR_VOLUME_DIR": str(directory)}
    if advertised:
        # Each node needs an address of its own: the host stays, with the port of the node.
        own["PULZAR_VOLUME_ADVERTISE"] = f"{advertised.rpartition(':')[0]}:{port}"
    return own


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{settings.joined(settings.reachable(host), port)}"


@contextmanager
def _silent_step(what: str) -> Iterator[None]:
    yield
