"""The web server: Granian, told how to serve, and kept from ending by itself.

Assumed of Granian 2.8: `Server.respawned_wrks` maps each worker to the time it was started again, read with `get`; and
`Server.interrupt_signal` is true when a signal has ended `serve`. tests/unit/test_granian.py holds both.
"""

from __future__ import annotations

import socket
from contextlib import suppress

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server import Server

from broker.errors import SettingsError

STOP_SECS = 8  # for requests under way
BACKLOG = 1024
CONNECTIONS = 20_000  # most of one web worker, idle ones too


class NoCrashLoops(dict[int, float]):
    """When Granian started each worker again: never, so that one that is killed twice in five seconds comes back too.

    Granian would end the whole server instead, and break every connection of the other workers.
    """

    def get(self, _worker: int, default: float = 0.0) -> float:  # type: ignore[override]
        """Returns `default`, which is long ago."""
        return default


class WebServer:
    """The web server of a service.

    HTTP/1.1 alone is served: with HTTP/2 Granian takes a body of unknown length for none.
    """

    def __init__(self, target: str, interface: Interfaces, host: str, port: int, workers: int) -> None:
        """`target` names a factory of an application as `module:function`; `interface` is what that speaks.

        Raises `SettingsError` when the port can't be listened on.
        """
        self._target = target
        self._interface = interface
        self._address = _address(host, port)
        self._port = port
        self._workers = workers

    def serve(self) -> bool:
        """Serve until a signal to stop comes: True. False: the server ended for another reason."""
        server = Server(
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
        server.respawned_wrks = NoCrashLoops()
        with suppress(SystemExit):  # how Granian says that its workers could not be started
            server.serve()
        return bool(server.interrupt_signal)


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
