"""The local way between the controller and the web workers of one master: a Unix socket.

The controller tells every worker what became of the commands its requests wait for, as soon as the index
says so; and workers ask the controller, which alone writes index and ledger, to do things. Frames are those of
`multiprocessing.connection`, their content is msgpack, never pickle.

    worker → controller   ["hello", origin]                     "answers for this origin go here"
                          ["call", number, name, arguments]     "do this, and say what came of it"
    controller → worker   ["answers", [[ticket, status, reason], …]]
                          ["reply", number, status, data]       200 and what came of it, else why not
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from broker import logs
from broker.errors import Unsendable
from broker.messages.store import Status
from broker.refusals import Refused, Unavailable, refusal

log = logs.get(__name__)

CALL_SECS = 10.0  # a worker waits for a reply
_RETRY_SECS = 0.05


def _pack(frame: list[Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(frame, unicode_errors="backslashreplace")
    except (TypeError, ValueError, OverflowError) as error:
        raise Unsendable(f"a frame can't be packed: {error}") from error
    return packed


class ControllerCall(NamedTuple):
    """What a worker asks for. One of `reply` and `refuse` is to be called, once."""

    name: str
    arguments: list[Any]
    origin: str
    number: int
    connection: Connection

    def reply(self, data: Any) -> None:
        """It is done."""
        self._send(200, data)

    def refuse(self, error: Refused) -> None:
        """It is not."""
        self._send(error.status, str(error))

    def _send(self, status: int, data: Any) -> None:
        try:
            frame = _pack(["reply", self.number, status, data])
        except Unsendable as error:
            # It has been done: to raise here would have it done again.
            log.error("a reply can't be packed", call=self.name, error=error)
            frame = _pack(
                ["reply", self.number, 503, "the master's controller can't say what came of it; its log says why"]
            )
        try:
            self.connection.send_bytes(frame)
        except OSError as error:
            log.warning("a web worker is gone", origin=self.origin, error=error)


class ControllerServer:
    """The controller's end. `on_call` gets what workers ask for, on a thread of this."""

    def __init__(self, path: Path, on_call: Callable[[ControllerCall], None]) -> None:
        self._on_call = on_call
        self._closed = False
        path.unlink(missing_ok=True)
        self._listener = Listener(str(path), "AF_UNIX", backlog=64)
        path.chmod(0o600)
        self._workers: dict[str, Connection] = {}
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
                connection.send_bytes(_pack(["answers", lines]))
            except OSError as error:
                log.warning("a web worker is gone", origin=origin, error=error)
                self._workers.pop(origin, None)

    def close(self) -> None:
        """Take no more workers; the socket is gone."""
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()
            except OSError as error:
                if not self._closed:
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
                    _, number, name, arguments = request
                    self._on_call(ControllerCall(name, arguments, origin, number, connection))
        except (EOFError, OSError):
            if self._workers.get(origin) is connection:
                del self._workers[origin]
            connection.close()


class ControllerClient:
    """A worker's end, connected again whenever the controller comes back."""

    def __init__(self, path: Path, origin: str, on_answers: Callable[[list[tuple[int, int, str]]], None]) -> None:
        self._path = path
        self._origin = origin
        self._on_answers = on_answers
        self._connection: Connection | None = None
        self._numbers = itertools.count(1)
        self._calls: dict[int, Future[Any]] = {}
        threading.Thread(target=self._run, name="answers", daemon=True).start()

    @property
    def connected(self) -> bool:
        """Whether the controller is there."""
        return self._connection is not None

    def call(self, name: str, *arguments: Any) -> Future[Any]:
        """Ask the controller to do something; the future has what came of it, or a `Refused`. Raises `Unsendable`."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        frame = _pack(["call", number, name, arguments])
        connection = self._connection
        try:
            if connection is None:
                raise OSError("it is being started")
            self._calls[number] = future
            connection.send_bytes(frame)
        except OSError as error:
            self._calls.pop(number, None)
            future.set_exception(Unavailable(f"the master's controller is not there just now ({error}); try again"))
        return future

    def _run(self) -> None:
        while True:
            try:
                connection = Client(str(self._path), "AF_UNIX")
                connection.send_bytes(_pack(["hello", self._origin]))
            except OSError:  # not there yet, or gone; it is being started again
                time.sleep(_RETRY_SECS)
                continue
            self._connection = connection
            try:
                while True:
                    self._received(msgpack.unpackb(connection.recv_bytes()))
            except (EOFError, OSError):
                log.warning("lost the controller")
            self._connection = None
            connection.close()
            for number in list(self._calls):
                self._settle(number, 503, "the master's controller ended meanwhile; look whether it was done")

    def _received(self, frame: list[Any]) -> None:
        if frame[0] == "answers":
            self._on_answers(frame[1])
        else:
            self._settle(*frame[1:])

    def _settle(self, number: int, status: int, data: Any) -> None:
        future = self._calls.pop(number, None)
        if future is None or not future.set_running_or_notify_cancel():
            return
        if status == 200:
            future.set_result(data)
        else:
            future.set_exception(refusal(status, data))
