"""`/admin/dead`: the messages that could not be used. Lists them, sends them again, drops them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from flask import Blueprint, Response, current_app, request
from werkzeug.routing import BaseConverter

from broker.contract.bodies import Body, Fields, ListOf, OrNull, Record
from broker.contract.kinds import Integer, Text
from broker.contract.parameters import Parameter
from broker.link import roles
from broker.refusals import Conflict, NotFound
from broker.topology import MASTER_USER
from master.dead_letters import letter
from master.dead_letters.desk import GONE, MOST_AT_ONCE, DeadLetters, Done
from master.dead_letters.letter import Letter
from master.security.audit import ABOUT
from master.web.flask_routes.context import Context, context, ok

blueprint = Blueprint("dead", __name__)

EXTENSION = "pulzar dead letters"
LIMIT, MAX_LIMIT = 50, 500
ROWS = Parameter("limit", Integer(MAX_LIMIT), "Messages at most.", LIMIT)
AFTER = Parameter("after", Text(), "Go on behind this id: next of the page before.", "")
_LISTED_CHARACTERS = 1_000  # of a body, in the list
_SHOWN_CHARACTERS = 262_144  # of a body, alone
_IDS = {"ids": (ListOf(Text(), MOST_AT_ONCE), "Of messages; GET /admin/dead lists them.")}
_EXAMPLE = '{"ids": ["<id of a message>", …]}'
SEND = Body(
    Record(
        _IDS
        | {
            "queue": (OrNull(Text()), "Another queue of Pulzar."),
            "body": (OrNull(Text()), "Another body; for one message alone."),
        },
        ["ids"],
    ),
    _EXAMPLE,
)
DROP = Body(Record(_IDS, ["ids"]), _EXAMPLE)


class _Order(NamedTuple):
    """What a request asks for."""

    ids: list[str]
    queue: str
    body: str | None


def make(parts: Context) -> DeadLetters:
    """The dead letters of this worker."""
    config = parts.settings
    return DeadLetters(parts.link, Path(config.server.dir), apart=roles.user(config.broker.url) == MASTER_USER)


def _desk() -> DeadLetters:
    found: DeadLetters = current_app.extensions.setdefault(EXTENSION, make(context()))
    return found


@blueprint.get("/admin/dead")
def dead() -> Response:
    """The messages in `pulzar.dead`, the oldest first. `?after=<id>` goes on."""
    page = _desk().page(ROWS.read(request.args), AFTER.read(request.args))
    rows = [_row(each, _LISTED_CHARACTERS) for each in page.letters]
    return ok({"messages": rows, "total": page.total, "next": page.following or None})


class LetterId(BaseConverter):
    """The id of a message in a path: no name of a route beside it."""

    regex = r"(?!(?:send|drop)$)[^/]+"


@blueprint.get("/admin/dead/<letter:letter_id>")
def one(letter_id: str) -> Response:
    """One of them, with more of its body."""
    return ok(_row(_desk().one(letter_id), _SHOWN_CHARACTERS))


@blueprint.post("/admin/dead/send")
def send() -> Response:
    """Send messages (`{"ids": [...]}`) to the queues that they came from; with `queue` or `body`, to it or with it."""
    order = _order(SEND)
    body = None if order.body is None else order.body.encode("utf-8", "backslashreplace")
    return _said(_desk().send(order.ids, order.queue, body), "sent")


@blueprint.post("/admin/dead/drop")
def drop() -> Response:
    """Remove messages (`{"ids": [...]}`) for good."""
    return _said(_desk().drop(_order(DROP).ids), "dropped")


def _order(body: Body[Fields]) -> _Order:
    given = body.read(request.get_data())
    ids: list[str] = given["ids"]
    request.environ[ABOUT] = " ".join(ids)[:1000]
    return _Order(ids, given.get("queue") or "", given.get("body"))


def _said(result: Done, word: str) -> Response:
    """Raises what fits when nothing was done."""
    failed = [each._asdict() for each in result.failed]
    if not result.done:
        first = result.failed[0]
        kind = NotFound if all(each.reason == GONE for each in result.failed) else Conflict
        rest = f"; nor any of {len(failed) - 1} others" if len(failed) > 1 else ""
        raise kind(f"message {first.id[:80]} was not {word}: {first.reason}{rest}")
    count = len(result.done)
    message = f"{word} {count} message{'s' * (count != 1)}"
    if failed:
        message += f", and {len(failed)} not: {result.failed[0].reason}"
    return ok({word: result.done, "failed": failed}, message)


def _row(found: Letter, most: int) -> dict[str, object]:
    shown = letter.show(found.body, found.size, most)
    return {
        "id": found.id,
        "copies": len(found.held),
        "reason": found.reason,
        "queue": found.queue,
        "by": found.by,
        "user": found.user,
        "at": found.at,
        "unsure": found.unsure,
        "headers": letter.for_json(found.headers),
        "content_type": found.content_type,
        "size": found.size,
        "format": shown.format,
        "body": shown.text,
        "whole": shown.whole,
        "editable": shown.editable,
    }
