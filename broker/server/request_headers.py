"""Checks the headers of every request before anything is done: names, host, and the framing of the body.

A request that `check` refuses stores nothing and changes nothing.
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


# Names in the environment: headers that were sent and can't be seen, and a header that may have been meant for another.
HIDDEN, AMBIGUOUS = "pulzar.hidden", "pulzar.ambiguous"
_DECIDING = ("authorization", "expect", "host", "range", "transfer-encoding", "x-checksum-sha256", "x-pulzar-signature")


@lru_cache(maxsize=1024)
def variable(name: str) -> str:
    """The name of a header in WSGI; "" for one that is ignored.

    WSGI takes a name with "_" for the one with "-". A proxy may have looked at the other one.
    """
    if "_" in name:
        return ""
    name = name.upper().replace("-", "_")
    return name if name in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{name}"


def add_headers(environ: dict[str, str], headers: Iterable[tuple[str, str]]) -> None:
    """Put the headers of a request into its environment; those of one name as a list."""
    for name, value in headers:
        if key := variable(name):
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        elif name.lower() in ("content_length", "transfer_encoding"):
            environ[AMBIGUOUS] = name


def hidden(names: Iterable[str], seen: Iterable[tuple[str, str]]) -> str:
    """Headers that decide something and that the web server has left out of `seen`, with commas between them.

    Granian's RSGI leaves out values that are not visible ASCII. A condition would then be ignored.
    """
    shown = {name for name, _ in seen}
    return ", ".join(name for name in names if name not in shown and _decides(name))


def _decides(name: str) -> bool:
    return name.startswith(("if-", "content-")) or name in _DECIDING


def check(environ: Environ) -> None:
    """Raises `BadRequest`, `LengthRequired` or `NotSupported` for a request that must not be handled."""
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
    check_host(given.split(","))  # an error is not cached


def check_host(values: Iterable[str]) -> None:
    """Raises `BadRequest` unless there is at most one Host header, and it names a host (RFC 9112, section 3.2)."""
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
    # `curl -C -` sends the range of the whole file when it sends a file from the beginning.
    if match is None or length is None or not int(match[1]) + 1 == int(match[2]) == length:
        raise BadRequest(
            f"Content-Range {given[:80]!r} was received: this is a part of a value, and only a whole one can be "
            "stored; nothing was stored. Send all of it, without Content-Range"
        )
