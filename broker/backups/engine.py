"""Runs the engine of backups, `python -m backup`, as a process of its own, and reads what it says.

`python -m broker.backups.engine …` is that process: it has the lowest claim on the processor, and ends with whoever
started it. Its settings, with their credentials, are those of this process: the file and the environment.
"""

from __future__ import annotations

import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from broker import logs, process

log = logs.get(__name__)

STALLED_SECS = 7200.0  # without a line
_NICE = 19
_LOOK_SECS = 0.2
_STOP_SECS = 5.0
_READ_BYTES = 65_536
_MOST_WORDS = 1000  # characters of what it said last


class Ending(NamedTuple):
    """What came of a run of the engine."""

    good: bool
    reason: str  # why not, in words
    fields: dict[str, object]  # of its last line


class Engine:
    """Runs the engine, one run at a time. `stop` may be called by any thread."""

    def __init__(self) -> None:
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the run, and begin no other one."""
        self._stopping.set()

    def run(self, arguments: Sequence[str], progress: Callable[[str, int, int], None]) -> Ending:
        """Run it to its end; `progress` gets phase, done and total. The calling thread must outlive the run."""
        command = [sys.executable, "-m", __name__, *arguments]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
        ) as child:
            try:
                return self._follow(child, progress)
            finally:
                _end(child)

    def _follow(self, child: subprocess.Popen[bytes], progress: Callable[[str, int, int], None]) -> Ending:
        assert child.stdout is not None
        assert child.stderr is not None
        lines = _Lines(progress)
        words = bytearray()
        heard = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ, lines.add)
            selector.register(child.stderr, selectors.EVENT_READ, words.extend)
            while selector.get_map():
                if self._stopping.is_set():
                    return Ending(False, "it was ended, since this process ends", {})
                if time.monotonic() - heard > STALLED_SECS:
                    return Ending(False, f"nothing happened for {STALLED_SECS / 3600:g} hours; it was ended", {})
                for key, _ in selector.select(_LOOK_SECS):
                    data = os.read(key.fd, _READ_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                    heard = time.monotonic()
                    key.data(data)
                    del words[:-_READ_BYTES]
        return lines.ending(child.wait(), words.decode("utf-8", "replace").strip())


class _Lines:
    """The JSON lines on the engine's standard output."""

    def __init__(self, progress: Callable[[str, int, int], None]) -> None:
        self._progress = progress
        self._rest = b""
        self._last: dict[str, object] = {}

    def add(self, data: bytes) -> None:
        """Take in bytes that were read."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                fields = json.loads(line)
                if "outcome" in fields:
                    self._last = dict(fields)
                else:
                    self._progress(str(fields["phase"]), int(fields["done"]), int(fields["total"]))
            except (ValueError, TypeError, KeyError) as error:
                log.warning("the backup said what can't be read", line=line[:200], error=error)

    def ending(self, status: int, words: str) -> Ending:
        """What came of it: `status` is the exit status, `words` what stands on standard error."""
        if words:
            log.info("the backup said", words=words[-_MOST_WORDS:])
        if status == 0 and self._last.get("outcome") == "good":
            return Ending(True, "", self._last)
        if reason := self._last.get("reason"):
            return Ending(False, str(reason)[:_MOST_WORDS], self._last)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        last = words.rpartition("\n")[2][-_MOST_WORDS:]
        return Ending(False, f"the backup {how}{': ' if last else ''}{last}", self._last)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the engine and whatever it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):  # the next signal is the last one
                child.wait(_STOP_SECS)


def _main() -> None:
    process.die_with_parent()
    with suppress(PermissionError):  # where a unit forbids it, the backup takes more of the processor
        os.nice(_NICE)
    runpy.run_module("backup", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
