"""Where log lines, progress and output go: through pipes to the node, or to the terminal when there is none."""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from jobs import events
from jobs.errors import BadOutput, JobError

EVENTS_VARIABLE = "PULZAR_EVENTS"
OUTPUT_BYTES = 1 << 20
_PROGRESS_SECS = 0.05  # between two tellings to the node
_SHOW_SECS = 0.5  # between two lines in the terminal


class Channel(Protocol):
    """One of `ToNode`, `ToTerminal`, `Unreachable`."""

    def line(self, text: str) -> None:
        """Write a line."""

    def progress(self, done: float, total: float | None, text: str) -> None:
        """How far the run is."""

    def output(self, encoded: bytes) -> None:
        """The output, as JSON."""


def encode_output(value: Any, limit: int, note: Callable[[str], None]) -> bytes:
    """The output as JSON; what a reader of it has to know goes to `note`. Raises `BadOutput`."""
    try:
        encoded = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        encoded = b""
    if encoded and len(encoded) <= limit:
        return encoded
    from jobs import plain  # takes its time, and most outputs are plain

    if encoded:
        note(plain.refused(value))
        raise BadOutput(plain.too_large(len(encoded), limit))
    return plain.encode(value, limit, note)


def flush() -> None:
    """Flush the streams, to keep what was printed in order with what follows. Never raises.

    A script may have put anything with a method `write` in the place of a stream, and closed the descriptor below.
    """
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        with suppress(Exception):  # the script's own class may raise anything
            if stream is not None and not getattr(stream, "closed", False):
                stream.flush()


class ToNode:
    """The pipes from a run to its node."""

    def __init__(self, event_pipe: int, log_pipe: int) -> None:
        self._events = event_pipe
        self._inode = os.fstat(event_pipe).st_ino
        self._log = log_pipe
        self._told = 0.0
        self._untold: tuple[float, float | None, str] | None = None
        self._one_at_a_time = threading.Lock()

    def line(self, text: str) -> None:
        """Write a line to the log, after what was printed before."""
        flush()
        line = (text + "\n").encode("utf-8", "backslashreplace")
        try:
            _write(self._log, line)
        except OSError:  # the script closed it; its standard output is as good, if there is one
            _write(1, line)

    def progress(self, done: float, total: float | None, text: str) -> None:
        """Send progress, at most every 50 ms. `finish` sends the last one."""
        now = time.monotonic()
        if now - self._told < _PROGRESS_SECS:
            self._untold = (done, total, text)
            return
        self._told, self._untold = now, None
        self._tell_progress(done, total, text)

    def output(self, encoded: bytes) -> None:
        """Send the output at once."""
        self._tell(events.OUTPUT, encoded)

    def finish(self, failure: str) -> None:
        """Send the last progress, and `failure`: why the run fails, "" when it does not."""
        if self._untold:
            self._tell_progress(*self._untold)
        if failure:
            self._tell(events.FAILURE, failure[: events.TEXT_CHARACTERS].encode("utf-8", "backslashreplace"))

    def _tell_progress(self, done: float, total: float | None, text: str) -> None:
        content = json.dumps([done, total, text[: events.TEXT_CHARACTERS]]).encode()
        self._tell(events.PROGRESS, content)

    def _tell(self, kind: bytes, content: bytes) -> None:
        with self._one_at_a_time:
            try:
                same = os.fstat(self._events).st_ino == self._inode
            except OSError:
                same = False
            if not same:  # daemons by the book do so
                raise JobError(f"the script closed the event pipe, descriptor {self._events}")
            _write(self._events, events.frame(kind, content))


class ToTerminal:
    """The terminal, for a script that was started by hand."""

    def __init__(self) -> None:
        self._shown = 0.0

    def line(self, text: str) -> None:
        """Write a line."""
        print(text, flush=True)

    def progress(self, done: float, total: float | None, text: str) -> None:
        """Show progress on standard error, at most a few times a second."""
        now = time.monotonic()
        if now - self._shown < _SHOW_SECS and done != total:
            return
        self._shown = now
        flush()
        of = "" if total is None else f" of {total:g}"
        print(f"progress: {done:g}{of} {text}".rstrip(), file=sys.stderr, flush=True)

    def output(self, encoded: bytes) -> None:
        """Show the output on standard output."""
        print(f"output: {encoded.decode()}", flush=True)


class Unreachable:
    """No channel: a process that a run started without passing on its event pipe."""

    def line(self, text: str) -> None:
        """Write a line to standard output, which goes to the log."""
        print(text, flush=True)

    def progress(self, done: float, total: float | None, text: str) -> None:
        """Raises `JobError`."""
        raise JobError(_NOT_HANDED_ON)

    def output(self, encoded: bytes) -> None:
        """Raises `JobError`."""
        raise JobError(_NOT_HANDED_ON)


_NOT_HANDED_ON = (
    "this process was not given the event pipe of its run; "
    f"start it with subprocess.run(…, pass_fds=[int(os.environ['{EVENTS_VARIABLE}'])])"
)


def of_environment() -> Channel:
    """The channel that fits this process."""
    number = os.environ.get(EVENTS_VARIABLE, "")
    if not number.isdecimal():
        return ToTerminal()
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(int(number)).st_mode)
    except OSError:
        is_pipe = False
    return ToNode(int(number), 1) if is_pipe else Unreachable()


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
