"""A run as the runner sees it: its pipes, what came through them, when something is due, how it ended."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from typing import TypeGuard

from broker.clock import now_ms
from broker.masks import MaskedStream, Masks
from broker.messages.runs import RunEnd, RunState
from jobs import events
from node.runs.log_capture import LogCapture
from node.runs.model import Outcome, Run, RunLimits, RunProgress
from node.runs.processes import describe_bytes, describe_status
from node.runs.protocol import RunExit
from node.runs.tracebacks import Trim
from node.runs.zygote_client import ZygoteClient

TELL_SECS = 0.5  # between two `RunProgress` of a run
_READ_BYTES = 1 << 16
_MOST_LEFT_BYTES = 4 << 20  # in a pipe: more than any holds
_MOST_NAMED = 10  # processes killed at the end that the log names
_COMMAND_CHARACTERS = 80  # of the command line of each
_NEVER = math.inf


class ActiveRun:
    """One run, from its start to its outcome. `pipes`: the read end of each pipe, and the function for its bytes."""

    def __init__(self, run: Run, limits: RunLimits, masks: Masks | None = None, turn: int = 1) -> None:
        """`masks`: those of the secrets that it may have. Raises `OSError` when there are no descriptors left.

        `turn`: 1, or more for a run whose processes have ended before they began it.
        """
        self.run, self.turn = run, turn
        self.zygote: ZygoteClient | None = None  # that has its processes
        self.started = now_ms()
        self._limits = limits
        self._log = LogCapture(limits.log)
        self._trim = Trim()
        self._masks = masks
        self._masked = MaskedStream(masks) if masks else None
        self._events = events.Decoder(limits.output)
        self._output = b""
        self._failure = ""
        self._progress: tuple[float | None, float | None, str] = (None, None, "")
        self._fresh = False
        self._stop: tuple[RunState, str] | None = None
        self._began = now = time.monotonic()
        self._timeout_at = now + run.timeout if run.timeout else _NEVER
        self._kill_at = _NEVER
        self._tell_at = now + TELL_SECS
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
        """Read from a pipe, once; False at its end."""
        try:
            data = os.read(pipe, _READ_BYTES)
        except BlockingIOError:
            return True
        self.pipes[pipe](data)
        return bool(data)

    def _logged(self, data: bytes) -> None:
        self._keep(self._trim.feed(data))

    def _keep(self, data: bytes) -> None:
        self._log.feed(self._masked.feed(data) if self._masked else data)

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
        tell = self._tell_at if self._fresh or self._log.news else _NEVER
        return min(self._timeout_at, self._kill_at, tell)

    def progress(self, now: float) -> RunProgress | None:
        """What is new; None when nothing is, or it is not yet time to tell."""
        if now < self._tell_at or not (self._fresh or self._log.news):
            return None
        self._tell_at, self._fresh = now + TELL_SECS, False
        return RunProgress(self.run, *self._progress, *self._log.take_news())

    def too_long(self, now: float) -> bool:
        """Whether its timeout is over; true once, and the run counts as stopped then."""
        if now < self._timeout_at:
            return False
        return self.stop(RunState.FAILED, f"ran longer than {self.run.timeout:g} s", now)

    def stop(self, state: RunState, reason: str, now: float) -> bool:
        """Note that it is being stopped, and how it will have ended; False when it is being stopped already."""
        self._timeout_at = _NEVER
        if self._stop:
            return False
        self._stop = (state, reason)
        self._kill_at = now + self._limits.grace
        return True

    @property
    def stopping(self) -> bool:
        """Whether it is being stopped."""
        return self._stop is not None

    def to_be_killed(self, now: float) -> bool:
        """Whether the grace after TERM is over; true once."""
        if now < self._kill_at:
            return False
        self._kill_at = _NEVER
        return True

    # The end.

    def outcome(self, exit: RunExit) -> Outcome:
        """Read the rest of its pipes; how it ended, by what the zygote says."""
        self._drain()
        self._keep(self._trim.end())
        if self._masked:
            self._log.feed(self._masked.end())
        if exit.killed:
            self._log_killed(exit)
        state, reason = self._verdict(exit)
        # By the monotonic clock: the other may have been set meanwhile.
        ended = self.started + int((time.monotonic() - self._began) * 1000)
        end = RunEnd(state, reason, self.started, ended)
        return Outcome(self.run, end, self._log.text(), self._output, progress=self._progress)

    def _log_killed(self, exit: RunExit) -> None:
        """Name the processes that were killed at the end in the log."""
        named = [
            f"{self._shown(text)[:_COMMAND_CHARACTERS].strip()} (pid {pid})" for pid, text in exit.killed[:_MOST_NAMED]
        ]
        more = f" and {len(exit.killed) - _MOST_NAMED} more" if len(exit.killed) > _MOST_NAMED else ""
        newline = "" if self._log.text()[-1:] in (b"", b"\n") else "\n"
        self._log.feed(f"{newline}killed at the end: {', '.join(named)}{more}\n".encode())

    def _verdict(self, exit: RunExit) -> tuple[RunState, str]:
        """How it ended, and the reason; an output that is too large is dropped."""
        if self._stop and (exit.stopped or exit.reason):
            return self._stop
        if exit.reason or self._events.broken:
            return RunState.FAILED, exit.reason or self._events.broken
        if len(self._output) > self._limits.output:
            self._output = b""
            return RunState.FAILED, f"the output is larger than {describe_bytes(self._limits.output)}"
        if not exit.status:
            return RunState.COMPLETED, ""
        reason = self._failure or describe_status(exit.status)
        if exit.status & 0x7F and self.run.memory and not exit.stopped:
            # What libraries do when they get no memory is up to them.
            limit = describe_bytes(self.run.memory)
            reason += f"; its memory was limited to {limit}, which may be too little for it"
        return RunState.FAILED, reason

    def _drain(self) -> None:
        """Read what is left. No process of the run lives, but others may have its pipes and go on writing."""
        for pipe, feed in self.pipes.items():
            left = _MOST_LEFT_BYTES
            while left > 0:
                try:
                    data = os.read(pipe, _READ_BYTES)
                except BlockingIOError:  # it is empty
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
    """The progress in an event, None for one without sense: any process of a run may write anything."""
    try:
        done, total, text = json.loads(content)
    except (ValueError, TypeError, RecursionError):  # no JSON, or no array of three
        return None
    if not _number(done) or not (total is None or _number(total)) or not isinstance(text, str):
        return None
    return done, total, text[: events.TEXT_CHARACTERS]


def _number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
