"""`/admin/job_history` and the routes beside it: pages of jobs by filter, numbers by state, the runs of a script."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Response, request

from broker import integers
from broker.errors import MalformedMessage
from broker.messages import jobs
from broker.refusals import BadRequest
from master.jobs.history import pages, script_runs
from master.jobs.history.pages import SOURCES, STATES, HistoryFilter
from master.jobs.model import Job
from master.web.flask_routes import job_admin, job_json
from master.web.flask_routes.context import ok
from master.web.jobs import own_jobs
from master.web.keys import parameters

blueprint = Blueprint("job_history", __name__)

MAX_TEXT = 200  # characters
RUNS = 50
MAX_RUNS = 200
_MOST_NAME = 130  # characters of a script's path or a node's name


@blueprint.get("/admin/job_history")
def history() -> Response:
    """A page of jobs, newest first, by filter."""
    asked = filter_of(request.args)
    cursor = parameters.integer("cursor", request.args.get("cursor"), 0, integers.MAX)
    limit = parameters.integer("limit", request.args.get("limit"), job_admin.LIMIT, job_admin.MAX_LIMIT)
    with job_admin.parts().ledger.read() as view:
        page = pages.page(view, asked, cursor, limit, shown=job_admin.visible(view))
    rows = [job_json.row(found) for found in page.jobs]
    return ok({"jobs": rows, "cursor": page.cursor or None, "early": page.early})


@blueprint.get("/admin/job_counts")
def counts() -> Response:
    """How many jobs there are in each state, of all or of a filter."""
    with job_admin.parts().ledger.read() as view:
        found = pages.counts(view, filter_of(request.args))
    return ok({**found.by_state, "exact": found.exact})


@blueprint.get("/admin/script_runs/<folder>/<script>")
def runs(folder: str, script: str) -> Response:
    """The last runs of a script that have ended, newest first, and how long one usually takes."""
    limit = parameters.integer("limit", request.args.get("limit"), RUNS, MAX_RUNS)
    path, by = _path(f"{folder}/{script}"), own_jobs.owner(request.environ)
    with job_admin.parts().ledger.read() as view:
        found = script_runs.last(view, path, max(limit, script_runs.SAMPLE), by=by)
    usual = script_runs.typical_of(found)
    shown = usual._asdict() if usual else None
    return ok({"script": path, "runs": [_run(job) for job in found[:limit]], "typical": shown})


def filter_of(given: Mapping[str, str]) -> HistoryFilter:
    """The filter in the parameters of this request; raises `BadRequest`. Who may see his own jobs alone gets those."""
    found = {
        "state": _choice("state", given.get("state", ""), STATES),
        "source": _choice("source", given.get("source", ""), SOURCES),
    }
    script = given.get("script", "")
    schedule = given.get("schedule", "")
    return HistoryFilter(
        **found,
        script=_path(script) if script else "",
        node=_short("node", given.get("node", ""), _MOST_NAME),
        schedule=parameters.integer("schedule", schedule, 0, integers.MAX) if schedule else 0,
        text=_short("text", given.get("text", ""), MAX_TEXT),
        by=own_jobs.owner(request.environ),
    )


def _run(job: Job) -> job_json.Row:
    row = job_json.row(job)
    names = ("job_id", "state", "node", "started", "ended", "attempt", "reason")
    return {name: row[name] for name in names} | {"secs": script_runs.secs(job)}


def _choice(name: str, given: str, choices: tuple[str, ...]) -> str:
    if given and given not in choices:
        raise BadRequest(f"{name}={given[:40]!r} is none of {', '.join(choices)}")
    return given


def _short(name: str, given: str, most: int) -> str:
    if len(given) > most:
        raise BadRequest(f"{name} has {len(given)} characters; {most} is the limit")
    return given


def _path(given: str) -> str:
    try:
        return jobs.check_path(given)
    except MalformedMessage as error:
        raise BadRequest(str(error).replace("job =", "script =", 1)) from None
