"""Log in with a token, and out again."""

from __future__ import annotations

from flask import Blueprint, Response, request

from broker.refusals import Unauthorized
from master.security.sessions import SESSION_SECS
from master.web.ui.frame.visits import local, served_by_tls
from master.web.ui.parts import page, parts, see

NAV = None
blueprint = Blueprint("login", __name__)


@blueprint.get("/ui/login")
def form() -> Response:
    """The form that takes a token."""
    if not parts().gate.asks_for_tokens:
        return see("")
    return _form("")


@blueprint.post("/ui/login")
def log_in() -> Response:
    """Begin a session, and go on to where the visitor wanted to."""
    gate = parts().gate
    text = request.form.get("token", "").strip()

    async def session() -> str:
        return gate.session(text)

    try:
        cookie = parts().inner.run(session)
    except Unauthorized:
        return _form("This token is not known, was revoked or has expired. Ask whoever runs the cluster for one.")
    response = see(local(request.form.get("next", "")))
    # Without Path, the cookie is for this folder, whatever a proxy calls it.
    response.set_cookie(
        parts().sessions.cookie,
        cookie,
        max_age=SESSION_SECS,
        path=None,
        secure=served_by_tls(request.environ),
        httponly=True,
        samesite="Strict",
    )
    return response


@blueprint.post("/ui/logout")
def log_out() -> Response:
    """End the session in this browser."""
    response = see("login")
    response.set_cookie(parts().sessions.cookie, "", max_age=0, path=None, httponly=True, samesite="Strict")
    return response


def _form(error: str) -> Response:
    wanted = local((request.form if request.method == "POST" else request.args).get("next", ""))
    response = page("login.html", title="Log in", wanted=wanted, error=error)
    response.status_code = 403 if error else 200
    return response
