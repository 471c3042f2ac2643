"""The screen of extensions: what they say of themselves, and a form that tries each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from flask import Blueprint, Response, request

from broker.http import responses
from broker.refusals import BadRequest, Forbidden, Refused
from master.extensions import catalog
from master.extensions.catalog import Described
from master.security.rights import Right
from master.web.ui.frame.pages import Nav
from master.web.ui.parts import environ, page, parts, visit

NAV = Nav("extensions", "Extensions", "extensions", ("extension",))
blueprint = Blueprint("extensions", __name__)

SHOWN_CHARACTERS = 65_536  # of an answer, as text
_MOST_PICTURES = 8
_LONG = 80  # characters; a text of an answer that is longer, or has lines, is shown apart
_ASKED = "p."  # begins the names of fields for parameters, so that they are no others of the form
# Of these, browsers run nothing. `data:` is what the page's policy allows for pictures.
_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp|bmp);base64,[A-Za-z0-9+/=]+", re.ASCII)


class Answer(NamedTuple):
    """What an extension has answered, as the page shows it: texts and pictures, never HTML."""

    text: str  # its JSON
    texts: list[tuple[str, str]]  # name and content of long texts in it
    pictures: list[tuple[str, str]]  # name and address of each
    cut: bool  # it is longer than what is shown


class Tried(NamedTuple):
    """What came of a try."""

    method: str
    answer: Answer | None
    refusal: str  # "" when there is an answer
    status: int


@blueprint.get("/ui/extensions")
def shown() -> Response:
    """All extensions that the visitor may run."""
    found = [one for one in catalog.describe_all(_directory()) if visit().may("extension", one.name)]
    return page(
        "extensions/extensions.html",
        here="extensions",
        title="Extensions",
        extensions=found,
        directory=parts().context.settings.extensions.dir,
    )


@blueprint.get("/ui/extensions/<name>")
def one(name: str) -> Response:
    """One extension with its form."""
    return _one(_described(name), None)


@blueprint.post("/ui/extensions/<name>")
def tried(name: str) -> Response:
    """The same with an answer. Nothing can be sent on to another page, so the response to the form has it."""
    found = _described(name)
    file = request.files.get("file")
    sent = file.stream if file and file.filename else None
    method = "GET" if sent is None else "PUT"
    path = f"/extension/{name}/{request.form.get('path', '').strip('/')}"
    timeout = parts().context.settings.extensions.timeout
    try:
        response = parts().inner.call(environ(), method, path, _query(), sent or b"", secs=2 * timeout + 5)
    except Refused as error:
        return _one(found, Tried(method, None, str(error), error.status))
    return _one(found, Tried(method, answer_of(response.body), "", response.status))


def _described(name: str) -> Described:
    """What an extension says of itself; raises `Refused`. Names are not told to who may not run them."""
    asked = Right("extension", name)
    if not visit().may(*asked):
        raise Forbidden(f"the token {visit().name} lacks the right {asked}; nothing was done")
    return catalog.describe(_directory(), name)


def _directory() -> Path:
    return Path(parts().context.settings.extensions.dir).resolve()


def _query() -> dict[str, object]:
    """The query of the form: fields of parameters, and what else was typed in. Raises `BadRequest`."""
    found: dict[str, object] = {
        name.removeprefix(_ASKED): value
        for name, value in request.form.items()
        if name.startswith(_ASKED) and value != ""
    }
    more = request.form.get("more", "").lstrip("?")
    try:
        found.update(parse_qsl(more, keep_blank_values=True, strict_parsing=bool(more)))
    except ValueError as error:
        raise BadRequest(f"{more[:80]!r} is no query; give name=value, with & between several") from error
    return found


def _one(found: Described, result: Tried | None) -> Response:
    given = {name.removeprefix(_ASKED): value for name, value in request.form.items() if name.startswith(_ASKED)}
    path, more = request.form.get("path", ""), request.form.get("more", "")
    tail = f"/{quote(path.strip('/'))}" if path.strip("/") else ""
    query = urlencode({name: value for name, value in given.items() if value}) + (f"&{more}" if more else "")
    context = parts().context
    address = f"{context.settings.url(context.settings.server)}/extension/{found.name}{tail}"
    return page(
        "extensions/extension.html",
        here="extensions",
        title=found.name,
        extension=found,
        given=given,
        path=path,
        more=more,
        result=result,
        most=context.settings.extensions.max_body,
        curl=curl(
            address + (f"?{query.lstrip('&')}" if query else ""),
            file=found.takes_file,
            token=parts().gate.asks_for_tokens,
        ),
    )


def curl(address: str, *, file: bool, token: bool) -> str:
    """The command that does the same in a shell."""
    words = ["curl", *(["-H", '"Authorization: Bearer $PULZAR_TOKEN"'] if token else []), *(["-T", "FILE"] * file)]
    return " ".join([*words, _quoted(address)])


def _quoted(text: str) -> str:
    """A text as one word of a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def answer_of(body: bytes) -> Answer:
    """What the page shows of the body of a response."""
    try:
        data: object = json.loads(body)["data"]
    except (ValueError, KeyError, TypeError):  # it was cut, since it is long
        text = body.removeprefix(_BEGINNING).decode("utf-8", "replace")
        return Answer(text[:SHOWN_CHARACTERS], [], [], True)
    texts: list[tuple[str, str]] = []
    pictures: list[tuple[str, str]] = []
    for name, value in _strings("", data):
        if _PICTURE.fullmatch(value):
            pictures.append((name, value))
        elif len(value) > _LONG or "\n" in value:
            texts.append((name, value[:SHOWN_CHARACTERS]))
    whole = json.dumps(_without(data, {value for _, value in pictures}), indent=2, ensure_ascii=False)
    # A long list of long texts would be there twice.
    apart = texts if sum(len(value) for _, value in texts) <= SHOWN_CHARACTERS and isinstance(data, dict) else []
    return Answer(whole[:SHOWN_CHARACTERS], apart, pictures[:_MOST_PICTURES], len(whole) > SHOWN_CHARACTERS)


_BEGINNING = responses.envelope(200, None, "ok").split(b"null", 1)[0]


def _strings(name: str, data: object) -> Iterable[tuple[str, str]]:
    """The texts in what was answered, each with where it is: `pages.0.text`."""
    if isinstance(data, str):
        yield name or "data", data
    elif isinstance(data, Mapping | list):
        for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _strings(f"{name}.{key}" if name else str(key), value)


def _without(data: object, pictures: set[str]) -> object:
    """The same, where pictures that are shown are named by their length alone."""
    match data:
        case str() if data in pictures:
            return f"(a picture of {len(data)} characters)"
        case dict():
            return {key: _without(value, pictures) for key, value in data.items()}
        case list():
            return [_without(value, pictures) for value in data]
    return data
