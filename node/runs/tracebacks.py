"""A log without the frames below every script: those of the process that runs it.

A traceback that Python makes begins with the script (`jobs/failures.py`). But faulthandler, `traceback.print_stack`,
`stack_info` of logging, and loguru show the whole stack: also `zygote.py`, `run_process.py` and `loader.py`, which tell
a reader nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_OURS = frozenset(
    str(_ROOT / name).encode() for name in ("node/runs/zygote.py", "node/runs/run_process.py", "jobs/loader.py")
)
_ABOVE_OURS = b"<frozen runpy>"  # of `python -m`, and of scripts that use it themselves
_BEGINS = b'  File "'
_FRAME = re.compile(rb'  File "([^"\n]*)", line \d+,? in ')
_MORE = (b"    ", b"\n")  # begin the lines of a frame after its first
_MOST_HELD_BYTES = 1 << 16


class Trim:
    """A filter for a log as it comes, which drops our frames."""

    def __init__(self) -> None:
        self._rest = b""  # of a line that is not complete and may be part of a frame
        self._mid_line = False  # what was given on last has no end yet
        self._dropping = False  # the frame that these lines belong to is ours
        self._runpy = b""  # frames of runpy: ours, if the next frame is

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the log; what may be shown now, of them and of those before."""
        if not (self._rest or self._dropping or self._runpy) and _BEGINS not in data:
            last = data[data.rfind(b"\n") + 1 :]
            begins = not self._mid_line or len(last) < len(data)
            if not (last and begins and _BEGINS.startswith(last)):
                self._mid_line = bool(last) if data else self._mid_line
                return data
        return self._lines(self._rest + data)

    def end(self) -> bytes:
        """The rest, at the end of the log."""
        left = self._runpy + (b"" if self._dropping and self._rest.startswith(_MORE) else self._rest)
        self._runpy = self._rest = b""
        return left

    def _lines(self, data: bytes) -> bytes:
        self._rest = b""
        shown = b""
        for line in re.findall(rb"[^\n]*\n|[^\n]+", data):
            whole = line.endswith(b"\n")
            if self._mid_line:
                shown += line
                self._mid_line = not whole
            elif whole or len(line) > _MOST_HELD_BYTES:
                shown += self._line(line)
                self._mid_line = not whole
            elif self._dropping or self._runpy or line.startswith(_BEGINS) or _BEGINS.startswith(line):
                self._rest = line
            else:
                shown += self._line(line)
                self._mid_line = True
        return shown

    def _line(self, line: bytes) -> bytes:
        """Take a line; what may be shown now."""
        frame = _FRAME.match(line)
        if frame and (frame[1] in _OURS or (frame[1] == _ABOVE_OURS and self._dropping)):
            self._runpy, self._dropping = b"", True
            return b""
        if frame and frame[1] == _ABOVE_OURS:
            self._runpy += line
            return b""
        if not frame and line.startswith(_MORE):
            if self._dropping:
                self._dropping = line != b"\n"
                return b""
            if self._runpy and len(self._runpy) < _MOST_HELD_BYTES:
                self._runpy += line
                return b""
        shown = self._runpy + line
        self._runpy, self._dropping = b"", False
        return shown
