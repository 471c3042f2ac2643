"""The form that launches or schedules a job, made from the arguments that its script declares."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import NamedTuple

from flask import Blueprint, Response, request

from broker import masks
from broker.messages import jobs
from broker.messages.runs import CatalogRow
from broker.refusals import BadRequest, Forbidden, NotFound, Refused
from jobs import docstrings
from master.jobs.model import INTERVALS, Job
from master.web.flask_routes.visible_jobs import VisibleJobs
from master.web.jobs import own_jobs
from master.web.jobs.launch_request import SCHEDULED, launch_of
from master.web.ui.frame import formats
from master.web.ui.frame.inner import message_of
from master.web.ui.jobs import catalog, fields, filled_form, launch_lines
from master.web.ui.jobs.fields import Field
from master.web.ui.jobs.filled_form import Filled
from master.web.ui.parts import environ, fragment, page, parts, see, visit, wait_for

NAV = None
blueprint = Blueprint("job_launch", __name__)

_PROPOSED = 20  # keys
UPLOADS = "uploads/"  # where files of forms are stored, unless the form says otherwise
UPLOADS_DAYS = 30


class _Script(NamedTuple):
    """The script that a form is for."""

    path: str
    row: CatalogRow
    nodes: list[str]
    fields: list[Field]


@blueprint.get("/ui/jobs/launch")
def form() -> Response:
    """The form, empty or as a job was launched (`from`)."""
    script = _script(request.args.get("script", ""))
    source = _source(request.args.get("from", ""), script)
    given = _inputs(script, source) if source else {name: text for name, text in request.args.items() if "." in name}
    return _form(script, given, source, _filled(script, given, source))


@blueprint.post("/ui/jobs/launch/lines")
def lines() -> Response:
    """What the form stands for now, as text to copy, and what is wrong with it."""
    script = _script(request.form.get("script", ""))
    source = _source(request.form.get("from", ""), script)
    filled = _filled(script, request.form, source)
    return fragment("jobs/lines.html", **_lines(script, filled))


@blueprint.get("/ui/jobs/launch/keys")
def proposals() -> Response:
    """Keys that begin like the text of an input."""
    # The text comes under the name of its input.
    begun = next((text for name, text in request.args.items() if name != "prefix"), "")
    query = {"prefix": begun, "limit": _PROPOSED}
    try:
        found = parts().inner.data(environ(), "GET", "/keys", {name: text for name, text in query.items() if text})
    except (Forbidden, Refused):
        found = {"keys": []}  # nothing to propose to who may not list these
    assert isinstance(found, dict)
    return fragment("jobs/proposals.html", keys=[row["key"] for row in found["keys"]])


@blueprint.post("/ui/jobs/launch")
def launch() -> Response:
    """Launch the job of the form."""
    script = _script(request.form.get("script", ""))
    source = _source(request.form.get("from", ""), script)
    given = dict(request.form.items())
    filled = _filled(script, given, source)
    if filled.problems:
        return _form(script, given, source, filled, status=400)
    try:
        launch_of(script.path, json.dumps(filled.body).encode())  # before files are stored
        if not visit().may("launch", script.path):
            raise Forbidden(f"you lack the right launch:{script.path}; nothing was done")
        given |= _stored(script)
        if request.files:
            filled = _filled(script, given, source)
        done = parts().inner.call(environ(), "POST", f"/launch_job/{script.path}", None, filled.body)
    except Refused as error:
        return _form(script, given, source, filled, status=error.status, error=str(error))
    data = json.loads(done.body)["data"]
    number = int(data["job_id"])
    said = message_of(done)
    if warnings := data.get("warnings"):
        said = f"{said}. But {'; '.join(warnings)}"
    if SCHEDULED in filled.body:
        return see(f"schedules/{number}", f"{said}, a schedule")
    if request.form.get("then") == "wait":
        wait_for(number)
    return see(f"jobs/{number}", said)


def _form(
    script: _Script,
    given: Mapping[str, str],
    source: Job | None,
    filled: Filled,
    *,
    status: int = 200,
    error: str = "",
) -> Response:
    begun = bool(given)
    texts = {
        f.name: given.get(f"a.{f.name}", "" if begun else f.proposed) for f in script.fields if f.kind != "password"
    }
    with parts().context.ledger.read() as view:
        last = catalog.newest(view, environ(), script.path, 1)
    response = page(
        "jobs/launch.html",
        here="jobs",
        title=f"Launch {script.path}",
        script=script,
        description=str(script.row.get("description") or ""),
        declared=str(script.row.get("args") or "") if not script.fields else "",
        mistakes=catalog.problems(script.row),
        texts=texts,
        given=given,
        source=source,
        last=last[0] if last else None,
        error=error,
        may=visit().may("launch", script.path),
        intervals=INTERVALS,
        priorities=jobs.PRIORITIES,
        optional=any(
            text for name, text in given.items() if name.startswith(("o.", jobs.DATA)) and text != jobs.PRIORITIES[1]
        ),
        uploads=given.get("uploads", UPLOADS),
        uploads_days=UPLOADS_DAYS,
        has_file=any(field.kind == "file" for field in script.fields),
        **_lines(script, filled),
    )
    response.status_code = status
    return response


def _lines(script: _Script, filled: Filled) -> dict[str, object]:
    """What the form stands for, for its template."""
    problems, body = dict(filled.problems), filled.shown()
    if not problems:
        try:
            launch_of(script.path, json.dumps(filled.body).encode())
        except BadRequest as error:
            problems[""] = str(error)
    if hiding := masks.of(parts().context.secrets.values()):
        body = json.loads(hiding.json(json.dumps(body).encode()))
    settings = parts().context.settings
    made = launch_lines.of_launch(settings.url(settings.server), script.path, body, token=parts().gate.asks_for_tokens)
    given = list(filled.body)
    lacking = docstrings.missing(str(script.row.get("args") or ""), given) if script.fields else []
    hidden = bool(filled.hidden)
    return {"lines": made, "problems": problems, "lacking": lacking, "hidden": hidden, "scheduled": SCHEDULED in body}


def _script(path: str) -> _Script:
    """Raises `NotFound`, `Forbidden`, or `BadRequest` without a path."""
    if not path:
        raise BadRequest("no script was chosen; choose one in the catalog")
    path = path.removesuffix(".py")
    if not own_jobs.launchable(environ(), path):
        raise Forbidden(f"you lack the right launch:{path}")
    with parts().context.ledger.read() as view:
        row = view.script(path)
        nodes = sorted(view.nodes_with(path))
    if row is None:
        raise NotFound(f"no node has the script {path}; the catalog lists those there are")
    return _Script(path, row, nodes, fields.of_script(row))


def _source(text: str, script: _Script) -> Job | None:
    """The job that the form is filled in from, as it is in the ledger. Raises `Forbidden`."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        return None
    with parts().context.ledger.read() as view:
        own_jobs.require(view, int(text), environ())
        found = view.job(int(text))
    return found if found is not None and found.path == script.path else None


def _visible(source: Job) -> Job:
    with parts().context.ledger.read() as view:
        return VisibleJobs(view, parts().context.secrets)(source)


def _inputs(script: _Script, source: Job) -> dict[str, str]:
    shown = _visible(source)
    return filled_form.inputs_of(
        script.fields, json.loads(shown.arguments), data=source.data, options=shown.options._asdict()
    )


def _filled(script: _Script, given: Mapping[str, str], source: Job | None) -> Filled:
    if not given:
        given = {f"a.{field.name}": field.proposed for field in script.fields}
    if source is None:
        return filled_form.read(script.fields, given)
    kept = json.loads(source.arguments)
    filled = filled_form.read(script.fields, given, kept)
    return filled_form.restored(filled, json.loads(_visible(source).arguments), kept)


def _stored(script: _Script) -> dict[str, str]:
    """Stores the files of the form; the keys by the names of their inputs."""
    found: dict[str, str] = {}
    for field in script.fields:
        file = request.files.get(f"f.{field.name}")
        if field.kind != "file" or file is None or not file.filename:
            continue
        name = formats.plain_name(file.filename)[-100:] or "file"
        folder = request.form.get("uploads", UPLOADS).strip().strip("/")
        key = "/".join(filter(None, (folder, secrets.token_hex(6), name)))
        headers = {"content-type": file.content_type} if file.content_type else {}
        query = {"ttl": f"{UPLOADS_DAYS}d"}
        parts().inner.call(environ(), "PUT", f"/add_key/{key}", query, file.read(), headers=headers)
        found[f"a.{field.name}"] = key
    return found
