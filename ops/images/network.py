"""A network for this process and its children alone, with nothing but the loopback interface."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct

from ops.images.errors import CommandFailed

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


def leave() -> None:
    """Leave the machine's network for good, so every port is free. Raises `CommandFailed`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise CommandFailed(f"a network of its own can't be made: {os.strerror(error)}; root is needed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
