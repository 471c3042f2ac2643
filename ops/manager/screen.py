"""What the operator sees: a bar of progress, tables, figures in words."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

BAR = 30
_BAR_SECS = 0.1  # between two bars
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Bar:
    """Progress on one line, in a terminal alone. `quiet` shows nothing."""

    def __init__(self, what: str, *, quiet: bool = False) -> None:
        """`what` is counted: records, keys, files."""
        self._what = what
        self._on = sys.stdout.isatty() and not quiet
        self._shown_at = 0.0
        self._width = 0

    def show(self, done: float, total: float, note: str = "") -> None:
        """Show that so much of the total is done; `note` stands behind it."""
        now = time.monotonic()
        if not self._on or (done < total and now - self._shown_at < _BAR_SECS):
            return
        self._shown_at = now
        share = min(1.0, done / total) if total else 1.0
        text = f"[{'#' * round(share * BAR):<{BAR}}] {share:4.0%}  {int(done):,} of {int(total):,} {self._what} {note}"
        print(f"\r{text:<{self._width}}", end="", flush=True)
        self._width = len(text)

    def end(self) -> None:
        """Go to the next line."""
        if self._on and self._width:
            print()
            self._width = 0


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines with columns; a column of figures stands at the right. The first row has the titles."""
    columns = list(zip(*rows, strict=True))
    right = [all(cell[:1].isdigit() or cell in ("", "-") for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in rows:
        cells = zip(row, widths, right, strict=True)
        lines.append("  ".join(f"{cell:>{width}}" if at else f"{cell:<{width}}" for cell, width, at in cells).rstrip())
    return "\n".join(lines)


def size(count: float) -> str:
    """A number of bytes in the largest unit of which it has one."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit returns")


def duration(secs: float) -> str:
    """A time in its two largest units: `3 d 4 h`, `5 min 2 s`, `12 s`."""
    left = max(0, round(secs))
    parts: list[str] = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, left = divmod(left, length)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def moment(secs: float) -> str:
    """A time in seconds since the epoch, in words of this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(secs))


def answer(question: str) -> str:
    """The line that the person types; empty when there is nobody."""
    try:
        return input(question).strip()
    except EOFError:
        print()
        return ""
