"""A long log, a window at a time: where a window begins and ends, where a text or the first error is. Pure functions.

A log is read through a `Read`, in pieces: it may have a gigabyte, and lines of megabytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

WINDOW_BYTES = 48 << 10
LEAD_BYTES = 2 << 10  # shown before what was looked for
PIECE_BYTES = 1 << 20
SCAN_BYTES = 32 << 20  # that one request searches
MOST_WANTED = 200  # characters of a text to look for
_HIT_BYTES = 4 << 10  # of a line that is marked
_OVERLAP = 1 << 10  # of two pieces, so that nothing between them is missed

# How many bytes from which one on; fewer at the end of the log, none when they can't be read.
Read = Callable[[int, int], bytes]

_ERROR = re.compile(
    rb"Traceback \(most recent call last\)|\b(?:ERROR|CRITICAL|FATAL|PANIC)\b"
    rb"|\b[A-Z][A-Za-z]{1,60}(?:Error|Exception)\b"
    rb"|^(?:error|fatal|panic)\b|\b(?:error|fatal):|Segmentation fault|core dumped|\bKilled\b",
    re.MULTILINE,
)
_ERROR_WORDS = (b"error", b"exception", b"traceback", b"critical", b"fatal", b"panic", b"fault", b"dumped", b"killed")
# Colours and other commands to a terminal.
_COMMANDS = re.compile(r"\x1b(?:\[[0-9;?]{0,32}[ -/]?[@-~]|\][^\x07\x1b]{0,200}(?:\x07|\x1b\\)|[@-Z\\-_])")


class Window(NamedTuple):
    """A part of a log, and where it is."""

    begin: int  # bytes
    end: int
    size: int  # of the whole log
    before: str
    hit: str  # the line that was looked for, "" for none
    after: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.before + self.hit + self.after


class Tail(NamedTuple):
    """What has come from a byte on: whole lines, and the beginning of one that goes on."""

    begin: int
    lines: str
    rest: str
    next: int  # where the rest begins: what comes is asked for from there


class Found(NamedTuple):
    """Where a text is."""

    at: int  # -1: nowhere up to `upto`
    length: int
    upto: int


def tail(read: Read, begin: int, size: int) -> Tail:
    """What stands from a byte on, at the beginning of a line, to the end of a log."""
    raw = read(begin, size - begin) if size > begin else b""
    cut = raw.rfind(b"\n") + 1
    return Tail(begin, shown(raw[:cut]), shown(raw[cut:]), begin + cut)


def search(read: Read, size: int, text: str, after: int = 0) -> Found:
    """Where a text comes next from a byte on, in capital or small letters, within `SCAN_BYTES`."""
    wanted = _wanted(text)

    def find(piece: bytes) -> tuple[int, int] | None:
        at = piece.lower().find(wanted)
        return None if at < 0 else (at, at + len(wanted))

    return _scan(read, size, find, after)


def first_error(read: Read, size: int, after: int = 0) -> Found:
    """The first line from a byte on that looks like an error, within `SCAN_BYTES`."""
    return _scan(read, size, _find_error, after)


def search_back(read: Read, size: int, text: str, before: int) -> Found:
    """Where a text comes last before a byte, within `SCAN_BYTES`."""
    wanted = _wanted(text)
    end = min(before, size)
    stop = max(0, end - SCAN_BYTES)
    while end > stop:
        begin = max(0, end - PIECE_BYTES)
        piece = read(begin, end - begin + len(wanted) - 1)
        at = piece.lower().rfind(wanted)
        if at >= 0:
            return Found(begin + at, len(wanted), begin)
        if not piece:
            break
        end = begin
    return Found(-1, 0, end)


def _wanted(text: str) -> bytes:
    return text[:MOST_WANTED].encode().lower()


def _scan(read: Read, size: int, find: Callable[[bytes], tuple[int, int] | None], after: int) -> Found:
    at = max(0, after)
    stop = min(size, at + SCAN_BYTES)
    while at < stop:
        piece = read(at, PIECE_BYTES + _OVERLAP)
        if not piece:
            break
        if found := find(piece):
            return Found(at + found[0], found[1] - found[0], at + found[1])
        if at + len(piece) >= size:
            return Found(-1, 0, size)
        at += max(1, len(piece) - _OVERLAP)
    return Found(-1, 0, min(at, size))


def _find_error(piece: bytes) -> tuple[int, int] | None:
    # A look for words costs a tenth of the pattern.
    small = piece.lower()
    places = [at for word in _ERROR_WORDS if (at := small.find(word)) >= 0]
    if not places:
        return None
    found = _ERROR.search(piece, piece.rfind(b"\n", 0, min(places)) + 1)
    return found.span() if found else None


def last(read: Read, size: int, most: int = WINDOW_BYTES) -> Window:
    """The end of a log."""
    return between(read, size, size - most, size)


def before(read: Read, size: int, end: int, most: int = WINDOW_BYTES) -> Window:
    """What stands before a byte."""
    return between(read, size, end - most, end)


def between(read: Read, size: int, begin: int, end: int) -> Window:
    """The whole lines between two bytes; in a line longer than that, from a whole character on."""
    begin, end = max(0, begin), max(0, min(end, size))
    raw = read(begin, end - begin) if end > begin else b""
    begin, raw = _from_line(begin, raw)
    return Window(begin, begin + len(raw), size, shown(raw), "", "")


def around(read: Read, size: int, found: Found) -> Window:
    """A window whose first lines lead to what was found; the line with it is marked."""
    begin = max(0, found.at - LEAD_BYTES)
    raw = read(begin, WINDOW_BYTES)
    if found.at > begin:
        begin, raw = _from_line(begin, raw, found.at - begin)
    at = found.at - begin
    line = raw.rfind(b"\n", max(0, at - _HIT_BYTES), at) + 1 or max(0, at - _HIT_BYTES)
    line_end = raw.find(b"\n", at + found.length, at + found.length + _HIT_BYTES) + 1
    line_end = line_end or min(len(raw), at + found.length + _HIT_BYTES)
    # Not in the middle of the last line, which the next window begins with.
    cut = raw.rfind(b"\n", line_end) + 1
    if begin + len(raw) < size and cut:
        raw = raw[:cut]
    return Window(begin, begin + len(raw), size, shown(raw[:line]), shown(raw[line:line_end]), shown(raw[line_end:]))


def shown(raw: bytes) -> str:
    """Bytes of a log as a text for people: no commands to a terminal, and the last state of a line written over."""
    text = raw.decode("utf-8", "replace")
    if "\x1b" in text:
        text = _COMMANDS.sub("", text)
    if "\r" in text:
        lines = text.replace("\r\n", "\n").split("\n")
        text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return text.replace("\0", "\ufffd")


def _from_line(begin: int, raw: bytes, most: int | None = None) -> tuple[int, bytes]:
    """Without the rest of a line, if another one begins before `most`; else without the rest of a character."""
    if begin == 0:
        return begin, raw
    cut = raw.find(b"\n", 0, most) + 1
    if not cut or cut == len(raw):
        cut = 0
        while cut < min(4, len(raw)) and raw[cut] & 0xC0 == 0x80:
            cut += 1
    return begin + cut, raw[cut:]
