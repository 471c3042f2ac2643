"""Local copies of the values that jobs work on. The master says where each value is.

A job can't have the value file itself, since there are a head before its bytes and checksums behind them. So a copy is
fetched over HTTP and checked, even of a value on this node. Runs that want the same value at the same time share a
copy, each by a name of its own (`run_process.py`). It is kept for a moment after the last of them. A run may change it
nevertheless, so each new use begins with a look at whether the file is as it was made.
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
from urllib.parse import urlsplit

from broker import logs
from broker.errors import PulzarError
from broker.http import request_fields as web
from broker.http import signing
from broker.settings import Settings, joined, reachable
from jobs import client
from node.storage.disk import files, space

log = logs.get(__name__)

PATIENCE_SECS = 30.0  # with a master or a node that is away
KEEP_SECS = 30.0  # after the last run that used a copy
_PAUSE_SECS = 0.2
_TIMEOUT_SECS = 30.0  # for a response, and for each part of it
_CHUNK_BYTES = 1 << 20
_SIGNED_SECS = 300
Exchange = tuple[http.client.HTTPConnection, http.client.HTTPResponse]  # a response, and what to read it from


class NoInput(PulzarError):
    """Raised when a job can't have the value that it works on."""


class _Away(PulzarError):
    """Raised when a server is away, or can't give the value just now."""


@dataclass
class _Copy:
    """A local copy of a value."""

    value: str  # name of this version of the value
    path: Path
    made: tuple[int, ...] = ()  # inode, size, mtime, mode when it was complete
    users: int = 1
    ready: threading.Event = field(default_factory=threading.Event)
    problem: str = ""  # why it could not be made
    unused_since: float = 0.0

    def look(self) -> tuple[int, ...]:
        """Inode, size, mtime and mode of the file now; nothing when it is gone."""
        try:
            status = self.path.stat(follow_symlinks=False)
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


class Inputs:
    """The copies of a node. Thread-safe."""

    def __init__(self, directory: Path, config: Settings, node: str) -> None:
        """Empty the directory; raises `StorageError`."""
        self._directory = directory
        self._secret = config.secret()
        self._node = node
        self._master = config.url(config.server)
        self._own = f"{config.scheme(config.volume)}://{joined(reachable(config.volume.host), config.volume.port)}"
        self._ca = config.security.ca
        self._space = space.Space(directory, config.volume.reserve)
        self._copies: dict[str, _Copy] = {}  # by value: those that may be shared
        self._files: dict[str, _Copy] = {}  # all of them, by file
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()
        with files.guarded("the directory of jobs' inputs can't be made ready"):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True, exist_ok=True)

    def fetch(self, key: str, wanted: Callable[[], bool], token: str = "") -> Path:
        """Fetch the value of a key; a file that is only to be read. Call `release` when it is not needed any more.

        With a token the master looks whether that may read it, and nobody else is asked.
        Takes as long as the transfer takes. Raises `NoInput` with the reason, and soon after `wanted` returns False.
        """
        until = time.monotonic() + PATIENCE_SECS
        while True:
            try:
                return self._fetch(key, wanted, token)
            except (_Away, OSError, http.client.HTTPException) as error:
                if time.monotonic() > until or not wanted():
                    raise NoInput(f"{key} can't be fetched: {error or type(error).__name__}") from error
                log.debug("input not fetched yet", key=key, reason=error)
                time.sleep(_PAUSE_SECS)

    def release(self, path: Path) -> None:
        """Note that a run needs the file no more."""
        with self._guard:
            copy = self._files[path.name]
            copy.users -= 1
            copy.unused_since = time.monotonic()

    def tidy(self, keep_secs: float = KEEP_SECS) -> None:
        """Remove the copies that were not used for `keep_secs` seconds."""
        with self._guard:
            now = time.monotonic()
            for copy in [copy for copy in self._files.values() if not copy.users]:
                if now - copy.unused_since >= keep_secs or self._copies.get(copy.value) is not copy:
                    self._forget(copy)

    def _forget(self, copy: _Copy) -> None:
        """Remove a copy; the caller holds the guard."""
        del self._files[copy.path.name]
        if self._copies.get(copy.value) is copy:
            del self._copies[copy.value]
        copy.path.unlink(missing_ok=True)

    def _fetch(self, key: str, wanted: Callable[[], bool], token: str) -> Path:
        connection, response = self._request(key, token)
        with closing(connection):
            etag = response.getheader("ETag") or str(time.time_ns())
            name = hashlib.sha256(f"{etag} {key}".encode()).hexdigest()[:32]
            with self._guard:
                copy = self._copies.get(name)
                if copy is not None and copy.made and copy.look() != copy.made:
                    log.warning("a run has changed its copy of a value; it is fetched again", key=key)
                    copy = None  # its users keep it
                if copy is not None:
                    copy.users += 1
                else:
                    new = _Copy(name, self._directory / f"{name}.{next(self._numbers)}")
                    self._copies[name] = self._files[new.path.name] = new
            if copy is None:
                self._make(new, response, key, wanted)
                return new.path
        while not copy.ready.wait(_PAUSE_SECS):
            if not wanted():
                break
        if not copy.ready.is_set() or copy.problem:
            with self._guard:
                copy.users -= 1
            raise _Away(copy.problem or "it is not wanted any more")
        return copy.path

    def _make(self, copy: _Copy, response: http.client.HTTPResponse, key: str, wanted: Callable[[], bool]) -> None:
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

    def _request(self, key: str, token: str) -> Exchange:
        """Request the value from the node that the master names, else from this node's own data server."""
        if token:
            return _get(f"{self._master}/get_key/{web.quote_key(key)}", token, self._ca)
        try:
            return _get(self._master + self._signed(key, signing.AT_MASTER), ca=self._ca)
        except (_Away, OSError, http.client.HTTPException) as error:
            try:
                return _get(self._own + self._signed(key, self._node), ca=self._ca)
            except (NoInput, _Away, OSError, http.client.HTTPException) as own:
                log.debug("not on this node", key=key, reason=own)
            raise _Away(f"{self._master}: {error or type(error).__name__}") from error

    def _signed(self, key: str, node: str) -> str:
        query = signing.sign(self._secret, "GET", key, {signing.NODE: node}, int(time.time()) + _SIGNED_SECS)
        return f"/get_key/{web.quote_key(key)}?{query}"


def _get(url: str, token: str = "", ca: str = "") -> Exchange:
    """Follow all redirects to a response 200.

    Raises `NoInput` for 404, and where the token does not allow it; `_Away`, `OSError` or `HTTPException`.
    """
    connection, response = client.follow("GET", url, timeout=_TIMEOUT_SECS, token=token, ca=ca)
    if response.status == 200:
        return connection, response
    with closing(connection):
        text = response.read(_CHUNK_BYTES)
    if response.status == 404:
        raise NoInput(f"the key {urlsplit(url).path.removeprefix('/get_key/')} is unknown")
    shown = text[:200].decode("utf-8", "replace")
    if token and response.status in (401, 403):
        raise NoInput(f"the key {urlsplit(url).path.removeprefix('/get_key/')} may not be read: {shown}")
    raise _Away(f"{connection.host}:{connection.port} answers {response.status} {shown}")
