"""Fetches an address within limits of time and size, whatever its server does."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from types import TracebackType
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit

from broker import tls
from extensions._errors import Refused
from extensions._parameters import shown
from extensions._reach import Reach

SECS = 20.0  # from the first connection to the last byte, redirects included
MOST_BYTES = 64 << 20
MOST_REDIRECTS = 5

_CHUNK_BYTES = 1 << 16
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_SAFE = "/%?=&-._~!$'()*+,;:@[]"  # characters that stand as they are, or are percent-encoded already


class Deadline:
    """Cuts a connection when its time is over. Limits of single reads don't help against a slow server."""

    def __init__(self, secs: float) -> None:
        self.secs = secs
        self._until = time.monotonic() + secs
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(secs, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Deadline:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    @property
    def left(self) -> float:
        """Seconds that are left. Never 0, which sockets take for something else."""
        return max(0.001, self._until - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._until

    def connect(self, addresses: Iterable[str], port: int) -> socket.socket:
        """A connection to the first address that answers; raises `OSError`."""
        failed: OSError = OSError("there is no address")
        for address in addresses:
            try:
                return self.watched(socket.create_connection((address, port), timeout=self.left))
            except OSError as error:
                failed = error
        raise failed

    def watched(self, sock: socket.socket) -> socket.socket:
        """Cut this connection from now on; returns it."""
        with self._lock:
            self._socket = sock
        if self.over:
            self._cut()
        return sock

    def _cut(self) -> None:
        with self._lock, suppress(OSError):  # it is not connected any more
            if self._socket is not None:
                self._socket.shutdown(socket.SHUT_RDWR)


class _Plain(http.client.HTTPConnection):
    """A connection without TLS. `addresses` gives the addresses of its host that may be connected to."""

    def __init__(self, host: str, port: int, deadline: Deadline, addresses: Callable[[], Iterable[str]]) -> None:
        super().__init__(host, port)
        self._deadline = deadline
        self._addresses = addresses

    def connect(self) -> None:
        self.sock = self._deadline.connect(self._addresses(), self.port)


class _Secure(_Plain):
    """One with TLS. `ca` is a file of certificates to trust, besides those of the system."""

    default_port = _PORTS["https"]
    ca = ""

    def connect(self) -> None:
        super().connect()
        context = tls.trust(self.ca)
        sock = context.wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self._deadline.watched(sock)
        sock.do_handshake()


def fetch(url: str, file: BinaryIO, reach: Reach, secs: float = SECS, most: int = MOST_BYTES) -> None:
    """Write the content of an `http` or `https` address to a file, and go to its beginning.

    Raises `Refused` with 400 for a bad address, one out of reach, or a content of more than `most` bytes. Raises it
    with 502 when the server does not send a good response within `secs` seconds.
    """
    with Deadline(secs) as deadline:
        at = url
        for _ in range(MOST_REDIRECTS + 1):
            onward = _get(at, file, deadline, most, reach)
            if onward is None:
                file.seek(0)
                return
            at = onward
    raise Refused(502, f"image_url {shown(url)} leads from one address to the next, more than {MOST_REDIRECTS} times")


def _get(url: str, file: BinaryIO, deadline: Deadline, most: int, reach: Reach) -> str | None:
    """Send one request. Returns where a redirect leads, or None when the file has the content."""
    connection, target = _connection(url, deadline, reach)
    with closing(connection):
        try:
            connection.connect()
            headers = {"Accept": "image/*,*/*;q=0.5", "Connection": "close"}
            address, port = connection.sock.getpeername()[:2]
            if token := reach.token_for(address, port, target):
                headers["Authorization"] = f"Bearer {token}"
            connection.request("GET", target, headers=headers)
            # An open response would keep the connection open.
            with connection.getresponse() as response:
                if response.status in _REDIRECTS and (location := response.getheader("Location")):
                    return urljoin(url, location)
                if response.status != 200:
                    status = 400 if 400 <= response.status < 500 else 502
                    raise Refused(status, f"{shown(url)} was answered {response.status} {response.reason}")
                _copy(response, file, most, url)
            # When the connection is cut, that may look like the end of the response.
            failed: Exception | None = TimeoutError() if deadline.over else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            failed = error
    if failed is None:
        return None
    if deadline.over:
        raise Refused(502, f"{shown(url)} was not there within {deadline.secs:g} s") from failed
    raise Refused(502, f"{shown(url)} can't be fetched: {failed or type(failed).__name__}") from failed


def _copy(response: http.client.HTTPResponse, file: BinaryIO, most: int, url: str) -> None:
    long = Refused(400, f"what is at {shown(url)} is longer than {most:,} bytes, which is the limit")
    if response.length is not None and response.length > most:
        raise long
    left = most
    while chunk := response.read1(_CHUNK_BYTES):
        left -= len(chunk)
        if left < 0:
            raise long
        file.write(chunk)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)


def _connection(url: str, deadline: Deadline, reach: Reach) -> tuple[_Plain, str]:
    """A connection to the server of an address, and the target of the request; raises `Refused`."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
        target = quote(parts.path or "/", _SAFE) + (f"?{quote(parts.query, _SAFE)}" if parts.query else "")
        if scheme not in _PORTS or not host:
            raise Refused(400, f"image_url leads to {shown(url)}; an address with http:// or https:// is needed")
        kind = _Secure if scheme == "https" else _Plain
        name, at = host.encode("idna").decode("ascii"), port or _PORTS[scheme]
        connection = kind(name, at, deadline, lambda: reach.addresses(url, name, at, target))
        if isinstance(connection, _Secure):
            connection.ca = reach.ca
        return connection, target
    except (ValueError, http.client.InvalidURL) as error:  # the latter for a blank or control character in the host
        raise Refused(400, f"image_url leads to {shown(url)}, which is no address: {error}") from error
