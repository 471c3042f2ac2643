"""Makes pages and parts of pages from templates, with the headers that each of them needs."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from broker import VERSION
from broker.http.environ import Environ
from broker.http.responses import NO_FRAMES, Header, Response
from broker.refusals import Refused, Unauthorized
from master.web.ui.frame import assets, charts, formats
from master.web.ui.frame.visits import Visit

TEMPLATES = Path(__file__).parents[1] / "templates"
_POLICY = "Content-Security-Policy"
# Pico's check marks and arrows are images in its style sheet.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS: tuple[Header, ...] = (
    ("Content-Type", "text/html; charset=utf-8"),
    (_POLICY, POLICY),
    ("Referrer-Policy", "same-origin"),
    ("Vary", "Accept-Encoding, Cookie, HX-Request"),
    NO_FRAMES,
)
_COMPRESSED_BYTES = 1_000  # shorter bodies are sent as they are
_TITLES = {
    400: "This can't be understood",
    401: "Log in first",
    403: "You may not do this",
    404: "There is no such thing",
    409: "This can't be done now",
    412: "Somebody was faster",
    500: "Something went wrong",
    503: "Not at the moment",
    507: "There is no room",
}


class Nav(NamedTuple):
    """A screen in the list on top of each page."""

    name: str  # also of its icon
    title: str
    path: str  # below the root
    kinds: tuple[str, ...]  # who has a right of one of these kinds can use it; (): everybody


class Pages:
    """Renders templates. Any thread may use it."""

    def __init__(self, navigation: Sequence[Nav], cluster: str) -> None:
        """`cluster`: what the cluster is called on each page."""
        self.navigation = tuple(navigation)
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._templates.filters.update(formats.FILTERS)
        self._templates.globals.update(
            asset=assets.address,
            curve_of=charts.curve,
            series=charts.series,
            query=formats.query,
            version=VERSION,
            cluster=cluster,
        )

    def render(self, template: str, visit: Visit, values: Mapping[str, object]) -> str:
        """The text of a template. Every one gets `visit`, `root` and `navigation` besides its `values`."""
        shown = [nav for nav in self.navigation if not nav.kinds or any(map(visit.may_some, nav.kinds))]
        base = {"visit": visit, "root": visit.root, "navigation": shown, "message": None, "here": ""}
        return self._templates.get_template(template).render(base | dict(values))

    def page(self, template: str, visit: Visit, values: Mapping[str, object], status: int = 200) -> Response:
        """A whole page. `connect` among the values: other origins that its scripts may send requests to."""
        text = self.render(template, visit, values)
        made = _sent(visit.environ, status, text, [("Cache-Control", "no-cache, private")])
        connect = values.get("connect")
        if not isinstance(connect, tuple) or not connect:
            return made
        policy = (_POLICY, f"{POLICY}; connect-src 'self' {' '.join(connect)}")
        return made._replace(headers=[policy if name == _POLICY else (name, value) for name, value in made.headers])

    def fragment(self, template: str, visit: Visit, values: Mapping[str, object]) -> Response:
        """A part of a page; 304 when the one in the browser is the same."""
        text = self.render(template, visit, values)
        tag = f'W/"{hashlib.sha256(text.encode()).hexdigest()[:24]}"'
        headers = [("ETag", tag), ("Cache-Control", "no-store")]
        if tag in visit.environ.get("HTTP_IF_NONE_MATCH", ""):
            return Response(304, headers)
        return _sent(visit.environ, 200, text, headers)

    def from_error(self, error: Refused, visit: Visit) -> Response:
        """What a visitor sees when a request was refused."""
        if isinstance(error, Unauthorized):
            return self._to_login(visit)
        text = str(error)
        values = {
            "title": _TITLES.get(error.status, "This was refused"),
            "error": text[:1].upper() + text[1:],
            "status": error.status,
        }
        name = "error_part.html" if visit.fragment else "error.html"
        made = self.page(name, visit, values, error.status)
        return made._replace(headers=[*made.headers, *error.headers])

    def _to_login(self, visit: Visit) -> Response:
        if visit.fragment:
            return Response(401, [("HX-Refresh", "true"), ("Content-Length", "0")])
        depth = visit.environ["PATH_INFO"].split("/", 2)
        wanted = depth[2] if len(depth) > 2 and visit.environ["REQUEST_METHOD"] == "GET" else ""
        given = visit.environ["QUERY_STRING"]
        target = wanted + (f"?{given}" if given and wanted else "")
        return see(f"{visit.root}login{formats.query(next=target)}")


def see(location: str, headers: Sequence[Header] = ()) -> Response:
    """Sends the browser on to another page, which it gets by GET."""
    return Response(303, [("Location", location), ("Content-Length", "0"), ("Cache-Control", "no-store"), *headers])


def _sent(environ: Environ, status: int, text: str, headers: Sequence[Header]) -> Response:
    body = text.encode("utf-8", "replace")
    all_headers = [*HEADERS, *headers]
    if len(body) >= _COMPRESSED_BYTES and assets.takes_gzip(environ):
        body = gzip.compress(body, 5, mtime=0)
        all_headers.append(("Content-Encoding", "gzip"))
    return Response(status, [*all_headers, ("Content-Length", str(len(body)))], body)
