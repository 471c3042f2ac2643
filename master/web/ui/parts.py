"""What screens work with, and the few functions that each of them calls."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from flask import Response, current_app, g, request

from broker.http.environ import Environ
from broker.refusals import BadRequest
from master.security.gate import Gate
from master.security.sessions import Sessions
from master.web.flask_routes.context import Context, from_response
from master.web.ui.frame import formats, pages
from master.web.ui.frame.inner import Inner
from master.web.ui.frame.pages import Pages
from master.web.ui.frame.visits import Visit, local

EXTENSION = "pulzar ui"  # key of `Parts` in the application's extensions
WAIT_SECS = 10.0  # for the end of a job, before a page is shown
_LOOK_SECS = 0.1
_MOST_WAITING = 8  # requests at once; each has a thread
_waiting = threading.BoundedSemaphore(_MOST_WAITING)
CONFIRMED = "confirmed"  # the field of a form whose question was answered


@dataclass(frozen=True)
class Parts:
    """What screens work with."""

    context: Context  # settings, index, nodes, link, controller, ledger
    inner: Inner  # calls of the API
    sessions: Sessions
    gate: Gate
    pages: Pages


def parts() -> Parts:
    """Those of the application that handles this request."""
    found: Parts = current_app.extensions[EXTENSION]
    return found


def visit() -> Visit:
    """Who makes this request."""
    found: Visit = g.visit
    return found


def environ() -> Environ:
    """The environment of this request, for `Inner`."""
    return visit().environ


def page(template: str, **values: object) -> Response:
    """A whole page. `here`: the name of its screen in the navigation; `title`: of the page.

    `connect`, a tuple: other origins that its scripts may send requests to.
    """
    said = request.args.get("said", "")
    signed = said and parts().sessions.is_signed(said, request.args.get("by", ""))
    bad = said.startswith("!")
    message = {"text": said.removeprefix("!"), "bad": bad} if signed else None
    return from_response(parts().pages.page(template, visit(), {"message": message, **values}))


def fragment(template: str, **values: object) -> Response:
    """A part of a page that htmx asks for; 304 when it has not changed."""
    return from_response(parts().pages.fragment(template, visit(), values))


def see(target: str, said: str = "", *, bad: bool = False) -> Response:
    """303 to a page below the root, where `said` is shown once. `bad`: it is not what the visitor hoped for."""
    text = f"!{said}" if bad else said
    address = f"{visit().root}{local(target)}"
    if text:
        mark = "&" if "?" in address else "?"
        address += f"{mark}said={quote(text)}&by={parts().sessions.sign(text)}"
    return from_response(pages.see(address))


def ask(question: str, text: str, button: str, fields: Mapping[str, object] | None = None, back: str = "") -> Response:
    """The page that asks before something is done: its form is sent to this address again, with `CONFIRMED`.

    With scripts the browser has asked already (`data-confirm` of the form), so nobody sees this page.
    """
    kept = {name: value for name, value in request.form.items() if name not in ("csrf", CONFIRMED)}
    values = {"question": question, "text": text, "button": button, "fields": {**kept, **(fields or {})}}
    return page("confirm.html", title=question, back=back, **values)


def chosen(many: str, each: str) -> list[str]:
    """What a form is about: the field `many` has it as a JSON list after the question, before it `each` is several.

    Raises `BadRequest`.
    """
    asked = request.form.get(many)
    if not asked:
        return request.form.getlist(each)
    try:
        found = json.loads(asked)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise BadRequest(f"{many}={asked[:40]!r} is no JSON list of texts; choose again, and nothing was done")
    return found


def confirmed() -> bool:
    """Whether the visitor has said yes."""
    return request.form.get(CONFIRMED) == "1"


def address(path: str, **values: object) -> str:
    """The address of a page from this one: `address("nodes/" + formats.path(name), tab="day")`."""
    return f"{visit().root}{path}{formats.query(**values)}"


def wait_for(number: int) -> None:
    """Wait for the end of a job, if enough threads are left for other requests, and not for long."""
    if parts().context.settings.server.threads < 2 * _MOST_WAITING or not _waiting.acquire(blocking=False):
        return
    try:
        until = time.monotonic() + WAIT_SECS
        while time.monotonic() < until:
            with parts().context.ledger.read() as view:
                found = view.job(number)
            if found is None or found.state.final:
                return
            time.sleep(_LOOK_SECS)
    finally:
        _waiting.release()
