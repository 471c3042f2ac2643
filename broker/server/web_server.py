"""The web server: Granian, told how to serve, kept from ending by itself, and given renewed certificates.

Assumed of Granian 2.8, and held by tests/unit/test_granian.py and tests/integration/test_tls.py:

- `respawned_wrks` maps each worker to the time it was started again, read with `get`.
- `interrupt_signal` is true when a signal has ended `serve`.
- `reload_signal` with `main_loop_interrupt` has it call `_respawn_workers` for all workers. `ssl_ctx` is handed to each
  worker that starts. A worker that is terminated completes the requests that it has.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import psutil
from granian.constants import HTTPModes, Interfaces, SSLProtocols
from granian.http import HTTP1Settings
from granian.server.mp import MPServer

from broker import logs
from broker.errors import SettingsError
from broker.tls.certificates import SOON_SECS, CertificateFiles, day

log = logs.get(__name__)

STOP_SECS = 8  # for requests under way
BACKLOG = 1024
CONNECTIONS = 20_000  # most of one web worker, idle ones too
LOOK_SECS = 2.0  # between two looks at the certificate
DRAIN_SECS = 6 * 3600.0  # for requests under way at a worker with an old certificate; an upload may take long
_START_SECS = 60.0  # until a worker listens
_HANDSHAKE_SECS = 2.0  # for those that have just connected
_PAUSE_SECS = 0.05


class NoCrashLoops(dict[int, float]):
    """When Granian started each worker again: never, so that one that is killed twice in five seconds comes back too.

    Granian would end the whole server instead, and break every connection of the other workers.
    """

    def get(self, _worker: int, default: float = 0.0) -> float:  # type: ignore[override]
        """Returns `default`, which is long ago."""
        return default


class ReplacingServer(MPServer):
    """Granian, whose workers are replaced while the old ones complete what they have begun."""

    def __init__(self, target: str, **options: Any) -> None:
        super().__init__(target, **options)
        self._old: list[Any] = []  # workers that complete their requests

    def replace_workers(self) -> None:
        """Have all workers replaced; thread-safe."""
        self.reload_signal = True
        self.main_loop_interrupt.set()

    def _respawn_workers(
        self, workers: Iterable[int], spawn_target: Any, target_loader: Any, delay: float = 0.0
    ) -> None:
        for index in workers:
            old: Any = self.wrks[index]
            new: Any = self._spawn_worker(idx=index, target=spawn_target, callback_loader=target_loader)
            self.wrks[index] = new
            new.start()
            if not old.is_alive():
                old.join()
                continue
            if not self._wait_listening(new):
                log.error("a worker with the new certificate does not listen; the old one stays")
                self.wrks[index] = old
                new.kill()
                continue
            time.sleep(_HANDSHAKE_SECS)  # the old one gets no new connections, see `connections.guard`
            old.terminate()
            self._old.append(old)
            threading.Thread(target=self._drain, args=(old,), name="drain", daemon=True).start()

    def _wait_listening(self, worker: Any) -> bool:
        deadline = time.monotonic() + _START_SECS
        while time.monotonic() < deadline and worker.is_alive() and not self.interrupt_signal:
            with suppress(psutil.Error):  # it has just ended
                for connection in psutil.Process(worker.inner.pid).net_connections("tcp"):
                    if connection.status == psutil.CONN_LISTEN and connection.laddr.port == self.bind_port:
                        return True
            time.sleep(_PAUSE_SECS)
        return False

    def _drain(self, worker: Any) -> None:
        worker.join(DRAIN_SECS)
        if worker.is_alive():
            worker.kill()

    def _stop_workers(self) -> None:
        self.wrks += [worker for worker in self._old if worker.is_alive()]
        self._old.clear()
        super()._stop_workers()  # type: ignore[no-untyped-call]


class Place(NamedTuple):
    """Where a web server listens, and its certificate."""

    host: str
    port: int
    certificate: CertificateFiles | None = None  # None: no TLS


class WebServer:
    """The web server of a service.

    HTTP/1.1 alone is served: with HTTP/2 Granian takes a body of unknown length for none.
    """

    def __init__(self, target: str, interface: Interfaces, place: Place, workers: int) -> None:
        """`target` names a factory of an application as `module:function`; `interface` is what that speaks.

        Raises `SettingsError` when the port can't be listened on, or the certificate can't be used.
        """
        self._target = target
        self._interface = interface
        self._address = _address(place.host, place.port)
        self._port = place.port
        self._workers = workers
        self._certificate = place.certificate
        if self._certificate:
            self._certificate.take()

    def serve(self) -> bool:
        """Serve until a signal to stop comes: True. False: the server ended for another reason."""
        path = self._certificate.path if self._certificate else None
        server = ReplacingServer(
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
            ssl_cert=path,
            ssl_key=path,
            ssl_protocol_min=SSLProtocols.tls12,
        )
        server.respawned_wrks = NoCrashLoops()
        ended = threading.Event()
        if path:
            threading.Thread(target=self._watch, args=(server, ended), name="certificate", daemon=True).start()
        try:
            with suppress(SystemExit):  # how Granian says that its workers could not be started
                server.serve()
        finally:
            ended.set()
        return bool(server.interrupt_signal)

    def _watch(self, server: ReplacingServer, ended: threading.Event) -> None:
        """Take a renewed certificate, and warn of one that ends soon."""
        assert self._certificate is not None
        warned, wrong = 0.0, ""
        while not ended.wait(LOOK_SECS):
            if self._certificate.until - time.time() < SOON_SECS and time.time() - warned > 86_400:
                warned = time.time()
                log.warning("the certificate ends soon; renew it", until=day(self._certificate.until))
            if not self._certificate.changed():
                continue
            try:
                if self._certificate.take():
                    renewed = self._certificate.path
                    context: Any = (True, str(renewed), str(renewed), *server.ssl_ctx[3:])
                    server.ssl_ctx = context
                    log.info("the certificate was renewed", until=day(self._certificate.until))
                    server.replace_workers()
                wrong = ""
            except SettingsError as error:
                if str(error) != wrong:
                    log.error("the new certificate can't be used, the old one stays", reason=error)
                wrong = str(error)


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
