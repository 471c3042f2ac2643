"""URLs: where a server is, and how keys stand in a path. Pure functions."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from pulzar.errors import BadRequest

DEFAULT_PORT = 31414
_PORTS = {"http": 80, "https": 443}
_SAFE = "/-._~!$&'()*+,;=:@"  # stand for themselves in the path of a URL
_NEXT = "next"  # in a signed address: that of the same value at another node


class Origin(NamedTuple):
    """A server."""

    scheme: str
    host: str  # without brackets
    port: int

    @property
    def netloc(self) -> str:
        """As it stands in a URL and in the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.netloc}"


class Location(NamedTuple):
    """A URL in two parts: the server, and what it is asked for."""

    origin: Origin
    target: str  # path and query

    @property
    def shown(self) -> str:
        """Without the query, which may hold a signature."""
        return f"{self.origin}{self.target.partition('?')[0]}"

    @property
    def following(self) -> str:
        """The address of the same value at another node, if this one has it; else empty."""
        return parse_qs(self.target.partition("?")[2]).get(_NEXT, [""])[0]


def parse(url: str) -> Location:
    """The parts of an absolute URL; raises `BadRequest`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadRequest(f"{url[:80]!r} is no address: {error}") from error
    if parts.scheme not in _PORTS or not host:
        raise BadRequest(f"{url[:80]!r} is no address; give one like http://localhost:{DEFAULT_PORT}")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise BadRequest(f"{url[:80]!r} is no address: it has characters that a URL has not")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Location(Origin(parts.scheme, host, port or _PORTS[parts.scheme]), target)


def home(url: str) -> Origin:
    """The server of a cluster: `host:port`, or `http://` or `https://` with it. Raises `BadRequest`."""
    scheme, mark, rest = url.strip().partition("://")
    if not mark:
        scheme, rest = "http", url.strip()
    origin, target = parse(f"{scheme}://{rest}")
    if target != "/" or "@" in rest:
        raise BadRequest(f"{url[:80]!r} is no address of a cluster; give one like http://localhost:{DEFAULT_PORT}")
    has_port = rest.rstrip("/").rpartition("]")[2].rpartition(":")[1] == ":"
    return origin if has_port else origin._replace(port=DEFAULT_PORT)


def target(route: str, name: str = "", /, **query: object) -> str:
    """Path and query of a request: `/route/name?…`. A value of None is left out, True is 1, False is left out."""
    wanted = {key: value for key, value in query.items() if value is not None and value is not False}
    given = {key: 1 if value is True else value for key, value in wanted.items()}
    path = f"/{route}/{quote(name, _SAFE)}" if name else f"/{route}"
    return f"{path}?{urlencode(given)}" if given else path
