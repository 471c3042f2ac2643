"""The local way between the controller and the web workers of one master: a Unix socket.

The controller tells every worker what became of the commands its requests wait for, as soon as the index
says so. Workers call the controller, which alone writes index and ledger. Frames are those of
`multiprocessing.connection`; their content is msgpack, never pickle.

    worker → controller   ["hello", origin]                     outcomes for this origin go here
                          ["call", number, name, fields]        one of `REQUESTS`
    controller → worker   ["welcome"]                           it knows the origin now
                          ["outcomes", [[ticket, status, reason], …]]
                          ["reply", number, status, data]       200 and what came of a call, else why it was refused
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from broker import logs
from broker.errors import Unsendable
from broker.messages.store import Outcome
from broker.refusals import BadRequest, Refused, Unavailable, refusal

log = logs.get(__name__)

CALL_SECS = 10.0  # a worker waits for a reply
_RETRY_SECS = 0.05
_DONE = 200
_LENGTH, _LONG_LENGTH = 4, 8  # bytes
_READ_BYTES = 1 << 20


# The fields of a `master.jobs.model.Rhythm`; those of cron may be left out.
PackedRhythm = tuple[str, int, bool] | tuple[str, int, bool, str, str]


class Launch(NamedTuple):
    """Launch or schedule a job. The reply is its id, and whether RabbitMQ has its message."""

    order: bytes  # see `broker.messages.jobs.write`
    rhythm: PackedRhythm | None  # None: now
    by: str = ""  # name of the token that it was asked with, "" for none


class LaunchMany(NamedTuple):
    """Launch or schedule jobs together, each on its own. The reply has one of these for each, in their order:

    `[200, id]`, RabbitMQ has its message or needs none; `[202, id]`, it is durable in the ledger; or the status of a
    refusal and its message.
    """

    orders: list[tuple[bytes, PackedRhythm | None]]  # order and rhythm of each, as in `Launch`
    by: str = ""


class Cancel(NamedTuple):
    """Cancel a job or a schedule. The reply is a sentence that says what was done."""

    job: int


class PauseSchedule(NamedTuple):
    """Pause a schedule, or have it go on. The reply is a sentence that says what was done."""

    schedule: int
    pause: bool  # else resume


class RunSchedule(NamedTuple):
    """Launch an execution of a schedule now. The reply is that of `Launch`."""

    schedule: int
    unique: str  # token of this call: the same one again is the same job; "" for none


class Restore(NamedTuple):
    """Apply a node's log to the index from its beginning. The reply is None, once it has begun."""

    node: str | None  # None: all nodes


class Forget(NamedTuple):
    """Wait no more for a node that is gone for good. The reply is None, once it is done."""

    node: str
    entries: bool  # whether those of the node leave the index


class Drain(NamedTuple):
    """Move all values of a node away, or no longer. The reply is None, once it is noted."""

    node: str
    begin: bool  # else the node takes values again


class MakeBackups(NamedTuple):
    """Back up one member, or all of them one after the other.

    The reply is the names of those members, and when it began, in seconds since the epoch.
    """

    member: str | None  # a node, or the master; None: all
    target: str  # "": the one in the settings


class Listen(NamedTuple):
    """Wait for an event behind the one with this number. The reply, the newest one's, comes when there is one."""

    number: int


Request = Launch | LaunchMany | Cancel | PauseSchedule | RunSchedule | Restore | Forget | Drain | MakeBackups | Listen
REQUESTS: dict[str, type[Request]] = {
    "launch": Launch,
    "launch_many": LaunchMany,
    "cancel": Cancel,
    "pause": PauseSchedule,
    "run": RunSchedule,
    "restore": Restore,
    "forget": Forget,
    "drain": Drain,
    "backup": MakeBackups,
    "listen": Listen,
}
_NAMES = {kind: name for name, kind in REQUESTS.items()}


def encode(number: int, request: Request) -> bytes:
    """The frame of a call with this number; raises `Unsendable`."""
    return _pack(["call", number, _NAMES[type(request)], request])


def decode(name: str, fields: Sequence[Any]) -> Request:
    """What a worker asks for; raises `BadRequest` for something that is not known here."""
    kind = REQUESTS.get(name)
    if kind is None or len(fields) != len(kind._fields):
        raise BadRequest(f"the controller knows no {name} with {len(fields)} fields")
    return kind(*fields)


def _pack(frame: object) -> bytes:
    try:
        packed: bytes = msgpack.packb(frame, unicode_errors="backslashreplace")
    except (TypeError, ValueError, OverflowError) as error:
        raise Unsendable(f"a frame can't be packed: {error}") from error
    return packed


class ControllerCall(NamedTuple):
    """What a worker asks for. One of `reply` and `refuse` must be called, once."""

    request: Request
    origin: str
    number: int
    connection: Connection

    def reply(self, data: object) -> None:
        """Tell the worker that it is done, and what came of it."""
        _reply(self.connection, self.number, _DONE, data)

    def refuse(self, error: Refused) -> None:
        """Tell the worker why it is not done."""
        _reply(self.connection, self.number, error.status, str(error))


def _reply(connection: Connection, number: int, status: int, data: object) -> None:
    try:
        frame = _pack(["reply", number, status, data])
    except Unsendable as error:
        # It has been done: to raise here would have it done again.
        log.error("a reply can't be packed", call=number, error=error)
        lost = "the master's controller can't say what came of it; its log says why"
        frame = _pack(["reply", number, Unavailable.status, lost])
    try:
        connection.send_bytes(frame)
    except OSError as error:
        log.warning("a web worker is gone", error=error)


class Frames:
    """Reads frames of `multiprocessing.connection` without waiting: 4 bytes of length, or -1 and 8 bytes, and then all.

    It has a descriptor of its own for the same socket.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self.fd = self._socket.fileno()
        self._buffer = bytearray()

    def read(self) -> list[bytes]:
        """The frames that are whole by now. Raises `EOFError` when the other end is closed, `OSError`."""
        try:
            received = self._socket.recv(_READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return []
        if not received:
            raise EOFError
        buffer = self._buffer
        buffer += received
        found: list[bytes] = []
        at = 0
        while len(buffer) - at >= _LENGTH:
            start = at + _LENGTH
            length = int.from_bytes(buffer[at:start], "big", signed=True)
            if length < 0:
                if len(buffer) < start + _LONG_LENGTH:
                    break
                length = int.from_bytes(buffer[start : start + _LONG_LENGTH], "big")
                start += _LONG_LENGTH
            if len(buffer) < start + length:
                break
            at = start + length
            found.append(bytes(buffer[start:at]))
        del buffer[:at]
        return found

    def close(self) -> None:
        """Close the descriptor."""
        self._socket.close()


class ControllerServer:
    """The controller's end. It calls `on_call` with each call of a worker, on a thread of its own."""

    def __init__(self, path: Path, on_call: Callable[[ControllerCall], None]) -> None:
        self._on_call = on_call
        self._closed = False
        path.unlink(missing_ok=True)
        self._listener = Listener(str(path), "AF_UNIX", backlog=64)
        path.chmod(0o600)
        self._workers: dict[str, Connection] = {}
        self._joining = threading.Lock()
        threading.Thread(target=self._accept, name="channel", daemon=True).start()

    def send(self, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
        """Tell every origin what became of its commands. An origin that is gone is left out."""
        for origin, rows in outcomes.items():
            with self._joining:  # nothing goes to a worker before its welcome
                connection = self._workers.get(origin)
            if connection is None or not rows:
                continue
            try:
                connection.send_bytes(_pack(["outcomes", rows]))
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
            threading.Thread(target=self._serve, args=(connection,), name="channel-worker", daemon=True).start()

    def _serve(self, connection: Connection) -> None:
        origin = ""
        try:
            while True:
                kind, *fields = msgpack.unpackb(connection.recv_bytes())
                if kind == "hello":
                    (origin,) = fields
                    with self._joining:
                        self._workers[origin] = connection
                        connection.send_bytes(_pack(["welcome"]))
                else:
                    self._call(connection, origin, *fields)
        except (EOFError, OSError):
            if self._workers.get(origin) is connection:
                del self._workers[origin]
            connection.close()

    def _call(self, connection: Connection, origin: str, number: int, name: str, fields: Sequence[Any]) -> None:
        try:
            request = decode(name, fields)
        except BadRequest as error:
            _reply(connection, number, error.status, str(error))
        else:
            self._on_call(ControllerCall(request, origin, number, connection))


class ControllerClient:
    """A worker's end; it connects again whenever the controller comes back.

    `origin` names the worker. It calls `on_outcomes` with the outcomes of commands, on a thread of its own or, when
    `start` is given an event loop, there.
    """

    def __init__(self, path: Path, origin: str, on_outcomes: Callable[[Iterable[Outcome]], None]) -> None:
        self._path = path
        self._origin = origin
        self._on_outcomes = on_outcomes
        self._connection: Connection | None = None
        self._numbers = itertools.count(1)
        self._calls: dict[int, Future[Any] | asyncio.Future[Any]] = {}
        self._sending = threading.Lock()
        self._loop_thread = 0  # that of the event loop which reads

    def start(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Connect, and keep connected."""
        threading.Thread(target=self._run, args=(loop,), name="channel", daemon=True).start()

    @property
    def connected(self) -> bool:
        """Whether the controller is there, and knows this worker."""
        return self._connection is not None

    def call(self, request: Request) -> Future[Any]:
        """Ask the controller to do something; the future has the reply, or a `Refused`. Raises `Unsendable`."""
        future: Future[Any] = Future()
        self._send(request, future)
        return future

    async def ask(self, request: Request) -> Any:
        """The reply to a request, on an event loop, which `call` would cost two wakes more. Raises as its future does.

        `Unavailable` also when there is no reply in `CALL_SECS`.
        """
        try:
            async with asyncio.timeout(CALL_SECS):
                return await self.wait(request)
        except TimeoutError:
            late = "the master's controller did not answer in time; look whether it was done"
            raise Unavailable(late) from None

    async def wait(self, request: Request) -> Any:
        """The same, for a reply that may take as long as the controller is there."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._send(request, future)
        return await future

    def _send(self, request: Request, future: Future[Any] | asyncio.Future[Any]) -> None:
        """Send a request, whose reply goes to the future."""
        number = next(self._numbers)
        frame = encode(number, request)
        connection = self._connection
        try:
            if connection is None:
                raise OSError("it is being started")
            self._calls[number] = future
            with self._sending:  # a long frame is sent in two parts
                connection.send_bytes(frame)
        except OSError as error:
            self._calls.pop(number, None)
            future.set_exception(Unavailable(f"the master's controller is not there just now ({error}); try again"))

    def _run(self, loop: asyncio.AbstractEventLoop | None) -> None:
        while True:
            try:
                connection = Client(str(self._path), "AF_UNIX")
                connection.send_bytes(_pack(["hello", self._origin]))
                connection.recv_bytes()  # the welcome: outcomes that came before it would be lost
            except (EOFError, OSError):  # not there yet, or gone; it is being started again
                time.sleep(_RETRY_SECS)
                continue
            if loop is None:
                self._connection = connection
                self._read(connection)
            else:
                lost = threading.Event()
                frames = Frames(connection.fileno())
                loop.call_soon_threadsafe(self._begin_reading, connection, loop, frames, lost)
                lost.wait()
                frames.close()
            log.warning("lost the controller")
            self._connection = None
            connection.close()
            for number in list(self._calls):
                self._settle(
                    number, Unavailable.status, "the master's controller ended meanwhile; look whether it was done"
                )

    def _begin_reading(
        self, connection: Connection, loop: asyncio.AbstractEventLoop, frames: Frames, lost: threading.Event
    ) -> None:
        """Have the event loop read, and let others send."""
        self._loop_thread = threading.get_ident()
        loop.add_reader(frames.fd, self._read_some, loop, frames, lost)
        # uvloop makes the descriptor non-blocking, and with it that of `connection`: a frame that finds the buffer full
        # would be sent in part, and all that follows would be read as something else.
        os.set_blocking(frames.fd, True)
        self._connection = connection

    def _read(self, connection: Connection) -> None:
        """Read until the controller is gone."""
        with suppress(EOFError, OSError):  # it is gone
            while True:
                self._received(msgpack.unpackb(connection.recv_bytes()))

    def _read_some(self, loop: asyncio.AbstractEventLoop, frames: Frames, lost: threading.Event) -> None:
        """Read what is there, on the event loop."""
        try:
            for frame in frames.read():
                self._received(msgpack.unpackb(frame))
        except (EOFError, OSError):
            loop.remove_reader(frames.fd)
            lost.set()

    def _received(self, frame: Sequence[Any]) -> None:
        kind, *fields = frame
        if kind == "outcomes":
            self._on_outcomes(*fields)
        else:
            self._settle(*fields)

    def _settle(self, number: int, status: int, data: Any) -> None:
        future = self._calls.pop(number, None)
        if isinstance(future, asyncio.Future):
            loop = future.get_loop()
            if threading.get_ident() == self._loop_thread:
                _finish(future, status, data)
            else:
                loop.call_soon_threadsafe(_finish, future, status, data)
        elif future is not None and future.set_running_or_notify_cancel():
            _finish(future, status, data)


def _finish(future: Future[Any] | asyncio.Future[Any], status: int, data: Any) -> None:
    if future.done():  # nobody waits any more
        return
    if status == _DONE:
        future.set_result(data)
    else:
        future.set_exception(refusal(status, data))
