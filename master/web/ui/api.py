"""The screen of the API: every route with what it takes, answers and needs, and a line for a shell."""

from __future__ import annotations

from itertools import groupby

from flask import Blueprint, Response, current_app, request
from markupsafe import Markup

from master.web.ui import api_document
from master.web.ui.frame.pages import Nav
from master.web.ui.parts import page, parts, visit

NAV = Nav("api", "API", "api", ())
blueprint = Blueprint("api", __name__)

_WHOLE = "pulzar ui api"  # key in the application's extensions: the list of all routes, which stays as it is
_OPENED = 3  # so few routes are shown at once


@blueprint.get("/ui/api")
def shown() -> Response:
    """All routes, or those in which every word of `q` stands."""
    words = request.args.get("q", "")[:200]
    everything = api_document.operations()
    found = api_document.search(everything, words)
    settings = parts().context.settings
    base = settings.url(settings.server)
    token, authority = parts().gate.asks_for_tokens, base.startswith("https:") and bool(settings.security.ca)
    values = {
        "groups": [(tag, list(rows)) for tag, rows in groupby(found, key=lambda one: one.tag)],
        "lines": {one.id: api_document.curl(one, base, token=token, authority=authority) for one in found},
        "opened": len(found) <= _OPENED,
    }
    kept: dict[str, Markup] = current_app.extensions.setdefault(_WHOLE, {})
    routes = None if words else kept.get(visit().root)
    if routes is None:
        routes = Markup(parts().pages.render("api/routes.html", visit(), values))
        if not words:
            kept[visit().root] = routes
    return page(
        "api/api.html",
        here="api",
        title="API",
        words=words,
        base=base,
        number=len(found),
        routes=routes,
        token=token,
    )
