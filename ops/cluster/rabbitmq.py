"""A private RabbitMQ: its own node, user, ports and files, on the loopback interface only.

Any number of them run beside each other and beside the machine's own, as root or as an ordinary user. Each has an
epmd (Erlang's name server) of its own, so all have the same node name. The files of RabbitMQ's database depend on it.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from broker import topology
from broker.rights import definitions, password
from ops import http_client
from ops.cluster import files
from ops.cluster.errors import ConsoleError, NotHealthy, ProcessDied
from ops.cluster.installation import MACHINE, Installation
from ops.cluster.network import answers, wait_until
from ops.cluster.processes import Child

HOST = "127.0.0.1"
USER = "pulzar"

START_SECS = 90.0
STOP_SECS = 15.0

# In the log of a RabbitMQ that can't use the files of another version: 4.x those of 3.10, 3.10 those of 4.0.
_REFUSAL_LINES = 200
_REFUSALS = ("failed_to_initialize_feature_flags_registry", "schema_integrity_check_failed")

# The first bytes of a client, and the first of a broker that is ready (a method on channel 0).
_AMQP_HELLO = b"AMQP\x00\x00\x09\x01"
_AMQP_ANSWER = b"\x01\x00\x00"


class Rabbit:
    """A RabbitMQ with its files in `directory`. `installation` has its programs."""

    def __init__(
        self,
        directory: Path,
        amqp_port: int,
        console_port: int,
        dist_port: int,
        epmd_port: int,
        *,
        log: Path | None = None,
        installation: Installation = MACHINE,
        configuration: str = "",
    ) -> None:
        """`configuration` are lines of `rabbitmq.conf` besides our own."""
        self.directory = directory.resolve()
        self.amqp_port = amqp_port
        self.console_port = console_port
        self.user = USER
        self.password = ""
        self.console_url = f"http://{HOST}:{console_port}/"
        self.anew = ""  # why it began with empty queues, if it did
        self._installation = installation
        self._more = configuration
        self._dist_port = dist_port
        self._epmd_port = epmd_port
        log = log or self.directory / "rabbitmq.log"
        environment = self._environment()
        epmd = installation.run_epmd("-port", str(epmd_port), "-address", HOST)
        server = installation.run_server(self.directory)
        self.epmd = Child("epmd", epmd, environment, log.with_name("epmd.log"), death_signal=signal.SIGKILL)
        self.process = Child("rabbitmq", server, environment, log, prepare=self._prepare)

    @property
    def _files(self) -> Path:
        return self.directory / "mnesia"

    @property
    def children(self) -> list[Child]:
        """Both of its processes, for a supervisor."""
        return [self.epmd, self.process]

    def url(self, vhost: str = "/", user: str = "", password: str = "") -> str:
        """The AMQP URL of a virtual host, with the credentials of a user or of the administrator."""
        login = f"{user or self.user}:{password or self.password}"
        return f"amqp://{login}@{HOST}:{self.amqp_port}/{quote(vhost, safe='')}"

    def start(self) -> None:
        """Start it and wait until it is ready. Puts files aside that it can't use. Raises `ClusterError`."""
        self._installation.check()
        self.process.start()
        try:
            self.wait_ready()
        except ProcessDied:
            if not self._files.is_dir() or not any(word in self.process.tail(_REFUSAL_LINES) for word in _REFUSALS):
                raise
            self._put_aside()
            self.process.start()
            self.wait_ready()

    def wait_ready(self, timeout: float = START_SECS) -> None:
        """Wait until it takes AMQP connections and the console responds, at most `timeout` seconds.

        Raises `NotHealthy` or `ProcessDied`.
        """

        def ready() -> bool:
            self.process.check()
            return self._greets() and self._console_answers()

        if not wait_until(ready, timeout):
            raise NotHealthy(f"RabbitMQ is not ready after {timeout:g} s; its log: {self.process.log}")

    def stop(self, grace: float = STOP_SECS) -> None:
        """Stop it in order, and kill it after `grace` seconds."""
        self.process.stop(grace)
        # epmd needs no time to end.
        self.epmd.wanted = False
        self.epmd.kill()

    def kill(self) -> None:
        """Kill the broker at once (-9)."""
        self.process.kill()

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Ask the console's HTTP API; the JSON of the response. `path` follows `/api/`. Raises `ConsoleError`."""
        login = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        sent = None if body is None else json.dumps(body).encode()
        try:
            reply = http_client.ask(method, f"{self.console_url}api/{path}", sent, headers, timeout=10)
        except (OSError, http.client.HTTPException) as error:
            raise ConsoleError(f"{method} /api/{path}: the console can't be reached: {error}") from error
        if reply.status >= 300:
            raise ConsoleError(f"{method} /api/{path}: {reply.status} {reply.text}")
        return json.loads(reply.body) if reply.body else None

    def create_vhost(self, name: str) -> None:
        """Make a virtual host, so that one more cluster disturbs no other."""
        self.api("PUT", f"vhosts/{quote(name, safe='')}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.api("PUT", f"permissions/{quote(name, safe='')}/{self.user}", everything)

    def make_roles(self, nodes: Iterable[str], vhost: str = "/") -> dict[str, str]:
        """Make a user for the master, each node and publishers in a virtual host; the AMQP URL of each user.

        A user has the same password each time. Users of other virtual hosts with the same names get it, too.
        """
        users = [topology.MASTER_USER, topology.PUBLISHER_USER, *map(topology.node_user, nodes)]
        passwords = {user: password(self.password, user) for user in users}
        self.api("POST", "definitions", definitions(vhost, passwords, os.urandom(4)))
        return {user: self.url(vhost, user, passwords[user]) for user in users}

    def delete_vhost(self, name: str) -> None:
        """Remove a virtual host, its queues and its connections."""
        self.api("DELETE", f"vhosts/{quote(name, safe='')}")

    def _environment(self) -> dict[str, str]:
        at = self._installation.seen_as(self.directory)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | {
            # The folder of .erlang.cookie, the secret of Erlang programs that talk to each other.
            "HOME": str(at),
            # An address, so no name is resolved.
            "RABBITMQ_NODENAME": f"pulzar@{HOST}",
            "RABBITMQ_USE_LONGNAME": "true",
            # Debian's files are for the machine's own broker.
            "RABBITMQ_CONF_ENV_FILE": str(at / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(at / "mnesia"),
            "RABBITMQ_PID_FILE": str(at / "rabbitmq.pid"),
            "RABBITMQ_LOG_BASE": str(at),
            "RABBITMQ_LOGS": "-",  # standard output, which goes to the log
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP": str(at / "erl_crash.dump"),
            # With this the script becomes the Erlang machine, so there is one process to watch.
            "RUNNING_UNDER_SYSTEMD": "true",
            # Idle schedulers do not spin, and none is pinned to a core, for other processes need them too. Erlang
            # starts no epmd, which would stay behind.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none +sbt u"
            " -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
        }

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self._follow_a_move()
        credentials = self.directory / "credentials.json"
        if not credentials.exists():
            files.write(credentials, json.dumps({"user": USER, "password": secrets.token_hex(16)}) + "\n")
        self.password = json.loads(credentials.read_text())["password"]
        configuration = f"""\
# Made anew at each start.
listeners.tcp.1 = {HOST}:{self.amqp_port}
management.tcp.ip = {HOST}
management.tcp.port = {self.console_port}
default_user = {self.user}
default_pass = {self.password}
default_user_tags.administrator = true
{self._more}"""
        files.write(self.directory / "rabbitmq.conf", configuration)
        files.write(self.directory / "enabled_plugins", "[rabbitmq_management].\n")
        self.epmd.start()
        if not wait_until(lambda: not self.epmd.running or answers(HOST, self._epmd_port), 10):
            raise NotHealthy(f"epmd does not answer on port {self._epmd_port}; its log: {self.epmd.log}")
        self.epmd.check()

    def _follow_a_move(self) -> None:
        """Delete the files when they were made elsewhere: quorum queues break in a directory that was moved or copied.

        Nothing is lost: the ledger publishes its jobs again, and the nodes' logs are replayed.
        """
        place = self.directory / "place"
        if self._files.is_dir() and place.is_file() and place.read_text() != str(self.directory):
            shutil.rmtree(self._files)
            self.anew = "its files were made in another directory, and it can't use them here"
        files.write(place, str(self.directory))

    def _put_aside(self) -> None:
        """Begin without files. The old ones stay beside them, for the version that made them."""
        kept = self.directory / "mnesia.before"
        shutil.rmtree(kept, ignore_errors=True)
        self._files.rename(kept)
        self.anew = f"its files are of another version, which this one can't use; they are in {kept}"

    def _greets(self) -> bool:
        try:
            with socket.create_connection((HOST, self.amqp_port), timeout=1) as connection:
                connection.sendall(_AMQP_HELLO)
                return connection.recv(3) == _AMQP_ANSWER
        except OSError:  # it does not listen yet
            return False

    def _console_answers(self) -> bool:
        try:
            self.api("GET", "whoami")
        except ConsoleError:  # not yet
            return False
        return True
