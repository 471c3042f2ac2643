"""The screen of tokens: list, make and revoke them, and what was done lately."""

from __future__ import annotations

import json
from datetime import datetime

from flask import Blueprint, Response, request

from broker.refusals import BadRequest
from master.web.ui.frame.inner import message_of
from master.web.ui.frame.pages import Nav
from master.web.ui.parts import ask, confirmed, environ, page, parts, see, visit

NAV = Nav("tokens", "Tokens", "tokens", ("admin",))
blueprint = Blueprint("tokens", __name__)

_LINES = 200  # of the audit log


@blueprint.get("/ui/tokens")
def shown() -> Response:
    """The tokens, and a form that makes one."""
    return _tokens("", "")


@blueprint.post("/ui/tokens/make")
def make() -> Response:
    """Make a token, and show it. It must not stand in an address, so nothing leads to another page."""
    name, days = request.form.get("name", "").strip(), request.form.get("days", "").strip()
    if "/" in name or not name:
        raise BadRequest(f"{name[:64]!r} is no name for a token: letters, digits, . _ and -, up to 63")
    body: dict[str, object] = {"rights": request.form.get("rights", "").split()}
    if days:
        body["for"] = f"{days.removesuffix('d')}d"
    done = parts().inner.call(environ(), "POST", f"/admin/tokens/{name}", body=body)
    response = _tokens(str(json.loads(done.body)["data"]["token"]), message_of(done))
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.post("/ui/tokens/revoke")
def revoke() -> Response:
    """Revoke a token, after a question."""
    name = request.form.get("name", "")
    if not confirmed():
        mine = name == visit().name
        text = "This is the one that you are logged in with." if mine else "Whoever has it is refused within 2 s."
        return ask(f"Revoke the token {name}?", text, "Revoke", back="tokens")
    done = parts().inner.call(environ(), "DELETE", f"/admin/tokens/{name}")
    return see("tokens", message_of(done))


@blueprint.get("/ui/tokens/audit")
def audit() -> Response:
    """The last lines of the audit log in which every word of `q` stands."""
    words = request.args.get("q", "")[:200]
    found = parts().inner.data(environ(), "GET", "/admin/audit", {"limit": _LINES})
    assert isinstance(found, list)
    rows = [row for row in found if _has(row, words)]
    return page(
        "tokens/audit.html",
        here="tokens",
        title="Audit",
        words=words,
        rows=[row | {"at": _seconds(row.get("time"))} for row in rows],
        kind=parts().context.settings.security.audit,
    )


def _tokens(text: str, said: str) -> Response:
    found = parts().inner.data(environ(), "GET", "/admin/tokens")
    assert isinstance(found, dict)
    return page(
        "tokens/tokens.html",
        here="tokens",
        title="Tokens",
        found=found,
        made=text,
        said=said,
        own=[str(right) for right in visit().rights.all],
    )


def _has(row: object, words: str) -> bool:
    text = json.dumps(row, ensure_ascii=False).casefold()
    return all(word in text for word in words.casefold().split())


def _seconds(time: object) -> float:
    try:
        return datetime.fromisoformat(str(time)).timestamp()
    except ValueError:  # somebody has edited the log
        return 0.0
