"""What pages in browsers may do: by which names a server is known, and which other origins may use it.

A page of another origin can't change anything, and can't read a response, unless `[server] cors` has its origin. A
request whose Host is no name of the server is refused: a name of somebody else that leads here (DNS rebinding) would
make all of the server a part of his own pages.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from broker.http.environ import Environ
from broker.http.responses import NO_SNIFFING, Header
from broker.refusals import Forbidden, Misdirected

ANY = "*"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_EXPOSED: Header = (
    "Access-Control-Expose-Headers",
    "ETag, Content-Encoding, Content-Range, Accept-Ranges, Last-Modified, Location, Retry-After",
)
_VARY: Header = ("Vary", "Origin")
_PORT = re.compile(r":\d*$")
_MOST_REMEMBERED = 256


class Browsers:
    """The rules of one server. Used on one event loop."""

    def __init__(self, origins: Iterable[str], names: Iterable[str]) -> None:
        """`origins` are those whose pages may use the server, or `ANY`. `names` of hosts may have a port."""
        self._origins = frozenset(origins)
        self._names = {_plain(name) for name in names} | {"localhost"}
        self._seen: set[str] = set()  # Host headers that were good

    def check(self, environ: Environ, *, sent_here: bool = False) -> None:
        """Raises `Misdirected` for a Host that is no name of this server, `Forbidden` for what a page must not do.

        `sent_here`: the master has looked at the true origin, and has sent the page here.
        """
        host = environ.get("HTTP_HOST", "")
        if host not in self._seen:
            self._check_host(host)
        if environ["REQUEST_METHOD"] not in SAFE_METHODS and not sent_here:
            self._check_origin(environ)

    def allowed(self, environ: Environ, *, sent_here: bool = False, page: str = "") -> str:
        """The value of Access-Control-Allow-Origin for a request; "" when its page may not read the response.

        `page`: the origin that the address of the request was made for.
        """
        if ANY in self._origins or (sent_here and self._origins):
            return ANY  # of a page that was sent on, browsers don't tell the origin
        origin = environ.get("HTTP_ORIGIN", "")
        return origin if origin in self._origins or origin == page else ""

    def headers(self, environ: Environ, *, sent_here: bool = False, page: str = "") -> list[Header]:
        """The headers of every response: which page may read it, and that its Content-Type is right."""
        if not self._origins and not page:
            return [NO_SNIFFING]
        allowed = self.allowed(environ, sent_here=sent_here, page=page)
        # A cache must not give a page of another origin what this one may read.
        headers = [NO_SNIFFING] if ANY in self._origins else [NO_SNIFFING, _VARY]
        if allowed:
            headers += [("Access-Control-Allow-Origin", allowed), _EXPOSED]
        return headers

    def _check_host(self, host: str) -> None:
        name = _plain(host)
        if name and name not in self._names and not name.endswith(".localhost") and not _is_address(name):
            raise Misdirected(
                f"Host {host[:80]!r} was received, and this server is not known by that name; nothing was done. Use "
                "its address, the name in advertise, or one that [server] hosts lists"
            )
        if len(self._seen) >= _MOST_REMEMBERED:
            self._seen.clear()
        self._seen.add(host)

    def _check_origin(self, environ: Environ) -> None:
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            foreign = environ.get("HTTP_SEC_FETCH_SITE") == "cross-site" and ANY not in self._origins
        else:
            foreign = not own_origin(environ) and not self.allowed(environ)
        if foreign:
            shown = "another site" if origin is None else f"the origin {origin[:80]!r}"
            raise Forbidden(
                f"a page of {shown} must not send {environ['REQUEST_METHOD']} here; nothing was done. "
                "[server] cors lists the origins whose pages may"
            )


def own_origin(environ: Environ) -> str:
    """The origin of the page that sends a request, if it is a page of this server; else ""."""
    origin = environ.get("HTTP_ORIGIN", "")
    own = origin.partition("://")[2].lower() == environ.get("HTTP_HOST", "").strip().lower() != ""
    return origin if own else ""


def _plain(host: str) -> str:
    """The name in a Host header: in lower case, without port, brackets and the dot at the end."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return (_PORT.sub("", name) if name.count(":") == 1 else name).removesuffix(".")


def _is_address(name: str) -> bool:
    """Whether it is an IP address. Nobody can lead such a name elsewhere."""
    try:
        ipaddress.ip_address(name)
    except ValueError:  # it is a name
        return False
    return True
