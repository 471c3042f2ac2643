"""The client's connection below a streamed response, for what the web server (Granian, RSGI) can't do.

Granian takes all it is given, also when the client reads slowly, and keeps it in memory. It ends a response that stops
too early in good order, so that the client takes it for complete.
"""

from __future__ import annotations

import socket
import struct

from broker.server import connections

_INFO_BYTES = 128
_ACKNOWLEDGED = struct.Struct("=Q")  # tcpi_bytes_acked
_ACKNOWLEDGED_AT = 120


class ClientSocket:
    """The connection of one client. When it is not found, nothing is known and nothing can be cut."""

    def __init__(self, client: str) -> None:
        """`client` is its address and port, as the web server gives them."""
        self._socket = connections.find(client)
        self._before = self._acknowledged()

    def __enter__(self) -> ClientSocket:
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            self._socket.close()

    def received(self) -> int | None:
        """The bytes that the client's side has acknowledged since the response began; None when it is unknown."""
        now = self._acknowledged()
        return None if now is None or self._before is None else now - self._before

    def cut(self) -> None:
        """Break the connection, so that the client sees that the response is not complete."""
        if self._socket is not None:
            connections.cut(self._socket)
            self._socket = None

    def _acknowledged(self) -> int | None:
        if self._socket is None:
            return None
        try:
            info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        except OSError:  # the connection is gone
            return None
        return int(_ACKNOWLEDGED.unpack_from(info, _ACKNOWLEDGED_AT)[0]) if len(info) >= _INFO_BYTES else None
