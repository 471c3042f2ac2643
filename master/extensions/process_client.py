"""The web worker's end of a process for extensions: starts it, talks to it, logs its output, ends it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from broker import logs
from master.extensions import frames
from master.extensions.errors import ProcessDied
from master.extensions.frames import Invocation, Setup

log = logs.get(__name__)

_ROOT = Path(__file__).parents[2]
_MODULE = "master.extensions.guard"
_READ_BYTES = 1 << 16
_READS = 2  # these empty a full pipe; a thread of the extension may print without end
_LOGGED_LINES = 200  # of the output of one request
_LOGGED_BYTES = 1 << 16
_END_SECS = 15.0  # for the guard to kill all and to end
_SIGNALLED = 128  # see the guard


class Process:
    """A running process for extensions, and its guard."""

    def __init__(self, setup: Setup, scratch: Path) -> None:
        """Starts one with the temporary directory `scratch`. Call it on the event loop. Raises `OSError`."""
        self.serving = ""  # name of the extension at work
        self.idle_since = 0.0
        self._scratch = scratch
        self._end_task: asyncio.Task[str] | None = None
        scratch.mkdir(mode=0o700, parents=True)
        ours, theirs = socket.socketpair()
        out, theirs_out = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=theirs_out,
                stderr=theirs_out,
                pass_fds=(theirs.fileno(),),
                env=_environment(os.environ, scratch),
                start_new_session=True,
            )
        except OSError:
            ours.close()
            os.close(out)
            raise
        finally:
            theirs.close()
            os.close(theirs_out)
        self.pid = self._process.pid
        self._socket = ours
        self._setup = setup
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._output = _OutputLog(out)
        log.debug("process for extensions started", pid=self.pid)

    async def ready(self) -> None:
        """Returns when the process waits for requests; raises `ProcessDied`."""
        self._socket.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=frames.DATA_BYTES)
        self._writer.write(frames.pack(frames.SETUP, list(self._setup)))
        kind, _ = await self.receive()
        if kind != frames.READY:
            raise ProcessDied(f"a process for extensions began with {kind!r}; the master's log may say why")

    @property
    def ended(self) -> bool:
        """Whether the process can't be used any more."""
        return self._end_task is not None or self._reader.at_eof()

    def begin(self, request: Invocation) -> None:
        """Send it a request."""
        assert self._writer is not None
        self.serving = request.name
        self._output.begin(request.name)
        self._writer.write(frames.pack(frames.REQUEST, list(request)))

    def done(self) -> None:
        """The request is over: log the rest of its output."""
        self._output.end()
        self.serving = ""

    async def receive(self) -> tuple[bytes, bytes]:
        """The next frame, as kind and body; raises `ProcessDied`, which says how the process ended."""
        try:
            kind, length = frames.HEAD.unpack(await self._reader.readexactly(frames.HEAD.size))
            if kind not in frames.KINDS or length > frames.MAX_BYTES:
                culprit = f"the extension {self.serving}"
                raise ProcessDied(f"{culprit} wrote into the socket of its process, which is the master's")
            return kind, await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            how = await self.end()
            raise ProcessDied(f"the process of the extension {self.serving} {how} before it had answered") from None

    async def end(self) -> str:
        """End it with all that came from it, and wait until nothing of it lives. Returns how it ended, in words."""
        if self._end_task is None:
            self._end_task = asyncio.ensure_future(self._end())
        # The caller may be cancelled; the end goes on.
        return await asyncio.shield(self._end_task)

    async def _end(self) -> str:
        # Closing this end of the socket tells the guard.
        if self._writer is not None:
            self._writer.transport.abort()
        self._socket.close()
        status = await asyncio.to_thread(self._wait)
        self._output.end()
        self._output.close()
        log.debug("process for extensions ended", pid=self.pid, status=status)
        return _end_text(status)

    def _wait(self) -> int:
        try:
            status = self._process.wait(_END_SECS)
        except subprocess.TimeoutExpired:
            log.error("a process for extensions does not end; its guard is killed", pid=self.pid)
            self._process.kill()
            status = self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)
        return status


class _OutputLog:
    """Logs what a process prints: the beginning of it for each request."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._rest = b""
        self.begin("")
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def begin(self, name: str) -> None:
        """Output from now on belongs to the extension called `name`."""
        self._name = name
        self._lines, self._bytes, self._dropped = _LOGGED_LINES, _LOGGED_BYTES, 0

    def end(self) -> None:
        """Log the output that has come until now."""
        for _ in range(_READS):
            if self._descriptor < 0 or not self._read():
                break
        if self._rest:
            self._log(self._rest)
            self._rest = b""
        if self._dropped:
            log.warning("extension printed more than is logged", extension=self._name, bytes=self._dropped)
            self._dropped = 0

    def close(self) -> None:
        """Close the pipe."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1

    def _read(self) -> bool:
        """Log what is in the pipe. Returns whether there may be more."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:  # the pipe is empty
            return False
        if not data:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            return False
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _READ_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._log(line)
        return True

    def _log(self, line: bytes) -> None:
        if not self._lines or len(line) > self._bytes:
            self._dropped += len(line) + 1
            return
        self._lines -= 1
        self._bytes -= len(line)
        log.info("extension printed", extension=self._name, text=line.decode("utf-8", "replace").rstrip("\r"))


def _environment(given: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """The environment of extensions: without Pulzar's settings, which hold credentials."""
    passed = {name: value for name, value in given.items() if not name.startswith("PULZAR_")}
    path = passed.get("PYTHONPATH")
    return passed | {"PYTHONPATH": f"{_ROOT}:{path}" if path else str(_ROOT), "TMPDIR": str(scratch)}


def _end_text(status: int) -> str:
    """How a process ended, in words."""
    number = -status if status < 0 else status - _SIGNALLED
    if number <= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"ended with exit status {status}"
