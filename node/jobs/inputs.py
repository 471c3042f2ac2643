"""Local copies of the values that jobs work on. The master says which value that is, wherever it lies.

A value file can't be handed to a job: a head stands before the bytes and checksums behind them. So a copy is made, over
HTTP and checked, also of what is on this very node. Runs that want the same value at the same time share a copy,
each by a name of its own (`leader.py`), and it is kept for a moment after the last of them. A run can write to it
nevertheless: so before it is used again, it is looked at whether it is still as it was made.
"""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from broker import logs
from broker.errors import PulzarError
from broker.http import request_fields as web
from broker.http import signing
from broker.settings import Settings, joined, reachable
from node.storage.disk import files, space

log = logs.get(__name__)

PATIENCE_SECS = 30.0  # with a master, and a node that has the value, that are away
KEEP_SECS = 30.0  # after the last run that used a copy
_PAUSE_SECS = 0.2
_TIMEOUT_SECS = 30.0  # of one answer, and of each part of it
_MOST_REDIRECTS = 5
_CHUNK_BYTES = 1 << 20
_SIGNED_SECS = 300


class NoInput(PulzarError):
    """Raised when a job can't have the value that it is to work on."""


class _Away(PulzarError):
    """Raised when a server is away, or answers that it can't just now."""


@dataclass
class _Copy:
    value: str  # name of what is in it
    path: Path
    made: tuple[int, ...] = ()  # inode, size, mtime, mode
    users: int = 1
    ready: threading.Event = field(default_factory=threading.Event)
    problem: str = ""
    unused_since: float = 0.0

    def look(self) -> tuple[int, ...]:
        """How the file is now; nothing when it is gone."""
        try:
            status = self.path.stat(follow_symlinks=False)
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


class Inputs:
    """Of the agent; for all threads."""

    def __init__(self, directory: Path, config: Settings) -> None:
        """`directory` is emptied; raises `StorageError`."""
        self._directory = directory
        self._secret = config.secret()
        self._master = f"http://{config.address(config.server)}"
        self._own = f"http://{joined(reachable(config.volume.host), config.volume.port)}"
        self._space = space.Space(directory, config.volume.reserve)
        self._copies: dict[str, _Copy] = {}  # by value: those that are for more runs
        self._files: dict[str, _Copy] = {}  # all, by file
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        with files.guarded("the directory of jobs' inputs can't be made ready"):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True, exist_ok=True)

    def fetch(self, key: str, wanted: Callable[[], bool]) -> Path:
        """A file with the value of a key, to be read only; `release` it afterwards.

        Takes as long as it takes; raises `NoInput` with the reason, also soon after `wanted` is False.
        """
        until = time.monotonic() + PATIENCE_SECS
        while True:
            try:
                return self._fetch(key, wanted)
            except (_Away, OSError, http.client.HTTPException) as error:
                if time.monotonic() > until or not wanted():
                    raise NoInput(f"{key} can't be fetched: {error or type(error).__name__}") from error
                log.debug("input not fetched yet", key=key, reason=error)
                time.sleep(_PAUSE_SECS)

    def release(self, path: Path) -> None:
        """The file is not needed any more."""
        with self._guard:
            copy = self._files[path.name]
            copy.users -= 1
            copy.unused_since = time.monotonic()

    def tidy(self, keep_secs: float = KEEP_SECS) -> None:
        """Remove the copies that were not used for so long."""
        with self._guard:
            now = time.monotonic()
            for copy in [copy for copy in self._files.values() if not copy.users]:
                if now - copy.unused_since >= keep_secs or self._copies.get(copy.value) is not copy:
                    self._forget(copy)

    def _forget(self, copy: _Copy) -> None:
        """Remove a copy; with the guard held."""
        del self._files[copy.path.name]
        if self._copies.get(copy.value) is copy:
            del self._copies[copy.value]
        copy.path.unlink(missing_ok=True)

    def _fetch(self, key: str, wanted: Callable[[], bool]) -> Path:
        with closing(self._ask(key)) as response:
            etag = response.getheader("ETag") or str(time.time_ns())
            name = hashlib.sha256(f"{etag} {key}".encode()).hexdigest()[:32]
            with self._guard:
                copy = self._copies.get(name)
                if copy is not None and copy.made and copy.look() != copy.made:
                    log.warning("a run has changed its copy of a value; it is fetched again", key=key)
                    copy = None  # those that use it go on
                if copy is not None:
                    copy.users += 1
                else:
                    mine = _Copy(name, self._directory / f"{name}.{next(self._numbers)}")
                    self._copies[name] = self._files[mine.path.name] = mine
            if copy is None:
                self._copy(response, key, mine, wanted)
                return mine.path
        while not copy.ready.wait(_PAUSE_SECS):
            if not wanted():
                break
        if not copy.ready.is_set() or copy.problem:
            with self._guard:
                copy.users -= 1
            raise _Away(copy.problem or "it is not wanted any more")
        return copy.path

    def _copy(self, response: http.client.HTTPResponse, key: str, copy: _Copy, wanted: Callable[[], bool]) -> None:
        try:
            self._write(response, key, copy.path, wanted)
            copy.made = copy.look()
        except BaseException as error:
            copy.problem = str(error) or type(error).__name__
            with self._guard:
                self._forget(copy)
            raise
        finally:
            copy.ready.set()

    def _write(self, response: http.client.HTTPResponse, key: str, path: Path, wanted: Callable[[], bool]) -> None:
        size = int(response.getheader("Content-Length") or 0)
        if self._space.short(size):
            self.tidy(0.0)
            self._space.forget()
            if self._space.short(size):
                raise NoInput(f"there is no room on this node for a copy of {key}, {size} bytes")
        began = time.monotonic()
        with path.open("xb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                if not wanted():
                    raise NoInput("it is not wanted any more")
                file.write(chunk)
            if file.tell() != size:
                raise _Away(f"the answer ended after {file.tell()} of {size} bytes")
        os.chmod(path, 0o444)
        log.debug("input fetched", key=key, bytes=size, seconds=time.monotonic() - began)

    def _ask(self, key: str) -> http.client.HTTPResponse:
        """A good answer with the value: of the node that the master says, else of this node's own data server."""
        path = f"/get_key/{web.quote_key(key)}"
        try:
            return _get(self._master + path)
        except (_Away, OSError, http.client.HTTPException) as error:
            until = int(time.time()) + _SIGNED_SECS
            try:
                return _get(f"{self._own}{path}?{signing.sign(self._secret, 'GET', key, {}, until)}")
            except (NoInput, _Away, OSError, http.client.HTTPException) as own:
                log.debug("not on this node", key=key, reason=own)
            raise _Away(f"{self._master}: {error or type(error).__name__}") from error


def _get(url: str) -> http.client.HTTPResponse:
    """The answer at the end of all redirects; closing it closes its connection."""
    for _ in range(_MOST_REDIRECTS):
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=_TIMEOUT_SECS, blocksize=_CHUNK_BYTES)
        try:
            # Then the answer has the socket alone.
            headers = {"Connection": "close", "Accept-Encoding": "identity"}
            connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""), headers=headers)
            response = connection.getresponse()
        except BaseException:
            connection.close()
            raise
        location = response.getheader("Location")
        if response.status == 200:
            return response
        text = response.read(_CHUNK_BYTES)
        response.close()
        if response.status == 404:
            raise NoInput(f"the key {parts.path.removeprefix('/get_key/')} is unknown")
        if response.status not in (302, 303, 307, 308) or not location:
            raise _Away(f"{parts.netloc} answers {response.status} {text[:200].decode('utf-8', 'replace')}")
        url = urljoin(url, location)
    raise _Away("too many redirects")
