"""A run as the runner sees it: its pipes, what came through them, when something is due, what became of it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from broker.clock import now_ms
from broker.masks import MaskedStream, Masks
from jobs import events
from node.runs.log_capture import LogCapture
from node.runs.model import Outcome, Run, RunLimits, RunProgress, State, ending, size
from node.runs.tracebacks import Trim

TELL_SECS = 0.5  # between two Progress of a run
_READ_BYTES = 1 << 16
_MOST_LEFT_BYTES = 4 << 20  # in a pipe: more than any holds
_MOST_NAMED = 10  # processes that were killed
_COMMAND_CHARACTERS = 80  # of each
_NEVER = math.inf

Killed = Sequence[tuple[int, str]]  # numbers and command lines of processes that went on when their run had ended


class ActiveRun:
    """One run, from its start to its outcome. `pipes` are the read ends of its pipes, with what takes their bytes."""

    def __init__(self, run: Run, limits: RunLimits, masks: Masks | None = None) -> None:
        """`masks` are those of the secrets that it may have. Raises `OSError` when there are no descriptors left."""
        self.run = run
        self.started = now_ms()
        self._limits = limits
        self._log = LogCapture(limits.log)
        self._trim = Trim()
        self._masks = masks
        self._masking = MaskedStream(masks) if masks else None
        self._events = events.Decoder(limits.output)
        self._output = b""
        self._failure = ""
        self._progress: tuple[float | None, float | None, str] = (None, None, "")
        self._fresh = False
        self._stop: tuple[State, str] | None = None
        self._began = now = time.monotonic()
        self._over = now + run.timeout if run.timeout else _NEVER
        self._kill = _NEVER
        self._tell = now + TELL_SECS
        self.pipes: dict[int, Callable[[bytes], None]] = {}
        event_pipe, self.event_end = _pipe()
        self.pipes[event_pipe] = self._event
        try:
            log_pipe, self.log_end = _pipe()
        except OSError:
            os.close(self.event_end)
            self.close()
            raise
        self.pipes[log_pipe] = self._logged

    def read(self, pipe: int) -> bool:
        """Read from a pipe, once; whether more may come."""
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return True
        self.pipes[pipe](data)
        return bool(data)

    def _logged(self, data: bytes) -> None:
        self._keep(self._trim.feed(data))

    def _keep(self, data: bytes) -> None:
        self._log.feed(self._masking.feed(data) if self._masking else data)

    def _shown(self, text: str) -> str:
        return self._masks.cut_text(text) if self._masks else text

    def _event(self, data: bytes) -> None:
        for kind, content in self._events.feed(data):
            if kind == events.OUTPUT:
                self._output = self._masks.json(content) if self._masks else content
            elif kind == events.FAILURE:
                self._failure = self._shown(content.decode("utf-8", "replace")[: events.TEXT_CHARACTERS])
            else:
                progress = _progress(content)
                if progress:
                    self._progress, self._fresh = (*progress[:2], self._shown(progress[2])), True

    def drop(self, pipe: int) -> None:
        """Close a pipe."""
        del self.pipes[pipe]
        os.close(pipe)

    def close(self) -> None:
        """Close the pipes."""
        for pipe in list(self.pipes):
            self.drop(pipe)

    # What is due.

    def next_due(self) -> float:
        """When something is due next, by the monotonic clock."""
        tell = self._tell if self._fresh or self._log.news else _NEVER
        return min(self._over, self._kill, tell)

    def progress(self, now: float) -> RunProgress | None:
        """What is new, when it is time to tell."""
        if now < self._tell or not (self._fresh or self._log.news):
            return None
        self._tell, self._fresh = now + TELL_SECS, False
        return RunProgress(self.run, *self._progress, *self._log.live())

    def too_long(self, now: float) -> bool:
        """Whether it has run for longer than it may; said once."""
        if now < self._over:
            return False
        return self.stop(State.FAILED, f"ran longer than {self.run.timeout:g} s", now)

    def stop(self, state: State, reason: str, now: float) -> bool:
        """Note that it is to be stopped, and what it will have become; False when it is being stopped already."""
        self._over = _NEVER
        if self._stop:
            return False
        self._stop = (state, reason)
        self._kill = now + self._limits.grace
        return True

    def to_be_killed(self, now: float) -> bool:
        """Whether the grace after TERM is over; said once."""
        if now < self._kill:
            return False
        self._kill = _NEVER
        return True

    # The end.

    def outcome(self, status: int, stopped: bool, reason: str, killed: Killed = ()) -> Outcome:
        """What became of it: the wait status, whether a signal was sent before, why it was killed; and what else was."""
        self._drain()
        self._keep(self._trim.end())
        if self._masking:
            self._log.feed(self._masking.end())
        if killed:
            named = [
                f"{self._shown(text)[:_COMMAND_CHARACTERS].strip()} (pid {pid})" for pid, text in killed[:_MOST_NAMED]
            ]
            more = f" and {len(killed) - _MOST_NAMED} more" if len(killed) > _MOST_NAMED else ""
            newline = "" if self._log.text()[-1:] in (b"", b"\n") else "\n"
            self._log.feed(f"{newline}killed at the end: {', '.join(named)}{more}\n".encode())
        if self._stop and (stopped or reason):
            return self._outcome(*self._stop)
        if reason:
            return self._outcome(State.FAILED, reason)
        if self._events.broken:
            return self._outcome(State.FAILED, self._events.broken)
        if len(self._output) > self._limits.output:
            self._output = b""
            return self._outcome(State.FAILED, f"the output is larger than {size(self._limits.output)}")
        if status:
            reason = self._failure or ending(status)
            if status & 0x7F and self.run.memory and not stopped:
                # What libraries do when they get no memory is up to them.
                reason += f"; its memory was limited to {size(self.run.memory)}, which may be too little for it"
            return self._outcome(State.FAILED, reason)
        return self._outcome(State.COMPLETED, "")

    def _outcome(self, state: State, reason: str) -> Outcome:
        # By the monotonic clock: the other may have been set meanwhile.
        ended = self.started + int((time.monotonic() - self._began) * 1000)
        return Outcome(self.run, state, reason, self.started, ended, self._log.text(), self._output, self._progress)

    def _drain(self) -> None:
        """Read what is left. Nobody of the run lives any more, but it may have given its pipes to somebody who does."""
        for pipe, feed in self.pipes.items():
            left = _MOST_LEFT_BYTES
            while left > 0:
                try:
                    data = os.read(pipe, _READ_BYTES)
                except BlockingIOError:
                    break
                if not data:
                    break
                feed(data)
                left -= len(data)


def _pipe() -> tuple[int, int]:
    """A pipe whose read end does not block."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    return read, write


def _progress(content: bytes) -> tuple[float, float | None, str] | None:
    """A progress that makes sense, else None: any process of a run may write anything."""
    try:
        done, total, text = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        return None
    if not _number(done) or not (total is None or _number(total)) or not isinstance(text, str):
        return None
    return done, total, text[: events.TEXT_CHARACTERS]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
