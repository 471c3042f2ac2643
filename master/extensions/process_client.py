"""A web worker's end of a process for extensions: starts it, talks to it, logs what it prints, ends it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack

from broker import logs
from master.extensions import frames
from master.extensions.errors import ProcessDied
from master.extensions.frames import Hello, Invocation

log = logs.get(__name__)

_ROOT = Path(__file__).parents[2]
_MODULE = "master.extensions.guard"
_READ_BYTES = 1 << 16
_FULL_READS = 2  # empty a full pipe; not more, for a thread may go on printing
_LOGGED_LINES = 200  # of what one request prints
_LOGGED_BYTES = 1 << 16
_GONE_SECS = 15.0  # for the guard to kill all and to end
_SIGNALLED = 128  # see the guard


class Process:
    """A running process for extensions, and its guard."""

    def __init__(self, hello: Hello, scratch: Path) -> None:
        """Starts one, with the temporary directory `scratch`; raises `OSError`. To be called on the event loop."""
        self.serving = ""  # name of the extension at work
        self.idle_since = 0.0
        self._scratch = scratch
        self._ending: asyncio.Task[str] | None = None
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
        self._hello = hello
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None
        self._output = _Output(out)
        log.debug("process for extensions started", pid=self.pid)

    async def ready(self) -> None:
        """Returns when it waits for requests; raises `ProcessDied`."""
        self._socket.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket, limit=frames.DATA_BYTES)
        self._writer.write(frames.pack(frames.HELLO, list(self._hello)))
        kind, _ = await self.receive()
        if kind != frames.READY:
            raise ProcessDied(f"a process for extensions began with {kind!r}; the master's log may say why")

    @property
    def ended(self) -> bool:
        """Whether it can't be used any more."""
        return self._ending is not None or self._reader.at_eof()

    def begin(self, request: Invocation) -> None:
        """Have it work on a request."""
        assert self._writer is not None
        self.serving = request.name
        self._output.begin(request.name)
        self._writer.write(frames.pack(frames.REQUEST, list(request)))

    def done(self) -> None:
        """The request is over; what it printed has been logged."""
        self._output.end()
        self.serving = ""

    async def receive(self) -> tuple[bytes, Any]:
        """The next frame, as kind and content; raises `ProcessDied`, which says how it ended."""
        try:
            kind, length = frames.HEAD.unpack(await self._reader.readexactly(frames.HEAD.size))
            if kind not in frames.KINDS or length > frames.MOST_BYTES:
                raise ProcessDied(
                    f"the extension {self.serving} wrote into the socket of its process, which is the master's"
                )
            content = await self._reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            how = await self.end()
            raise ProcessDied(f"the process of the extension {self.serving} {how} before it had answered") from None
        return kind, content if kind == frames.DATA or not content else msgpack.unpackb(content)

    async def end(self) -> str:
        """Have it end with all that came from it; how it ended. Returns when nothing of it lives any more."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        # Whoever waits may be cancelled; the ending goes on.
        return await asyncio.shield(self._ending)

    async def _end(self) -> str:
        # The guard notices that this end of the socket is closed.
        if self._writer is not None:
            self._writer.transport.abort()
        self._socket.close()
        status = await asyncio.to_thread(self._wait)
        self._output.end()
        self._output.close()
        log.debug("process for extensions ended", pid=self.pid, status=status)
        return _ending(status)

    def _wait(self) -> int:
        try:
            status = self._process.wait(_GONE_SECS)
        except subprocess.TimeoutExpired:
            log.error("a process for extensions does not end; its guard is killed", pid=self.pid)
            self._process.kill()
            status = self._process.wait()
        shutil.rmtree(self._scratch, ignore_errors=True)
        return status


class _Output:
    """What a process prints: its beginning, for each request, goes to the log."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._rest = b""
        self.begin("")
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def begin(self, name: str) -> None:
        """What comes from now on is from the extension called `name`."""
        self._name = name
        self._lines, self._bytes, self._dropped = _LOGGED_LINES, _LOGGED_BYTES, 0

    def end(self) -> None:
        """Log what has been printed until now."""
        for _ in range(_FULL_READS):
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
        """Log what is there; whether there may be more."""
        try:
            data = os.read(self._descriptor, _READ_BYTES)
        except BlockingIOError:
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
    """What extensions find in their environment: not Pulzar's settings, there are credentials among them."""
    passed = {name: value for name, value in given.items() if not re.match("PULZAR_", name)}
    path = passed.get("PYTHONPATH")
    return passed | {"PYTHONPATH": f"{_ROOT}:{path}" if path else str(_ROOT), "TMPDIR": str(scratch)}


def _ending(status: int) -> str:
    """How a process ended, in words."""
    number = -status if status < 0 else status - _SIGNALLED
    if number <= 0:
        return f"ended with exit status {status}"
    try:
        return f"was killed by signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"ended with exit status {status}"
