"""The web page: sends requests below `/ui/` to its screens, and shows errors as pages.

A screen is a module with `NAV` (or None) and `blueprint`; `SCREENS` lists them in the order of the navigation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from flask import Blueprint, Flask, g, request
from flask import Response as FlaskResponse
from werkzeug.exceptions import HTTPException

from broker import logs
from broker.http import responses
from broker.http.environ import Environ
from broker.http.responses import Response
from broker.http.router import Router
from broker.refusals import Forbidden, MethodNotAllowed, NotFound, Refused, ServerError, as_refusal
from broker.server.request import Request
from master.security.gate import PAGE, Gate
from master.security.sessions import Sessions
from master.web.application import Handler, ResponseStream
from master.web.flask_routes.bridge import MAX_BYTES, Bridge
from master.web.flask_routes.context import Context, from_response
from master.web.ui import api, backup, cluster, dead, extensions, keys, login, nodes, settings, tokens, verify
from master.web.ui.frame import assets, pages, visits
from master.web.ui.frame.inner import Inner
from master.web.ui.frame.pages import Nav, Pages
from master.web.ui.frame.visits import FORM_FIELD, Visit
from master.web.ui.jobs import catalog, history, job, launch, schedules
from master.web.ui.parts import EXTENSION, Parts

log = logs.get(__name__)

_STATIC = f"{PAGE}static/"
_EXTENSIONS = f"{PAGE}extensions/"  # whose forms have files
_FORM_BYTES = 65_536  # of such a form besides its file


class Screen(Protocol):
    """A module of this folder with a screen."""

    blueprint: Blueprint
    NAV: Nav | None


SCREENS: tuple[Screen, ...] = (  # type: ignore[assignment]
    cluster,
    nodes,
    dead,
    keys,
    catalog,
    launch,
    history,
    job,
    schedules,
    extensions,
    api,
    backup,
    verify,
    settings,
    tokens,
    login,
)


class WebPage:
    """Handles the requests of browsers below `PAGE`."""

    def __init__(
        self,
        context: Context,
        inner: Inner,
        sessions: Sessions,
        gate: Gate,
        *,
        name: str,
        hot: Mapping[str, Mapping[str, Handler]],
    ) -> None:
        """`name` of the cluster is on each page. `hot`: the handlers of its routes that stream, by path and method."""
        navigation = [screen.NAV for screen in SCREENS if screen.NAV is not None]
        self._sessions = sessions
        self._pages = Pages(navigation, name)
        self.flask = create_app(Parts(context, inner, sessions, gate, self._pages))
        self._hot = Router(hot)
        longest = context.settings.extensions.max_body + _FORM_BYTES
        self._behind = Bridge(
            self.flask.wsgi_app,
            context.settings.server.threads,
            most=lambda path: max(MAX_BYTES, longest if path.startswith(_EXTENSIONS) else 0),
            directory=Path(context.settings.server.dir),
        )

    def routes(self) -> dict[str, dict[str, Handler]]:
        """The routes of the worker that lead here."""
        return {
            PAGE: {"GET": self, "HEAD": self, "POST": self, "PUT": self},
            PAGE.rstrip("/"): {"GET": self.entrance, "HEAD": self.entrance},
            "/": {"GET": self.entrance, "HEAD": self.entrance},
        }

    async def __call__(self, request: Request) -> Response | ResponseStream:
        """The response to one request below `PAGE`."""
        path = request.environ["PATH_INFO"]
        if path.startswith(_STATIC):
            return _asset(request.environ, path.removeprefix(_STATIC))
        handler = self._hot.handler(path, request.environ["REQUEST_METHOD"])
        if handler is None:
            return await self._behind(request)
        response = handler(request)
        return response if isinstance(response, Response) else await response

    def entrance(self, request: Request) -> Response:
        """The response to `/` and `/ui`: browsers go to the first screen."""
        environ = request.environ
        if environ["PATH_INFO"] != "/" or "text/html" in environ.get("HTTP_ACCEPT", ""):
            return pages.see("ui/")
        raise NotFound("no such path: /; see /openapi.json for those there are. A browser is sent to /ui/")

    def from_error(self, error: Exception, environ: Environ) -> Response | None:
        """The page that shows an error; None for requests of other clients."""
        if not environ["PATH_INFO"].startswith(PAGE):
            return None
        refused: Refused | None = as_refusal(error)
        if refused is None:
            log.exception("request failed", method=environ["REQUEST_METHOD"], path=environ["PATH_INFO"])
            refused = ServerError("something went wrong in the master; its log says what")
        try:
            return self._pages.from_error(refused, Visit.of(environ, self._sessions))
        except Exception:
            log.exception("the page of an error can't be made", path=environ["PATH_INFO"])
            return None


def create_app(parts: Parts) -> Flask:
    """The application with all screens."""
    app = Flask("ui", static_folder=None, template_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.extensions[EXTENSION] = parts
    for screen in SCREENS:
        app.register_blueprint(screen.blueprint)

    @app.before_request
    def begin() -> None:
        g.visit = Visit.of(request.environ, parts.sessions)
        if request.method == "POST" and not visits.is_form_text(
            request.environ, parts.sessions, request.form.get(FORM_FIELD)
        ):
            raise Forbidden(
                "the form is not from this page, or older than your login; nothing was done. Load the page again"
            )

    def failed(error: Exception) -> FlaskResponse:
        if isinstance(error, HTTPException):
            error = _known(error)
        refused = as_refusal(error)
        if refused is None:
            log.exception("request failed", method=request.method, path=request.path)
            refused = ServerError("something went wrong in the master; its log says what")
        return from_response(parts.pages.from_error(refused, Visit.of(request.environ, parts.sessions)))

    app.register_error_handler(Exception, failed)
    return app


def _known(error: HTTPException) -> Refused:
    """An error of Flask as one of ours."""
    if error.code == 404:
        return NotFound(f"the web page has no {request.path}")
    if error.code == 405:
        return MethodNotAllowed(request.method, request.path, sorted(getattr(error, "valid_methods", None) or ()))
    refused = Refused(error.description or error.name)
    refused.status = error.code or 500
    return refused


def _asset(environ: Environ, name: str) -> Response:
    found = assets.ASSETS.get(name)
    if found is None:
        return responses.from_error(NotFound(f"the web page has no file {name[:80]!r}"), environ, "master")
    tag = f'"{found.version}"'
    kept = environ["QUERY_STRING"] == found.version
    headers = [("Content-Type", found.media_type), ("Vary", "Accept-Encoding"), ("ETag", tag)]
    headers.append(("Cache-Control", assets.FOR_GOOD if kept else "no-cache"))
    if environ.get("HTTP_IF_NONE_MATCH") == tag:
        return Response(304, headers)
    body = found.content
    if assets.takes_gzip(environ):
        body = found.compressed
        headers.append(("Content-Encoding", "gzip"))
    return Response(200, [*headers, ("Content-Length", str(len(body)))], body)
