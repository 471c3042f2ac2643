"""One HTTP request at a time by the standard library: what demonstration, trial and benchmark ask."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from broker import tls

_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 1 << 18

# Makes a connection to `host:port`.
Connect = Callable[[str], http.client.HTTPConnection]


class TooManyRedirects(http.client.HTTPException):
    """Raised when a request is redirected more often than it may be."""


class Reply(NamedTuple):
    """The last response to a request, with its whole body."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes
    hosts: tuple[str, ...]
    """`host:port` of every server that was asked, in order."""

    @property
    def data(self) -> Any:
        """`data` of the envelope. Raises `ValueError` or `LookupError` for another body."""
        return json.loads(self.body)["data"]

    @property
    def text(self) -> str:
        """The beginning of the body, for a message."""
        return self.body[:500].decode(errors="replace")


def ask(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = 60.0,
    redirects: int = 0,
    chunked: bool = False,
    connect: Connect | None = None,
    ca: str = "",
) -> Reply:
    """Send a request and follow up to `redirects` redirects, with the body each time.

    `timeout`: seconds without any progress. `chunked`: the body goes without its length. `connect` makes the
    connections. A token in PULZAR_TOKEN goes to the first host. `ca` is a file of certificates to trust, besides those
    of the system. Raises `OSError` or `http.client.HTTPException`.
    """
    hosts: list[str] = []
    token = os.environ.get("PULZAR_TOKEN")
    own = {"Authorization": f"Bearer {token}"} if token else {}
    while True:
        parts = urlsplit(url)
        hosts.append(parts.netloc)
        if parts.netloc != hosts[0]:
            own = {}  # the address at a node is signed
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        made = connect(parts.netloc) if connect else tls.connection(url, timeout, tls.trust(ca))
        with closing(made) as connection:
            sent = _chunks(body) if body is not None and chunked else body
            try:
                connection.request(method, target, sent, {"Host": parts.netloc, **own, **(headers or {})})
            except (BrokenPipeError, ConnectionResetError):
                # A server may respond before it has read the body.
                if connection.sock is None:
                    raise
            response = connection.getresponse()
            reply = Reply(response.status, response.headers, response.read(), tuple(hosts))
        location = reply.headers["Location"]
        if not redirects or reply.status not in _REDIRECTS or not location:
            return reply
        if len(hosts) > redirects:
            raise TooManyRedirects(f"more than {redirects} redirects")
        url = urljoin(url, location)


def _chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        yield body[start : start + _CHUNK_BYTES]
