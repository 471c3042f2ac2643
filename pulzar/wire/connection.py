"""One connection: a request goes out, its response comes in."""

from __future__ import annotations

import contextlib
import io
import select
import socket
import ssl
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from pulzar.wire.addresses import Origin
from pulzar.wire.trust import Trust

CHUNK_BYTES = 1 << 20
_HEAD_LINES = 200
_LINE_BYTES = 1 << 16
_CONNECT_SECS = 10.0


class Broken(Exception):
    """Raised when a connection breaks, stands still, or speaks no HTTP. `sent`: the server may have the request."""

    def __init__(self, message: str, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Body(NamedTuple):
    """What is sent with a request. `size` is None for a body of unknown length, which goes out in chunks."""

    pieces: Iterable[bytes | memoryview]
    size: int | None


class Response:
    """A status and headers, and a body that is read once. Names of headers are in lower case."""

    def __init__(self, connection: Connection, status: int, headers: dict[str, str], bodiless: bool) -> None:
        self.status = status
        self.headers = headers
        self._connection = connection
        self._file = connection.file
        self._chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        self._left: int | None = 0 if bodiless or self._chunked else None
        if not bodiless and not self._chunked and (length := headers.get("content-length")) is not None:
            if not length.isdecimal():
                raise Broken(f"Content-Length {length[:40]!r} is no number", True)
            self._left = int(length)
        self._more = self._chunked and not bodiless  # chunks follow
        closing = headers.get("connection", "").lower() == "close" or self._left is None
        self.reusable = not closing
        self._given_back = False

    def read(self, most: int = -1) -> bytes:
        """Up to `most` bytes, or all that is left; empty at the end. Raises `Broken` when the body is cut off."""
        if most < 0:
            return b"".join(iter(lambda: self.read(CHUNK_BYTES), b""))
        try:
            return self._read(most)
        except (OSError, ValueError, EOFError) as error:
            self.close()
            raise Broken(f"the response broke off: {_why(error)}", True) from error

    def _read(self, most: int) -> bytes:
        if self._chunked and self._left == 0 and self._more:
            self._next_chunk()
        if self._left == 0:
            self._end()
            return b""
        wanted = most if self._left is None else min(most, self._left)
        data = self._file.read1(wanted)
        if self._left is not None:
            if not data:
                raise EOFError("the connection was closed")
            self._left -= len(data)
            if self._chunked and self._left == 0:
                self._file.readline(_LINE_BYTES)
            elif self._left == 0:
                self._end()
        elif not data:
            self._end()
        return data

    def _next_chunk(self) -> None:
        line = self._file.readline(_LINE_BYTES)
        self._left = int(line.partition(b";")[0], 16)
        if self._left == 0:
            self._more = False
            while self._file.readline(_LINE_BYTES).strip():
                continue

    def finish_if_empty(self) -> None:
        """Give the connection back at once when no body follows."""
        if self._left == 0 and not self._more:
            self._end()

    def _end(self) -> None:
        if not self._given_back:
            self._given_back = True
            self._connection.done(self.reusable)

    def close(self) -> None:
        """Give the connection up, unless the whole body was read."""
        if not self._given_back:
            self._given_back = True
            self._connection.done(False)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Connection:
    """A connection to one server, for one request at a time."""

    def __init__(self, origin: Origin, timeout: float, trusted: ssl.SSLContext | None, pool: Pool) -> None:
        """Connect. `timeout`: seconds without a byte. Raises `Broken`."""
        self.origin = origin
        self._pool = pool
        try:
            plain = socket.create_connection((origin.host, origin.port), min(timeout, _CONNECT_SECS))
        except OSError as error:
            raise Broken(f"{origin} can't be reached: {_why(error)}", False) from error
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = plain if trusted is None else trusted.wrap_socket(plain, server_hostname=origin.host)
        except (OSError, ValueError) as error:
            plain.close()
            raise Broken(f"{origin} can't be reached: {_why(error)}", False) from error
        self._timeout = timeout
        self._socket.settimeout(timeout)
        self.file = io.BufferedReader(self._socket.makefile("rb", 0), 1 << 16)

    def fits(self) -> bool:
        """Whether the server keeps the connection open, as far as can be seen. Nothing may come in between requests."""
        return not _readable(self._socket)

    def ask(
        self, method: str, target: str, headers: Mapping[str, str], body: Body | None, patience: float = 0
    ) -> Response:
        """Send a request and read the head of its response; raises `Broken`.

        With `Expect` among the headers the body waits for `100 Continue`; another response comes back without it.
        `patience`: seconds to wait for the response, if that is longer than the timeout.
        """
        sent = False
        waits = "Expect" in headers
        try:
            head = self._head(method, target, headers, body)
            pieces = iter(body.pieces) if body else iter(())
            first = b"" if waits or (body and body.size is None) else next(pieces, b"")
            sent = True
            self._socket.sendall(b"".join((head, first)) if len(first) < CHUNK_BYTES else head)
            if len(first) >= CHUNK_BYTES:
                self._socket.sendall(first)
            early = None
            if waits:
                early = self._status_and_headers()
                if early[0] != 100:
                    return self._response(method, *early, whole=False)
            whole = self._send(pieces, body)
            self._socket.settimeout(max(self._timeout, patience))
            status, found = self._status_and_headers()
            while 100 <= status < 200:
                status, found = self._status_and_headers()
            self._socket.settimeout(self._timeout)
            return self._response(method, status, found, whole=whole)
        except (OSError, ValueError, EOFError) as error:
            self.close()
            raise Broken(f"{self.origin} broke the connection: {_why(error)}", sent) from error
        except BaseException:
            self.close()
            raise

    def _head(self, method: str, target: str, headers: Mapping[str, str], body: Body | None) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.origin.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append("Transfer-Encoding: chunked" if body.size is None else f"Content-Length: {body.size}")
        text = "\r\n".join(lines)
        if text.count("\n") != len(lines) - 1 or text.count("\r") != len(lines) - 1:
            raise ValueError("a header has a line break")
        return f"{text}\r\n\r\n".encode("latin-1")

    def _send(self, pieces: Iterator[bytes | memoryview], body: Body | None) -> bool:
        """Send the rest of a body; False when the server responded, or broke off, before its end."""
        try:
            for piece in pieces:
                if isinstance(self._socket, ssl.SSLSocket) or not _readable(self._socket):
                    self._send_piece(piece, body)
                else:
                    return False  # it has said something already, and reads no more
            if body is not None and body.size is None:
                self._socket.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return False  # its response says more than this error
        return True

    def _send_piece(self, piece: bytes | memoryview, body: Body | None) -> None:
        if body is not None and body.size is None:
            if len(piece):
                self._socket.sendall(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
        else:
            self._socket.sendall(piece)

    def _status_and_headers(self) -> tuple[int, dict[str, str]]:
        readline = self.file.readline
        line = readline(_LINE_BYTES)
        if not line:
            raise EOFError("the connection was closed before a response")
        if not line.startswith(b"HTTP/1.") or not line[9:12].isdigit():
            raise ValueError(f"{line[:40]!r} is no HTTP")
        headers: dict[str, str] = {}
        for _ in range(_HEAD_LINES):
            field = readline(_LINE_BYTES)
            if field in (b"\r\n", b"\n"):
                return int(line[9:12]), headers
            name, colon, value = field.partition(b":")
            if not colon:
                raise EOFError("the head of the response was cut off")
            headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        raise ValueError("the response has too many headers")

    def _response(self, method: str, status: int, headers: dict[str, str], whole: bool) -> Response:
        response = Response(self, status, headers, method == "HEAD" or status in (204, 304))
        response.reusable = response.reusable and whole
        response.finish_if_empty()
        return response

    def done(self, reusable: bool) -> None:
        """Go back to the pool when the next request may use the connection, else close it."""
        if reusable:
            self._pool.give(self)
        else:
            self.close()

    def close(self) -> None:
        """Close; what is on its way is dropped."""
        self._pool.forget(self)
        self.file.close()
        self._socket.close()

    def shut(self) -> None:
        """End what another thread sends or receives."""
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)


class Pool:
    """Connections that wait for their next request, by server. Any thread may use it."""

    def __init__(self, timeout: float, trust: Trust) -> None:
        self._timeout = timeout
        self._trust = trust
        self._idle: dict[Origin, list[Connection]] = {}
        self._used: set[Connection] = set()
        self.closed = False

    def take(self, origin: Origin, fresh: bool = False) -> Connection:
        """A connection, kept or new; `fresh`: a new one. Raises `Broken`."""
        connection = None if fresh else self._kept(origin)
        if connection is None:
            trusted = self._trust.context() if origin.scheme == "https" else None
            connection = Connection(origin, self._timeout, trusted, self)
        self._used.add(connection)
        if self.closed:
            connection.close()
            raise Broken("the client is closed", False)
        return connection

    def _kept(self, origin: Origin) -> Connection | None:
        kept = self._idle.get(origin)
        while kept:
            try:
                connection = kept.pop()
            except IndexError:  # another thread has taken it
                return None
            if connection.fits():
                return connection
            connection.close()
        return None

    def give(self, connection: Connection) -> None:
        """Keep a connection for the next request."""
        self._used.discard(connection)
        self._idle.setdefault(connection.origin, []).append(connection)
        if self.closed:
            self.close()

    def forget(self, connection: Connection) -> None:
        """A connection is closed."""
        self._used.discard(connection)

    def close(self) -> None:
        """Close those that wait. No new one is made."""
        self.closed = True
        for kept in list(self._idle.values()):
            while kept:
                kept.pop().close()

    def abort(self) -> None:
        """Close all, also those in use: other threads get `Broken`."""
        self.close()
        for connection in list(self._used):
            connection.shut()


def _readable(connection: socket.socket) -> bool:
    """Whether something came, or the server has closed."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
