"""Requests as a client on the machine of the containers makes them."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping

from ops import http_client
from ops.http_client import Reply
from ops.images.errors import TrialFailed

_TIMEOUT_SECS = 60.0
_PATIENCE_SECS = 60.0
_PAUSE_SECS = 0.3
_MOST_REDIRECTS = 5


class Client:
    """Reaches the ports that are published, and no others. Every name is taken for this machine."""

    def __init__(self, published: Mapping[int, str]) -> None:
        """`published`: the address that connections to each port go to."""
        self._published = published

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        chunked: bool = False,
        expected: int = 200,
        patience: float = _PATIENCE_SECS,
    ) -> Reply:
        """Ask, with redirects, until the status is the expected one; the reply.

        `chunked` sends a body without its length. Raises `TrialFailed` after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                reply = http_client.ask(
                    method, url, body, headers, redirects=_MOST_REDIRECTS, chunked=chunked, connect=self._connect
                )
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
            else:
                if reply.status == expected:
                    return reply
                problem = f"{reply.status} {reply.text}"
            if time.monotonic() > deadline:
                raise TrialFailed(f"{method} {url}: {problem}; expected was {expected}")
            time.sleep(_PAUSE_SECS)

    def _connect(self, netloc: str) -> http.client.HTTPConnection:
        port = int(netloc.rpartition(":")[2]) if ":" in netloc else 80
        if port not in self._published:
            raise TrialFailed(f"http://{netloc}/: compose.yaml publishes no port {port}")
        return http.client.HTTPConnection(self._published[port], port, timeout=_TIMEOUT_SECS)
