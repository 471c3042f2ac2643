"""The forms that change keys: small uploads, deleting, renaming and copying, lifetimes."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from urllib.parse import quote

from flask import Response, request

from broker.refusals import BadRequest, Refused
from master.web.ui.frame.inner import message_of
from master.web.ui.keys.screen import blueprint, held
from master.web.ui.parts import ask, chosen, confirmed, environ, parts, see

_MOST_AT_ONCE = 1000
_VERBS = ("move", "copy")


@blueprint.post("/ui/keys/delete")
def delete() -> Response:
    """Delete the keys of the form, after a question."""
    given = chosen("keys", "key")
    back = request.form.get("back", "keys")
    if not given:
        return see(back, "No key was chosen; tick some first", bad=True)
    if len(given) > _MOST_AT_ONCE:
        raise BadRequest(f"{len(given)} keys were chosen; delete up to {_MOST_AT_ONCE} at once")
    if not confirmed():
        what = given[0] if len(given) == 1 else f"{len(given)} keys"
        return ask(f"Delete {what}?", held(), "Delete", {"keys": json.dumps(given), "back": back}, back=back)
    for number, key in enumerate(given):
        try:
            parts().inner.call(environ(), "DELETE", f"/delete_key/{key}")
        except Refused as error:
            if not number:
                raise  # nothing was done
            return _broken_off(error, back, f"deleted {number} of {len(given)} keys", key)
    return see(back, f"deleted {given[0]}" if len(given) == 1 else f"deleted {len(given)} keys")


@blueprint.post("/ui/keys/add")
def add() -> Response:
    """Store the files of a form, each below the prefix."""
    prefix, life = request.form.get("prefix", ""), request.form.get("ttl", "").strip()
    files = [file for file in request.files.getlist("file") if file.filename]
    if not files:
        raise BadRequest("no file was chosen; choose one first")
    query = ({"overwrite": "1"} if request.form.get("overwrite") else {}) | ({"ttl": life} if life else {})
    back = f"keys?prefix={quote(prefix)}"
    for number, file in enumerate(files):
        name = PurePosixPath(str(file.filename).replace("\\", "/")).name
        headers = {"content-type": file.content_type} if file.content_type else {}
        try:
            parts().inner.call(environ(), "PUT", f"/add_key/{prefix}{name}", query, file.read(), headers=headers)
        except Refused as error:
            if not number:
                raise  # nothing was done
            return _broken_off(error, back, f"stored {number} of {len(files)} files", name)
    return see(back, f"stored {len(files)} file{'s' * (len(files) > 1)}")


@blueprint.post("/ui/keys/transfer")
def transfer() -> Response:
    """Rename or copy a key; of a folder, have a job do it."""
    key, to = request.form.get("key", ""), request.form.get("to", "").strip().removeprefix("/")
    verb = request.form.get("verb", "")
    if verb not in _VERBS:
        raise BadRequest(f"verb={verb[:40]!r} is neither {' nor '.join(_VERBS)}")
    query = {"to": to} | ({"overwrite": "1"} if request.form.get("overwrite") else {})
    done = parts().inner.call(environ(), "POST", f"/{verb}/{key}", query)
    if done.status == 202:
        return see(f"keys?prefix={quote(key)}", message_of(done))
    said = f"{key} is called {to} now" if verb == "move" else f"copied {key} to {to}"
    return see(f"keys/show?key={quote(to)}", said)


@blueprint.post("/ui/keys/lifetime")
def lifetime() -> Response:
    """Give a value another lifetime; an empty field: for ever."""
    key, life = request.form.get("key", ""), request.form.get("ttl", "").strip() or "never"
    parts().inner.call(environ(), "POST", f"/lifetime/{key}", {"ttl": life})
    said = "it lives for ever now" if life == "never" else f"it lives for {life} from now on"
    return see(f"keys/show?key={quote(key)}", said)


def _broken_off(error: Refused, back: str, done: str, name: str) -> Response:
    """Say what was done before a refusal."""
    return see(back, f"{done}; {name}: {error}", bad=True)
