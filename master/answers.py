"""The local way between the controller and the web workers of one master: a Unix socket.

The controller tells every worker what became of the commands its requests wait for, as soon as the index
says so. Frames are those of `multiprocessing.connection`, their content is msgpack, never pickle.

    worker → controller   ["hello", origin]              "answers for this origin go here"
                          ["restore", node]              "apply this node's log from its beginning"
    controller → worker   [[ticket, status, reason], …]
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import msgpack

from broker import logs
from broker.messages import Status

log = logs.get(__name__)

_RETRY_SECS = 0.05


class AnswerServer:
    """The controller's end. `requests` gets what workers ask for."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._listener = Listener(str(path), "AF_UNIX", backlog=64)
        path.chmod(0o600)
        self._workers: dict[str, Connection] = {}
        self.requests: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        threading.Thread(target=self._accept, name="answers", daemon=True).start()

    def send(self, answers: Iterable[tuple[str, int, Status, str]]) -> None:
        """Tell every origin what became of its commands; an origin that is gone is left out."""
        by_origin: dict[str, list[tuple[int, int, str]]] = {}
        for origin, ticket, status, reason in answers:
            by_origin.setdefault(origin, []).append((ticket, status, reason))
        for origin, lines in by_origin.items():
            connection = self._workers.get(origin)
            if connection is None:
                continue
            try:
                connection.send_bytes(msgpack.packb(lines))
            except OSError as error:
                log.warning("a web worker is gone", origin=origin, error=error)
                self._workers.pop(origin, None)

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError as error:
                log.error("the socket for web workers failed", error=error)
                return
            threading.Thread(target=self._serve, args=(connection,), name="answers-worker", daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        origin = ""
        try:
            while True:
                request = msgpack.unpackb(connection.recv_bytes())
                if request[0] == "hello":
                    origin = request[1]
                    self._workers[origin] = connection
                else:
                    self.requests.put(request)
        except (EOFError, OSError):
            if self._workers.get(origin) is connection:
                del self._workers[origin]
            connection.close()


class AnswerClient:
    """A worker's end, connected again whenever the controller comes back."""

    def __init__(self, path: Path, origin: str, on_answers: Callable[[list[tuple[int, int, str]]], None]) -> None:
        self._path = path
        self._origin = origin
        self._on_answers = on_answers
        self._connection: Connection | None = None
        threading.Thread(target=self._run, name="answers", daemon=True).start()

    @property
    def connected(self) -> bool:
        """Whether the controller is there."""
        return self._connection is not None

    def ask(self, *request: Any) -> bool:
        """Send a request to the controller; False when it is not there."""
        connection = self._connection
        if connection is None:
            return False
        try:
            connection.send_bytes(msgpack.packb(request))
        except OSError as error:
            log.warning("the controller is gone", error=error)
            return False
        return True

    def _run(self) -> None:
        while True:
            try:
                connection = Client(str(self._path), "AF_UNIX")
                connection.send_bytes(msgpack.packb(["hello", self._origin]))
            except OSError:  # not there yet, or gone; it is being started again
                time.sleep(_RETRY_SECS)
                continue
            self._connection = connection
            try:
                while True:
                    self._on_answers(msgpack.unpackb(connection.recv_bytes()))
            except (EOFError, OSError):
                log.warning("lost the controller")
            self._connection = None
            connection.close()
