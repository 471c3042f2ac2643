"""What a run tells its parent: JSON lines on standard output."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TextIO

PAUSE_SECS = 0.5


class Progress:
    """Lines `{"phase", "done", "total"}`, at most two a second within a phase; the figures are bytes."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._phase = ""
        self._done = self._total = 0
        self._shown = float("-inf")

    def begin(self, phase: str, total: int = 0) -> None:
        """A phase begins, of which there is `total` to do."""
        self._phase, self._done, self._total = phase, 0, total
        self._show()

    def advance(self, count: int) -> None:
        """So much more is done."""
        self._done += count
        if self._clock() - self._shown >= PAUSE_SECS:
            self._show()

    def outcome(self, fields: dict[str, object]) -> None:
        """The last line."""
        self._write(fields)

    def _show(self) -> None:
        self._shown = self._clock()
        self._write({"phase": self._phase, "done": self._done, "total": self._total})

    def _write(self, fields: dict[str, object]) -> None:
        self._stream.write(json.dumps(fields) + "\n")
        self._stream.flush()
