"""Whether the client of a chunked upload was there to its end.

The web server (Granian, WSGI) shows a body that was cut off, because the client died or the network did, just
like one that ended as it should. With a Content-Length the missing bytes tell; a chunked body has none. What
tells is the client's connection: after a complete body the client waits for its answer and the connection is
established, after one cut off it is closing or dead, and stays so until the request has been answered.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

_SOCKETS = Path("/proc/self/fd")
_CLOSED, _CLOSE_WAIT = 7, 8  # TCP states, as the kernel numbers them
# Somebody else's connection that is just being closed looks the same, but not for long.
_PATIENCE_SECS = 0.25
_PAUSE_SECS = 0.02


class Connections:
    """The connections of this process; to be made before the first request comes in."""

    def __init__(self) -> None:
        # Sockets made to listen later look like dead ones.
        self._before = {inode for _, inode in _sockets()}

    def cut_off(self, environ: dict[str, Any]) -> bool:
        """Whether the request's connection may be cut off. True in doubt; False where there is no /proc to ask."""
        deadline = time.monotonic() + _PATIENCE_SECS
        while self._broken(environ["REMOTE_ADDR"], int(environ["SERVER_PORT"])):
            if time.monotonic() > deadline:
                return True
            time.sleep(_PAUSE_SECS)
        return False

    def _broken(self, client: str, port: int) -> bool:
        """Whether any connection to `port` is dead, or closing and from `client`; which is whose can't be seen."""
        for descriptor, inode in _sockets():
            if inode in self._before:
                continue
            # Gone meanwhile: it was not this request's, which is kept until the answer.
            with suppress(OSError):
                connection = socket.socket(fileno=descriptor)
                try:
                    if _is_broken(connection, client, port):
                        return True
                finally:
                    connection.detach()
        return False


def find(client: str) -> socket.socket | None:
    """The connection of this process from a client, its address and port as the web server tells them; None in doubt.

    It is another descriptor of the same connection, which whoever asks has to close.
    """
    address, _, port = client.rpartition(":")
    for descriptor, _ in _sockets():
        with suppress(OSError):  # gone meanwhile, or not connected
            connection = socket.socket(fileno=os.dup(descriptor))
            try:
                peer = connection.getpeername()
                if isinstance(peer, tuple) and (_plain(peer[0]), str(peer[1])) == (_plain(address.strip("[]")), port):
                    return socket.socket(fileno=connection.detach())
            finally:
                connection.close()
    return None


def _sockets() -> Iterator[tuple[int, str]]:
    """Descriptor and inode of each socket of this process."""
    if not _SOCKETS.is_dir():
        return
    for name in os.listdir(_SOCKETS):
        with suppress(OSError):  # closed since it was listed
            target = os.readlink(_SOCKETS / name)
            if target.startswith("socket:"):
                yield int(name), target


def _is_broken(connection: socket.socket, client: str, port: int) -> bool:
    if connection.family not in (socket.AF_INET, socket.AF_INET6) or connection.type != socket.SOCK_STREAM:
        return False
    if connection.getsockname()[1] != port:
        return False
    state = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    if state == _CLOSED:
        return True
    if state != _CLOSE_WAIT:
        return False
    try:
        return _plain(connection.getpeername()[0]) == _plain(client)
    except OSError as error:
        return error.errno == errno.ENOTCONN  # it died this very moment


def _plain(address: str) -> str:
    """An IPv4 address that came in through an IPv6 socket, as IPv4."""
    return address.removeprefix("::ffff:")
