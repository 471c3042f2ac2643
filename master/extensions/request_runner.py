"""Runs extensions, one request at a time, in the process that a guard watches (`master.extensions.guard`)."""

from __future__ import annotations

import json
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from extensions import Extension, MissingLibrary, Refused, Store
from extensions._reach import Reach
from master.extensions import frames, libraries
from master.extensions.children import children
from master.extensions.errors import Failed
from master.extensions.frames import DATA_BYTES, Failure, Hello, Invocation
from master.extensions.loader import Loader
from master.index.index import Index


class RequestRunner:
    """Of one process; `run` returns when the other end closes the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = frames.receive(sock)
        _, hello = next(self._frames)
        told = Hello(*hello)
        index = Index(Path(told.index_directory), told.index_map)
        Extension.store = Store(index, told.master)
        Extension.reach = Reach(
            told.master,
            told.listening,
            told.fetch,
            lambda: [node.heartbeat.url for node in index.read_nodes().values()],
        )
        self._loader = Loader(Path(told.directory))
        self._pid = os.getpid()
        self._guard = os.getppid()
        self._home = os.getcwd()

    def run(self) -> None:
        """Answer requests."""
        self._socket.sendall(frames.pack(frames.READY))
        for _, content in self._frames:
            try:
                self._answer(Invocation(*content))
            except BaseException as error:  # noqa: BLE001 - an extension may raise anything; SystemExit too is its answer
                last = frames.pack(frames.FAILURE, self._failure(Invocation(*content), error))
            else:
                last = frames.pack(frames.END, self._tidy())
            self._tell(last)

    def _answer(self, request: Invocation) -> None:
        made = self._loader.load(request.name)(request.arguments, request.params, request.file_path)
        value = made.execute()
        if isinstance(value, list | dict):
            self._send(memoryview(_encode(value)))
        elif isinstance(value, Iterator):
            self._stream(value)
        else:
            raise Failed(
                500,
                f"execute() returned {type(value).__name__}, and a list, a dict or an iterator of what a list may hold is needed",
            )

    def _stream(self, values: Iterator[Any]) -> None:
        """Send the items as a list while they come, in pieces of a good size."""
        waiting = bytearray(b"[")
        between = b""
        for value in values:
            waiting += between + _encode(value)
            between = b", "
            if len(waiting) >= DATA_BYTES:
                self._send(memoryview(bytes(waiting)))
                waiting.clear()
        self._send(memoryview(bytes(waiting + b"]")))

    def _send(self, data: memoryview) -> None:
        for start in range(0, len(data), DATA_BYTES):
            self._tell(frames.pack(frames.DATA, bytes(data[start : start + DATA_BYTES])))

    def _tell(self, frame: bytes) -> None:
        if os.getpid() != self._pid:
            os._exit(0)  # a fork that an extension made and that came back from it; the answer is not its to give
        self._socket.sendall(frame)

    def _failure(self, request: Invocation, error: BaseException) -> Failure:
        try:
            status, message, expected = _explain(request.name, error)
            text = "" if expected else "".join(traceback.format_exception(error))
        except BaseException as another:  # noqa: BLE001 - a class of the extension's own may do anything when it is looked at
            status, message = 500, f"the extension {request.name} failed: {type(error).__name__}"
            text = f"it can't be described: {type(another).__name__}"
        # Its frames hold what the extension held, a generator that is to be closed for one.
        traceback.clear_frames(error.__traceback__)
        return Failure(status, frames.printable(message), frames.printable(text), self._tidy())

    def _tidy(self) -> bool:
        """Leave nothing to the next request; False when only the end of this process will do."""
        try:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os.chdir(self._home)
        except (OSError, ValueError, AttributeError):  # the extension closed them, or removed the directory
            return False
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        # What an extension started and left running has its end with the request, as the extension has.
        return not children(self._pid) and children(self._guard) == [self._pid]


def _encode(value: Any) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise Failed(500, f"what execute() returned can't be written as JSON: {error}") from error


def _explain(name: str, error: BaseException) -> tuple[int, str, bool]:
    """Status and message for an answer, and whether this is an answer as meant, with nothing to mend."""
    match error:
        case Refused():
            return error.status, _text(error), True
        case MissingLibrary():
            return 501, f"the extension {name} can't work: {_text(error)}", True
        case Failed():
            return (
                error.status,
                str(error) if error.status == 404 else f"the extension {name}: {error}",
                error.status == 404,
            )
        case ModuleNotFoundError() if error.name and libraries.installable(error.name):
            missing = MissingLibrary(f"the Python library {error.name}", libraries.command(error.name))
            return 501, f"the extension {name} can't work: {missing}", False
        case SyntaxError() if error.filename:
            where = f"{os.path.basename(error.filename)}, line {error.lineno}"
            return 500, f"the extension {name} can't be loaded: {where}: {error.msg}", False
    text = _text(error)
    kind = type(error).__name__
    return (
        500,
        f"the extension {name} failed: {kind}: {text}" if text else f"the extension {name} failed: {kind}",
        False,
    )


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as another:  # noqa: BLE001 - it is the extension's own, and may do anything
        return f"(its message raised {type(another).__name__})"
