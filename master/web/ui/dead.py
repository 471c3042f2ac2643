"""The dead letters: messages that could not be used, one of them, and what can be done with them."""

from __future__ import annotations

import json
from typing import cast

from flask import Blueprint, Response, request

from broker.topology import JOBS, PRIORITIES, jobs_queue
from master.web.ui.frame.inner import message_of
from master.web.ui.parts import ask, chosen, confirmed, environ, fragment, page, parts, see

NAV = None
blueprint = Blueprint("dead", __name__)

_ROWS = 50  # on a page
_LIST = "dead"
_SENT = "Each goes to the queue that it came from, and leaves this list."
_DROPPED = "Nobody can bring it back."


@blueprint.get("/ui/dead")
def shown() -> Response:
    """The messages, the oldest first."""
    days = parts().context.settings.general.retention_policy
    return page("dead/dead.html", here="cluster", title="Dead letters", days=days, **_listed())


@blueprint.get("/ui/dead/rows")
def rows() -> Response:
    """More rows of the table."""
    return fragment("dead/rows.html", **_listed())


@blueprint.get("/ui/dead/show")
def one() -> Response:
    """One message, with its headers and its body."""
    number = request.args.get("id", "")
    row = cast(dict[str, object], parts().inner.data(environ(), "GET", f"/admin/dead/{number}"))
    headers = {name: _text(value) for name, value in cast(dict[str, object], row["headers"]).items()}
    return page(
        "dead/one.html",
        here="cluster",
        title="A dead letter",
        row=row,
        headers=headers,
        queues=[jobs_queue(word) for word in PRIORITIES],
        is_job=str(row["queue"]).startswith(JOBS) or row["format"] == "msgpack",
    )


@blueprint.post("/ui/dead/send")
def send() -> Response:
    """Send the chosen messages again, after a question."""
    return _act("send", "Send", _SENT)


@blueprint.post("/ui/dead/drop")
def drop() -> Response:
    """Remove the chosen messages, after a question."""
    return _act("drop", "Drop", _DROPPED)


@blueprint.post("/ui/dead/edit")
def edit() -> Response:
    """Send a message with the body and to the queue of the form."""
    # A form has its lines end with CR and LF.
    body = request.form.get("body", "").replace("\r\n", "\n")
    order = {"ids": [request.form.get("id", "")], "body": body, "queue": request.form.get("queue", "").strip()}
    done = parts().inner.call(environ(), "POST", "/admin/dead/send", None, order)
    return see(_LIST, message_of(done))


def _act(action: str, word: str, text: str) -> Response:
    ids = chosen("ids", "id")
    if not ids:
        return see(_LIST, "No message was chosen; tick some first", bad=True)
    if not confirmed():
        what = "this message" if len(ids) == 1 else f"{len(ids)} messages"
        again = " again" if action == "send" else ""
        return ask(f"{word} {what}{again}?", text, f"{word}{again}", {"ids": json.dumps(ids)}, back=_LIST)
    done = parts().inner.call(environ(), "POST", f"/admin/dead/{action}", None, {"ids": ids})
    return see(_LIST, message_of(done), bad=bool(json.loads(done.body)["data"]["failed"]))


def _listed() -> dict[str, object]:
    asked = {"limit": _ROWS} | ({"after": request.args["after"]} if "after" in request.args else {})
    found = cast(dict[str, object], parts().inner.data(environ(), "GET", "/admin/dead", asked))
    return {"rows": found["messages"], "total": found["total"], "following": found["next"]}


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
