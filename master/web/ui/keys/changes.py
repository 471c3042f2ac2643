"""The forms that change keys: small uploads, deleting, renaming and copying, lifetimes."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from flask import Response, request

from broker.refusals import BadRequest, Refused
from master.web.ui.frame import formats
from master.web.ui.keys.screen import blueprint, held
from master.web.ui.parts import ask, chosen, confirmed, environ, parts, see, wait_for

_MOST_AT_ONCE = 1000
_VERBS = ("move", "copy")
_OUTPUT_BYTES = 1 << 20


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
    changed = 0
    for number, file in enumerate(files):
        name = formats.plain_name(str(file.filename))
        changed += not str(file.filename).endswith(name)
        headers = {"content-type": file.content_type} if file.content_type else {}
        try:
            parts().inner.call(environ(), "PUT", f"/add_key/{prefix}{name}", query, file.read(), headers=headers)
        except Refused as error:
            if not number:
                raise  # nothing was done
            return _broken_off(error, back, f"stored {number} of {len(files)} files", name)
    said = f"stored {len(files)} file{'s' * (len(files) > 1)}"
    if changed:
        said += f"; {changed} name{'s were' if changed > 1 else ' was'} changed, since keys are of ASCII characters"
    return see(back, said)


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
        return _folder_outcome(verb, key, to, int(json.loads(done.body)["data"]["job_id"]))
    said = f"{key} is called {to} now" if verb == "move" else f"copied {key} to {to}"
    return see(f"keys/show?key={quote(to)}", said)


@blueprint.post("/ui/keys/lifetime")
def lifetime() -> Response:
    """Give a value another lifetime; an empty field: for ever."""
    key, life = request.form.get("key", ""), request.form.get("ttl", "").strip() or "never"
    parts().inner.call(environ(), "POST", f"/lifetime/{key}", {"ttl": life})
    said = "it lives for ever now" if life == "never" else f"it lives for {life} from now on"
    return see(f"keys/show?key={quote(key)}", said)


def _folder_outcome(verb: str, key: str, to: str, number: int) -> Response:
    """The list that a folder's move or copy leads to, in a job, with what has become of it."""
    wait_for(number)
    with parts().context.ledger.read() as view:
        job = view.job(number)
    new = f"keys?prefix={quote(to)}"
    if job is None or not job.state.final:
        doing = "renames" if verb == "move" else "copies"
        return see(new, f"job {number} {doing} {key} to {to}; its keys come one by one, so load this page again")
    output = _output(job.output_key)
    keys = output.get("keys", 0)
    if job.state.name == "COMPLETED":
        said = f"{key} is called {to} now" if verb == "move" else f"{key} was copied to {to}"
        return see(new, f"{said}: {keys} key{'' if keys == 1 else 's'}")
    what = "renamed" if verb == "move" else "copied"
    if failed := output.get("failed"):
        first = f"{failed[0]['key']}: {failed[0]['reason']}"
        said = f"{output.get('failures')} of {keys} keys could not be {what}, first {first}. Job {number} has all"
        return see(f"keys?prefix={quote(key)}", said, bad=True)
    return see(f"keys?prefix={quote(key)}", f"{key} could not be {what}: {job.reason}; see job {number}", bad=True)


def _output(key: str) -> dict[str, Any]:
    """The output of a job that moves or copies; {} when it can't be had now."""
    raw = parts().context.job_files.read(key, _OUTPUT_BYTES) if key else None
    found = json.loads(raw) if raw and len(raw) <= _OUTPUT_BYTES else {}
    return found if isinstance(found, dict) else {}


def _broken_off(error: Refused, back: str, done: str, name: str) -> Response:
    """Say what was done before a refusal."""
    return see(back, f"{done}; {name}: {error}", bad=True)
