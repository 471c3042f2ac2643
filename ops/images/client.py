"""Requests as a client on the machine of the containers makes them."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ops.images.errors import TrialFailed

_TIMEOUT_SECS = 60.0
_PATIENCE_SECS = 60.0
_PAUSE_SECS = 0.3
_CHUNK_BYTES = 1 << 18
_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 5


class Answer(NamedTuple):
    """The last answer to a request."""

    status: int
    body: bytes
    hosts: tuple[str, ...]
    """`host:port` of all that were asked."""

    @property
    def data(self) -> Any:
        """`data` of the envelope."""
        return json.loads(self.body)["data"]

    @property
    def digest(self) -> str:
        """SHA-256 of the body."""
        return hashlib.sha256(self.body).hexdigest()


class Client:
    """Reaches the ports that are published, and no others; whatever name stands before them is this machine."""

    def __init__(self, published: Mapping[int, str]) -> None:
        """`published`: to which address the connections to each port go on."""
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
    ) -> Answer:
        """The answer after redirects; asked again for a while when it is not the expected one, then raises `TrialFailed`.

        `chunked` sends a body without telling how long it is.
        """
        deadline = time.monotonic() + patience
        while True:
            try:
                answer = self._follow(method, url, body, headers or {}, chunked)
            except (OSError, http.client.HTTPException) as error:
                problem = str(error) or type(error).__name__
            else:
                if answer.status == expected:
                    return answer
                problem = f"{answer.status} {answer.body[:500].decode(errors='replace')}"
            if time.monotonic() > deadline:
                raise TrialFailed(f"{method} {url}: {problem}; expected was {expected}")
            time.sleep(_PAUSE_SECS)

    def _follow(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str], chunked: bool) -> Answer:
        hosts: list[str] = []
        while True:
            parts = urlsplit(url)
            hosts.append(parts.netloc)
            port = parts.port or 80
            if port not in self._published:
                raise TrialFailed(f"{method} {url}: compose.yaml publishes no port {port}")
            with closing(http.client.HTTPConnection(self._published[port], port, timeout=_TIMEOUT_SECS)) as connection:
                target = parts.path + (f"?{parts.query}" if parts.query else "")
                sent = _pieces(body) if body is not None and chunked else body
                try:
                    connection.request(method, target, sent, {"Host": parts.netloc, **headers})
                except (BrokenPipeError, ConnectionResetError):
                    # Whoever redirects a body may answer before having read it.
                    if connection.sock is None:
                        raise
                response = connection.getresponse()
                content = response.read()
            location = response.headers["Location"]
            if response.status not in _REDIRECTS or not location or len(hosts) > _MOST_REDIRECTS:
                return Answer(response.status, content, tuple(hosts))
            url = location


def _pieces(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]
