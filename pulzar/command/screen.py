"""What a command prints: lines for people or JSON for programs, and how far it is, on a terminal only."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TextIO

_REDRAW_SECS = 0.2
_BAR = 24
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Screen:
    """Where a command prints. With `json`, each result is one line of JSON."""

    def __init__(self, as_json: bool = False, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.json = as_json
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def line(self, text: str, data: object = None) -> None:
        """A result: text for people, or the data in its place."""
        shown = json.dumps(data, ensure_ascii=False) if self.json and data is not None else text
        print(printable(shown), file=self._out)

    def say(self, text: str) -> None:
        """A remark for people; it is no result."""
        print(printable(text), file=self._err)

    def raw(self, data: bytes) -> None:
        """Bytes, as they are."""
        self._out.flush()
        self._out.buffer.write(data)
        self._out.buffer.flush()

    def log(self, data: bytes) -> None:
        """Lines of a job's log, beside the results."""
        self._err.write(data.decode("utf-8", "replace"))
        self._err.flush()

    def table(self, rows: Sequence[Sequence[str]], data: Sequence[object]) -> None:
        """Rows in columns, or a line of JSON for each. The first row has the titles."""
        if self.json:
            for each in data:
                self.line("", each)
            return
        widths = [max(len(printable(row[column])) for row in rows) for column in range(len(rows[0]))]
        for row in rows if data else ():
            cells = (printable(cell).ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip(), file=self._out)

    def progress(self, what: str, total: int = 0) -> Progress:
        """A line that tells how many bytes are done, of `total` if that is known."""
        return Progress(what, total, self._err, self._err.isatty() and not self.json)


class Progress:
    """A line on the terminal that is drawn again and again. Any thread may add to it."""

    def __init__(self, what: str, total: int, err: TextIO, shown: bool) -> None:
        self._what, self._total, self._err, self._shown = what, total, err, shown
        self._done = 0
        self._began = self._drawn = time.monotonic()
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """So many more bytes are done."""
        if not self._shown:
            return
        with self._lock:
            self._done += size
            now = time.monotonic()
            if now - self._drawn >= _REDRAW_SECS:
                self._drawn = now
                self._err.write(f"\r{self._text(now)}\x1b[K")
                self._err.flush()

    def _text(self, now: float) -> str:
        rate = f"{size_text(self._done / max(now - self._began, 0.001))}/s"
        if not self._total:
            return f"{self._what}  {size_text(self._done)}  {rate}"
        part = min(1.0, self._done / self._total)
        bar = ("#" * round(part * _BAR)).ljust(_BAR, ".")
        return f"{self._what}  [{bar}] {part:4.0%} of {size_text(self._total)}  {rate}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown and self._drawn != self._began:
            self._err.write("\r\x1b[K")
            self._err.flush()


def printable(text: str) -> str:
    """The text without characters that would control a terminal, or that can't be written."""
    clean = text if text.isprintable() else "".join(_shown(each) for each in text)
    return clean.encode("utf-8", "backslashreplace").decode()


def _shown(character: str) -> str:
    return character if character.isprintable() or character == "\n" else repr(character)[1:-1]


def size_text(size: float) -> str:
    """A number of bytes for people."""
    for unit in _UNITS:
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes all")


def time_text(seconds: float | None) -> str:
    """A time since the epoch for people, as it is here."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def plain(value: Any) -> str:
    """A value for a cell of a table."""
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
