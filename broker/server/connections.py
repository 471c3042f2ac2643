"""The connections of this process, below the web server: for what that can't do with them."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from broker import logs

log = logs.get(__name__)

_SOCKETS = Path("/proc/self/fd")
_LISTENING_SECS = 30.0  # a web server listens within this time
_PAUSE_SECS = 0.05
_KEEP_ALIVE_SECS = 60  # a client that says nothing is asked whether it is there
_PROBES = 4


def find(client: str) -> socket.socket | None:
    """The connection of this process from a client, its address and port as the web server tells them; None in doubt.

    It is another descriptor of the same connection, which whoever asks has to close.
    """
    address, _, port = client.rpartition(":")
    for connection in _connections():
        with suppress(OSError):  # not connected
            peer = connection.getpeername()
            if isinstance(peer, tuple) and (_plain(peer[0]), str(peer[1])) == (_plain(address.strip("[]")), port):
                return socket.socket(fileno=connection.detach())
    return None


def guard(port: int, silence: float) -> None:
    """Have the kernel look after the connections that come in at a port, as soon as this process listens there.

    It ends those whose client's machine is gone, and those whose client takes nothing of what was sent to it
    for `silence` seconds.
    """
    threading.Thread(target=_guard, args=(port, silence), name="guard", daemon=True).start()


def _guard(port: int, silence: float) -> None:
    deadline = time.monotonic() + _LISTENING_SECS
    while time.monotonic() < deadline:
        found = False
        for listener in _connections():
            with suppress(OSError):  # no socket of TCP
                if (
                    not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                    or listener.getsockname()[1] != port
                ):
                    continue
                # What is set here counts for every connection that is accepted.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_SECS)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE_SECS // _PROBES)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence * 1000))
                found = True
        if found:
            return
        time.sleep(_PAUSE_SECS)
    log.error("no socket that listens was found; dead connections are kept", port=port)


def _connections() -> Iterator[socket.socket]:
    """Each socket of this process, by a descriptor of its own that is closed afterwards."""
    for name in os.listdir(_SOCKETS) if _SOCKETS.is_dir() else ():
        with suppress(OSError):  # closed since it was listed
            if not os.readlink(_SOCKETS / name).startswith("socket:"):
                continue
            connection = socket.socket(fileno=os.dup(int(name)))
            try:
                yield connection
            finally:
                connection.close()


def _plain(address: str) -> str:
    """An IPv4 address that came in through an IPv6 socket, as IPv4."""
    return address.removeprefix("::ffff:")


def cut(connection: socket.socket) -> None:
    """Break a connection that `find` gave, and close the descriptor."""
    with connection, suppress(OSError):  # it is broken already
        connection.shutdown(socket.SHUT_RDWR)
