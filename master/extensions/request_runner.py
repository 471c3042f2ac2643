"""Runs extensions, one request at a time, in a process with a guard (`master.extensions.guard`)."""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from extensions import Extension, MissingLibrary, Refused, Store, StoreError
from extensions._reach import Reach
from master.extensions import frames, libraries
from master.extensions.children import children
from master.extensions.errors import Failed
from master.extensions.frames import DATA_BYTES, Failure, Invocation, Setup
from master.extensions.loader import Loader
from master.index.index import Index


class RequestRunner:
    """Takes requests from a socket and sends responses, until the other end closes the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = frames.receive(sock)
        _, body = next(self._frames)
        setup = Setup.decode(body)
        index = Index(Path(setup.index_directory), setup.index_map)
        Extension.store = self._store = Store(index, setup.master, setup.ca)
        Extension.reach = self._reach = Reach(
            setup.master,
            setup.listen,
            setup.fetch,
            lambda: [node.heartbeat.url for node in index.read_nodes().values()],
            setup.ca,
        )
        self._loader = Loader(Path(setup.directory))
        self._pid = os.getpid()
        self._guard = os.getppid()
        self._home = os.getcwd()

    def run(self) -> None:
        """Run requests until the socket is closed."""
        self._socket.sendall(frames.pack(frames.READY))
        for _, body in self._frames:
            request = Invocation.decode(body)
            try:
                self._run(request)
            except BaseException as error:  # noqa: BLE001 - an extension may raise anything, SystemExit too
                last = frames.pack(frames.FAILURE, self._failure(request, error))
            else:
                last = frames.pack(frames.END, self._tidy())
            self._send(last)

    def _run(self, request: Invocation) -> None:
        self._store.act_for(*request.caller)
        self._reach.token = request.caller.token
        extension = self._loader.load(request.name)(request.arguments, request.params, request.file_path)
        value: object = extension.execute()
        if isinstance(value, list | dict):
            self._send_data(memoryview(_encode(value)))
        elif isinstance(value, Iterator):
            self._stream(value)
        else:
            needed = "a list, a dict or an iterator of what a list may hold is needed"
            raise Failed(500, f"execute() returned {type(value).__name__}, and {needed}")

    def _stream(self, values: Iterator[object]) -> None:
        """Send the items as a list while they come, in pieces of about `DATA_BYTES`."""
        buffer = bytearray(b"[")
        between = b""
        for value in values:
            buffer += between + _encode(value)
            between = b", "
            if len(buffer) >= DATA_BYTES:
                self._send_data(memoryview(bytes(buffer)))
                buffer.clear()
        self._send_data(memoryview(bytes(buffer + b"]")))

    def _send_data(self, data: memoryview) -> None:
        for start in range(0, len(data), DATA_BYTES):
            self._send(frames.pack(frames.DATA, bytes(data[start : start + DATA_BYTES])))

    def _send(self, frame: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # a fork that an extension made and that came back from it; the response is not its to send
        self._socket.sendall(frame)

    def _failure(self, request: Invocation, error: BaseException) -> Failure:
        try:
            status, message, expected = _explain(request.name, error)
            text = "" if expected else "".join(traceback.format_exception(error))
        except BaseException as another:  # noqa: BLE001 - the extension's own class may raise when it is shown
            status, message = 500, f"the extension {request.name} failed: {type(error).__name__}"
            text = f"it can't be described: {type(another).__name__}"
        # Its frames hold what the extension held, such as a generator that must be closed.
        traceback.clear_frames(error.__traceback__)
        return Failure(status, frames.printable(message), frames.printable(text), self._tidy())

    def _tidy(self) -> bool:
        """Leave nothing to the next request. Returns whether the process can take one."""
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.chdir(self._home)
        except (OSError, ValueError, AttributeError):  # the extension closed them, or removed the directory
            return False
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        # Processes that an extension started end with the request, and so does this one.
        return not children(self._pid) and children(self._guard) == [self._pid]


def _encode(value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise Failed(500, f"what execute() returned can't be written as JSON: {error}") from error


def _explain(name: str, error: BaseException) -> tuple[int, str, bool]:
    """Status and message of the response, and whether it is as meant: then there is nothing to mend."""
    match error:
        case Refused():
            return error.status, _text(error), True
        case MissingLibrary():
            return 501, f"the extension {name} can't work: {_text(error)}", True
        case StoreError(status=401 | 403):
            return 403, f"the extension {name}: {_text(error)}", True
        case Failed(status=404):
            return 404, str(error), True
        case Failed():
            return error.status, f"the extension {name}: {error}", False
        case ModuleNotFoundError() if error.name and libraries.installable(error.name):
            missing = MissingLibrary(f"the Python library {error.name}", libraries.command(error.name))
            return 501, f"the extension {name} can't work: {missing}", False
        case SyntaxError() if error.filename:
            where = f"{os.path.basename(error.filename)}, line {error.lineno}"
            return 500, f"the extension {name} can't be loaded: {where}: {error.msg}", False
    text = _text(error)
    return 500, f"the extension {name} failed: {type(error).__name__}" + (f": {text}" if text else ""), False


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as another:  # noqa: BLE001 - the extension's own class may raise anything
        return f"(its message raised {type(another).__name__})"
