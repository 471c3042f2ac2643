"""The connections of this process, below the web server: found, watched by the kernel, and broken.

Granian gives no access to its sockets. Assumed of Granian 2.8, and held by tests/unit/test_granian.py: a worker listens
and accepts in its own process, and calls a client by the address and port of its socket.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from broker import logs

log = logs.get(__name__)

_SOCKETS = Path("/proc/self/fd")
_LISTENING_SECS = 30.0  # the web server listens within this time
_PAUSE_SECS = 0.05
_KEEP_ALIVE_SECS = 60  # a silent client is probed after this time
_PROBES = 4
_ATTACH_FILTER = 51  # SO_ATTACH_REUSEPORT_CBPF
_RETURN = 0x06  # BPF_RET | BPF_K
_FILTER = struct.Struct("HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("HP")  # struct sock_fprog


def find(client: str) -> socket.socket | None:
    """The connection from a client, named `address:port` as the web server does; None in doubt.

    It is another descriptor of the same connection. The caller closes it.
    """
    address, _, port = client.rpartition(":")
    for connection in _connections():
        with suppress(OSError):  # not connected
            peer = connection.getpeername()
            if isinstance(peer, tuple) and (_plain(peer[0]), str(peer[1])) == (_plain(address.strip("[]")), port):
                return socket.socket(fileno=connection.detach())
    return None


def guard(port: int, silence: float, workers: int) -> None:
    """Let the kernel watch the connections to a port, as soon as this process listens there.

    The kernel ends those whose client's machine is gone, and those whose client takes nothing for `silence` seconds.
    While one of the `workers` that listen there is being replaced, it gives new connections to the new one alone. So
    none is in its TLS handshake when the old one ends.
    """
    threading.Thread(target=_guard, args=(port, silence, workers), name="guard", daemon=True).start()


def _guard(port: int, silence: float, workers: int) -> None:
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
                # Every connection that is accepted inherits these options.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_SECS)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE_SECS // _PROBES)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(silence * 1000))
                _prefer(listener, workers)
                found = True
        if found:
            return
        time.sleep(_PAUSE_SECS)
    log.error("no socket that listens was found; dead connections are kept", port=port)


def _prefer(listener: socket.socket, number: int) -> None:
    """Have the kernel give a connection to the socket with this number, from 0, of those that listen on the same port.

    They are numbered as they began to listen. While there are not so many, it chooses as before. See SO_REUSEPORT and
    SO_ATTACH_REUSEPORT_CBPF in socket(7).
    """
    if listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
        instruction = ctypes.create_string_buffer(_FILTER.pack(_RETURN, 0, 0, number))
        program = _PROGRAM.pack(1, ctypes.addressof(instruction))
        listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)


def _connections() -> Iterator[socket.socket]:
    """Each socket of this process, as another descriptor that is closed afterwards."""
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
    """The IPv4 address of a client that came to an IPv6 socket; other addresses unchanged."""
    return address.removeprefix("::ffff:")


def cut(connection: socket.socket) -> None:
    """Break a connection that `find` returned, and close the descriptor."""
    with connection, suppress(OSError):  # it is broken already
        connection.shutdown(socket.SHUT_RDWR)
