"""`/admin/job_history` and the routes beside it: pages of jobs by filter, numbers by state, the runs of a script."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Response, request

from broker.contract.kinds import Choice, Integer, OrEmpty, Text
from broker.contract.parameters import Parameter
from broker.errors import MalformedMessage
from broker.messages import jobs
from broker.refusals import BadRequest
from master.jobs.history import pages, script_runs
from master.jobs.history.pages import SOURCES, STATES, HistoryFilter
from master.jobs.model import Job
from master.web.flask_routes import job_admin, job_json
from master.web.flask_routes.context import ok
from master.web.jobs import own_jobs

blueprint = Blueprint("job_history", __name__)

MAX_TEXT = 200  # characters
RUNS = 50
MAX_RUNS = 200
_MOST_NAME = 130  # characters of a node's name

STATE = Parameter("state", OrEmpty(Choice(*STATES), ""), "Jobs in this state.", "")
SOURCE = Parameter("source", OrEmpty(Choice(*SOURCES), ""), "Where jobs came from.", "")
SCRIPT = Parameter(
    "script",
    Text(pattern=f"(?:{jobs.PATH_PATTERN})?", what="folder/script"),
    "Jobs of this script, folder/script.",
    "",
)
NODE = Parameter("node", Text(_MOST_NAME), "Jobs whose last run is or was on this node.", "")
SCHEDULE = Parameter("schedule", OrEmpty(Integer(), 0), "Jobs that this schedule launched.", 0)
TEXT = Parameter(
    "text",
    Text(MAX_TEXT),
    "Jobs with this text in script, arguments, reason or name of the token. ASCII letters count in either case.",
    "",
)
CURSOR = Parameter("cursor", Integer(), "Go on where the page with this cursor ended.", 0)
LAST = Parameter("limit", Integer(MAX_RUNS), "Rows at most.", RUNS)
COUNTED = (SCRIPT, NODE, SOURCE, SCHEDULE)


@blueprint.get("/admin/job_history")
def history() -> Response:
    """A page of jobs, newest first, by filter."""
    asked = filter_of(request.args)
    cursor, limit = CURSOR.read(request.args), job_admin.ROWS.read(request.args)
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
    limit = LAST.read(request.args)
    path, by = _path(f"{folder}/{script}"), own_jobs.owner(request.environ)
    with job_admin.parts().ledger.read() as view:
        found = script_runs.last(view, path, max(limit, script_runs.SAMPLE), by=by)
    usual = script_runs.typical_of(found)
    shown = usual._asdict() if usual else None
    return ok({"script": path, "runs": [_run(job) for job in found[:limit]], "typical": shown})


def filter_of(given: Mapping[str, str]) -> HistoryFilter:
    """The filter in the parameters of this request; raises `BadRequest`. Who may see his own jobs alone gets those."""
    script = SCRIPT.read(given)
    return HistoryFilter(
        state=STATE.read(given),
        source=SOURCE.read(given),
        script=_path(script) if script else "",
        node=NODE.read(given),
        schedule=SCHEDULE.read(given),
        text=TEXT.read(given),
        by=own_jobs.owner(request.environ),
    )


def _run(job: Job) -> job_json.Row:
    row = job_json.row(job)
    names = ("job_id", "state", "node", "started", "ended", "attempt", "reason")
    return {name: row[name] for name in names} | {"secs": script_runs.secs(job)}


def _path(given: str) -> str:
    try:
        return jobs.check_path(given)
    except MalformedMessage as error:
        raise BadRequest(str(error).replace("job =", "script =", 1)) from None
