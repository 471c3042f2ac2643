"""TLS of clients inside a cluster: which certificates they trust, and connections to http and https addresses."""

from __future__ import annotations

import asyncio
import functools
import http.client
import ssl
from contextlib import closing
from urllib.parse import urlsplit

from broker.errors import SettingsError

_PORTS = {"http": 80, "https": 443}

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@functools.cache
def trust(ca: str) -> ssl.SSLContext:
    """What clients verify servers with: the system's authorities, and those in the PEM file `ca` unless it is "".

    Raises `SettingsError`.
    """
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"[security] ca = {ca!r} has no certificates that can be read: {error}") from error
    return context


def connection(url: str, secs: float, trusted: ssl.SSLContext) -> http.client.HTTPConnection:
    """A connection, not opened yet, to the server of an http or https address; a peer may stand still for `secs`.

    Raises `ValueError` for another address.
    """
    scheme, host, port = _split(url)
    if scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=secs, context=trusted)
    return http.client.HTTPConnection(host, port, timeout=secs)


def get(
    url: str, target: str, secs: float, trusted: ssl.SSLContext, *, login: str = "", most: int | None = None
) -> tuple[int, bytes]:
    """The status and the body, at most `most` bytes of it, of a GET from the server of an http or https address.

    `target` is path and query, `login` the header Authorization. The server may stand still for `secs`. Raises
    `OSError`, also for a response that is no HTTP, and `ValueError` for another address.
    """
    with closing(connection(url, secs, trusted)) as made:
        try:
            made.request("GET", target, headers={"Authorization": login} if login else {})
            response = made.getresponse()
            return response.status, response.read(most)
        except http.client.HTTPException as error:
            raise ConnectionError(f"the response is no HTTP, or not whole: {error!r}") from error


async def open_streams(url: str, limit: int, trusted: ssl.SSLContext) -> Streams:
    """Connect to the server of an http or https address; `limit` is that of `asyncio.StreamReader`, in bytes.

    Raises `OSError`, or `ValueError` for another address.
    """
    scheme, host, port = _split(url)
    tls = trusted if scheme == "https" else None
    return await asyncio.open_connection(host, port, limit=limit, ssl=tls)


def _split(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"{url!r} is no http or https address")
    return parts.scheme, parts.hostname, parts.port or _PORTS[parts.scheme]
