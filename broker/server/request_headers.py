"""What a request's headers must be before anything is done with it: how they are named, its host, and how its body comes.

`check` looks at every request; what it refuses stores nothing and changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from broker.http import request_fields
from broker.http.environ import Environ
from broker.refusals import BadRequest, LengthRequired, NotSupported

# A name, an IPv4 address, or an IPv6 address in brackets; a port may follow. Never a comma: that means two of them.
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w.~!$&'()*+;=%-]*)(?::\d{0,5})?", re.ASCII)
_WHOLE = re.compile(r"bytes[ \t]+0-(\d{1,19})/(\d{1,19})", re.ASCII | re.IGNORECASE)


# In the environment: headers that were sent and can't be seen, and one that may have been meant for another.
HIDDEN, AMBIGUOUS = "pulzar.hidden", "pulzar.ambiguous"
_DECIDING = ("authorization", "expect", "host", "range", "transfer-encoding", "x-checksum-sha256", "x-pulzar-signature")


@lru_cache(maxsize=1024)
def variable(name: str) -> str:
    """How WSGI names a header; "" for one that counts as not sent.

    A name with "_" would be taken for the one with "-", which something between client and server may have looked at.
    """
    if "_" in name:
        return ""
    name = name.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def add_headers(environ: dict[str, str], headers: Iterable[tuple[str, str]]) -> None:
    """Put a request's headers into its WSGI environment; those of one name as a list."""
    for name, value in headers:
        if key := variable(name):
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        elif name.lower() in ("content_length", "transfer_encoding"):
            environ[AMBIGUOUS] = name


def hidden(names: Iterable[str], seen: Iterable[tuple[str, str]]) -> str:
    """Those of a request's headers that decide something, and that a web server has left out of those it shows.

    Granian's RSGI does so with values that are no visible ASCII: a condition would be none.
    """
    shown = {name for name, _ in seen}
    return ", ".join(name for name in names if name not in shown and _decides(name))


def _decides(name: str) -> bool:
    return name.startswith(("if-", "content-")) or name in _DECIDING


def check(environ: Environ) -> None:
    """Raises `BadRequest`, `LengthRequired` or `NotSupported` for a request that is not to be answered in any other way."""
    if HIDDEN in environ:
        raise BadRequest(f"{environ[HIDDEN]}: only visible ASCII may stand in this header; nothing was done")
    if AMBIGUOUS in environ and not request_fields.has_body(environ):
        raise BadRequest(f"{environ[AMBIGUOUS]} is no header that counts; write it with -")
    if (
        environ.get("SERVER_PROTOCOL", "HTTP/1.1") != "HTTP/1.1"
        and "CONTENT_LENGTH" not in environ
        and environ["REQUEST_METHOD"] in ("PUT", "POST")
    ):
        raise LengthRequired("with HTTP/1.0 a body needs a Content-Length; give it, also of an empty body")
    if (host := environ.get("HTTP_HOST")) is not None:
        _check_host(host)
    if "HTTP_TRANSFER_ENCODING" in environ:
        _check_transfer(environ["HTTP_TRANSFER_ENCODING"])
    if "HTTP_CONTENT_RANGE" in environ and environ["REQUEST_METHOD"] == "PUT":
        _check_range(environ["HTTP_CONTENT_RANGE"], request_fields.content_length(environ))


@lru_cache(maxsize=256)
def _check_host(given: str) -> None:
    check_host(given.split(","))  # what is refused is not remembered


def check_host(values: Iterable[str]) -> None:
    """Raises `BadRequest` unless the Host headers of a request are at most one, and that names a host (RFC 9112, 3.2)."""
    hosts = list(values)
    if len(hosts) > 1:
        raise BadRequest(f"{len(hosts)} hosts were received in Host; give one, as host or host:port")
    if hosts and not _HOST.fullmatch(hosts[0].strip(" \t")):
        raise BadRequest(f"Host {hosts[0][:80]!r} was received; give it as host or host:port")


def _check_transfer(given: str) -> None:
    codings = [coding for part in given.split(",") if (coding := part.strip(" \t").lower())]
    if codings != ["chunked"]:
        raise NotSupported(
            f"Transfer-Encoding {given[:80]!r} was received, and only chunked is understood. To store a value that is "
            f"compressed, send it as it is, with Content-Encoding"
        )


def _check_range(given: str, length: int | None) -> None:
    match = _WHOLE.fullmatch(given.strip(" \t"))
    # What curl -C - says of a file that it sends from the beginning is the whole.
    if match is None or length is None or not int(match[1]) + 1 == int(match[2]) == length:
        raise BadRequest(
            f"Content-Range {given[:80]!r} was received: this is a part of a value, and only a whole one can be stored; "
            f"nothing was stored. Send all of it, without Content-Range"
        )
