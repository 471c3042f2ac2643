"""The audit log: one line of JSON for each request that changes something or is refused, and for reads if asked.

Every web worker appends to the same file, a line at a time. A line is written before its client gets the response. It
has no token and no query, which could have a signature.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path

from broker import logs
from broker.http.browsers import SAFE_METHODS
from master.security.gate import NAME

log = logs.get(__name__)

FILE = "audit.log"
MAX_BYTES = 64 << 20  # of a file; then it is renamed to audit.log.1, and so on
KEPT = 8  # older files
CHECK_SECS = 1.0  # between two looks at the size of the file, and whether another worker has renamed it
ABOUT = "pulzar.about"  # in the environment of a request: its key, when only its body says which
_REFUSED = (401, 403, 421)
_DEEP = ("admin", "internal")
_QUIET = ("/health", "/ui/jobs/launch/lines")  # the second is asked for while one types, and changes nothing
_TAIL_BYTES = 1 << 20  # of a file that is looked at for its last lines


class AuditLog:
    """The audit log of one master, for one of its web workers. Used on one thread."""

    def __init__(self, directory: Path, reads: bool, most: int = MAX_BYTES) -> None:
        """`reads`: also requests that change nothing and are not refused. `most`: bytes of a file."""
        self._path = directory / FILE
        self._reads = reads
        self._most = most
        self._descriptor = -1
        self._next = 0.0
        self._broken = False

    def note(self, environ: Mapping[str, str], status: int) -> None:
        """Write the line of a request, unless it needs none."""
        method = environ["REQUEST_METHOD"]
        if method in SAFE_METHODS and status not in _REFUSED and not self._reads:
            return
        path = environ["PATH_INFO"]
        if path in _QUIET and status not in _REFUSED:
            return
        seconds, ms = divmod(time.time_ns() // 1_000_000, 1000)
        route, about = split(path)
        name = environ.get(NAME)
        # Written by hand: a line in a third of the time.
        line = (
            f'{{"time": "{_second(seconds)}.{ms:03}+00:00", "name": {_quoted(name) if name else "null"}, '
            f'"address": {_quoted(environ["REMOTE_ADDR"].rpartition(":")[0])}, "method": {_quoted(method)}, '
            f'"route": {_quoted(route)}, "about": {_quoted(environ.get(ABOUT, about))}, "status": {status}}}\n'
        )
        self._append(line.encode("ascii"))

    def _append(self, line: bytes) -> None:
        try:
            now = time.monotonic()
            if now >= self._next:
                self._next = now + CHECK_SECS
                self._look()
            os.write(self._descriptor, line)
            self._broken = False
        except OSError as error:
            if not self._broken:
                log.error("the audit log can't be written; requests go on without it", file=self._path, error=error)
            self._broken = True
            self._next = 0.0

    def _look(self) -> None:
        """Open the file that has the name now, after it was renamed when it is too long. Raises `OSError`."""
        self._open()
        if os.fstat(self._descriptor).st_size <= self._most:
            return
        # The lock is on the file: another worker may have renamed it meanwhile, and then it is not the one any more.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            if os.stat(self._path).st_ino == os.fstat(self._descriptor).st_ino:
                for number in range(KEPT - 1, 0, -1):
                    older = self._path.with_name(f"{FILE}.{number}")
                    if older.exists():
                        older.replace(self._path.with_name(f"{FILE}.{number + 1}"))
                self._path.replace(self._path.with_name(f"{FILE}.1"))
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._open()

    def _open(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor

    def close(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._next = 0.0


def newest(directory: Path, limit: int) -> list[dict[str, object]]:
    """The last lines of the audit log of the master in `directory`, the newest first; none when there is no log."""
    found: list[dict[str, object]] = []
    for name in (FILE, f"{FILE}.1"):
        try:
            lines = _last_lines(directory / name)
        except FileNotFoundError:
            continue
        for line in reversed(lines):
            if len(found) == limit:
                return found
            try:
                found.append(json.loads(line))
            except ValueError:  # a disk that was full has cut it
                continue
    return found


def _last_lines(path: Path) -> list[bytes]:
    with path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES)
        file.seek(start)
        lines = file.read(_TAIL_BYTES).split(b"\n")
    return lines[bool(start) : -1]


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def split(path: str) -> tuple[str, str]:
    """A path as its route and what it is about: `/get_key` and a key, `/admin/jobs` and an id."""
    first, _, rest = path[1:].partition("/")
    if first in _DEEP:
        second, _, rest = rest.partition("/")
        first = f"{first}/{second}"
    return f"/{first}", rest
