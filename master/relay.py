"""Passes a chunked upload on to a node.

A client that neither says how long its body is nor waits to be told where to send it can't be sent
elsewhere any more when the body turns out to be long: what it has sent is gone from its side.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from broker import logs
from broker.connections import Connections
from broker.refusals import BadRequest, Unavailable

log = logs.get(__name__)

TIMEOUT_SECS = 60.0  # for one read or write
_CHUNK_BYTES = 1 << 18
_PASSED_ON = (
    "CONTENT_TYPE", "HTTP_CONTENT_ENCODING", "HTTP_CONTENT_MD5", "HTTP_X_CHECKSUM_SHA256", "HTTP_IF_MATCH",
    "HTTP_IF_NONE_MATCH", "HTTP_IF_UNMODIFIED_SINCE",
)  # fmt: skip
_PASSED_BACK = ("ETag", "Retry-After")


class Relayed(NamedTuple):
    """The node's answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


def relay(
    location: str, read: list[bytes], rest: BinaryIO, environ: dict[str, Any], connections: Connections
) -> Relayed:
    """PUT what was read of the body and the rest of it at `location`; raises `BadRequest` when it was cut off."""
    url = urlsplit(location)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_SECS)
    headers = {_name(name): environ[name] for name in _PASSED_ON if environ.get(name)}
    try:
        connection.request(
            "PUT", f"{url.path}?{url.query}", body=_body(read, rest, environ, connections), headers=headers, encode_chunked=True
        )  # fmt: skip
        response = connection.getresponse()
        body = response.read()
        kept = [(name, value) for name in _PASSED_BACK if (value := response.getheader(name)) is not None]
        return Relayed(response.status, kept, body)
    except (OSError, http.client.HTTPException) as error:
        log.warning("upload could not be passed on", node=url.netloc, error=error)
        raise Unavailable(f"the node at {url.netloc} could not take the value: {error}") from error
    finally:
        connection.close()


def _body(read: list[bytes], rest: BinaryIO, environ: dict[str, Any], connections: Connections) -> Iterator[bytes]:
    yield from read
    while chunk := rest.read(_CHUNK_BYTES):
        yield chunk
    if connections.cut_off(environ):
        # Without the end of its chunks the node knows the body for what it is, too.
        raise BadRequest("the connection broke in the middle of the body; nothing was stored")


def _name(variable: str) -> str:
    return variable.removeprefix("HTTP_").replace("_", "-").title()
