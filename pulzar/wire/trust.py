"""Which certificates of servers are trusted."""

from __future__ import annotations

import ssl
import threading

from pulzar.errors import BadRequest


class Trust:
    """The system's authorities, and those in a PEM file. They are read when a server with TLS is first connected to."""

    def __init__(self, ca: str) -> None:
        """`ca`: the path of the file, empty for none."""
        self._ca = ca
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """What verifies servers; raises `BadRequest` when the file can't be used."""
        with self._lock:
            if self._context is None:
                self._context = ssl.create_default_context()
                if self._ca:
                    try:
                        self._context.load_verify_locations(self._ca)
                    except (OSError, ValueError) as error:
                        self._context = None
                        raise BadRequest(f"the file of certificates {self._ca} can't be used: {error}") from error
            return self._context
