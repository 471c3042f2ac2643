"""`/admin/jobs` and the routes beside it: jobs, schedules and the catalog, from the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from flask import Blueprint, Response, current_app, request

from broker import integers
from broker.contract.kinds import Choice, Integer, OrEmpty
from broker.contract.parameters import Parameter
from broker.refusals import NotFound
from jobs.secret_file import SecretFile
from master.jobs import script_catalog
from master.jobs.history import script_runs, wait_reason
from master.jobs.ledger import Ledger, LedgerView
from master.jobs.model import Schedule
from master.jobs.routing import Loads
from master.jobs.rows import List
from master.web.flask_routes import job_json
from master.web.flask_routes.context import ok
from master.web.flask_routes.job_json import Execution, Files, Read, Row
from master.web.flask_routes.visible_jobs import VisibleJobs
from master.web.jobs import own_jobs

blueprint = Blueprint("jobs_admin", __name__)

EXTENSION = "pulzar jobs"  # key of `JobParts` in the application's extensions
LIMIT = 100
MAX_LIMIT = 1_000
_LISTS = {"pendings": List.PENDINGS, "ready": List.READY, "failed": List.FAILED, "scheduled": List.SCHEDULED}
_OUTCOMES = {"ok": List.READY, "failed": List.FAILED}
ROWS = Parameter("limit", Integer(MAX_LIMIT), "Rows at most.", LIMIT)
BEFORE = Parameter("before", Integer(), "Go on behind this id: the last one of the page before.", 0)
LIST = Parameter("list", OrEmpty(Choice(*_LISTS), ""), "Only this list.", "")


class JobParts(NamedTuple):
    """What these routes work with."""

    ledger: Ledger  # opened to be read
    read: Read
    secrets: SecretFile = SecretFile("")  # hidden in arguments
    loads: Callable[[], Loads] = dict  # of the nodes
    data_wait: float = 0.0  # s, see `master.jobs.routing.Router`


def parts() -> JobParts:
    """Those of the application that handles this request."""
    found: JobParts = current_app.extensions[EXTENSION]
    return found


class _Page(NamedTuple):
    """The part of a list that a request asks for."""

    limit: int
    before: int  # ids less than this; 0: from the newest on


def _page() -> _Page:
    """Raises `BadRequest`."""
    return _Page(ROWS.read(request.args), BEFORE.read(request.args))


@blueprint.get("/admin/jobs")
def jobs() -> Response:
    """Jobs by state, newest first. `?list=` selects one list, in which `?before=<job_id>` goes on."""
    page = _page()
    which = LIST.read(request.args)
    data: dict[str, list[Row]] = {}
    with parts().ledger.read() as view:
        for name, listed in _LISTS.items():
            ids = (
                islice(own_jobs.listed(view, request.environ, listed, page.before), page.limit)
                if which in ("", name)
                else ()
            )
            data[name] = _schedules(view, ids) if listed is List.SCHEDULED else _jobs(view, ids)
    return ok(data)


@blueprint.get("/admin/jobs/<number>")
def job(number: str) -> Response:
    """One job with its log and output."""
    with parts().ledger.read() as view:
        own_jobs.require(view, _id(number), request.environ)
        found, schedule = view.job(_id(number)), view.schedule(_id(number))
        live = view.progress(_id(number))
        waits = found and wait_reason.of_job(view, found, parts().loads(), parts().data_wait)
        end = found and script_runs.expected_end(view, found)
        found, schedule = found and visible(view)(found), schedule and visible(view)(schedule)
    if found:
        shown = job_json.detail(found, live, Files(parts().read, _url))
        return ok({**shown, "waits": job_json.waits(waits), "expected_end": end / 1000 if end else None})
    if schedule:
        return ok(job_json.schedule_as_job(schedule))
    raise NotFound(f"no job has the id {number}; GET /admin/all_jobs lists those that are kept")


@blueprint.get("/admin/all_jobs")
def all_jobs() -> Response:
    """Jobs of every state, newest first."""
    page = _page()
    with parts().ledger.read() as view:
        return ok(_jobs(view, islice(own_jobs.listed(view, request.environ, List.ALL, page.before), page.limit)))


@blueprint.get("/admin/scheduled_jobs")
def scheduled_jobs() -> Response:
    """Schedules, newest first, those that have ended too; each with its last execution."""
    page = _page()
    with parts().ledger.read() as view:
        rows = _schedules(view, islice(own_jobs.listed(view, request.environ, List.SCHEDULES, page.before), page.limit))
        found = _executions(view, [number for row in rows if isinstance(number := row["last_job"], int)])
    last = {row["job_id"]: row for row in _shown(found)}
    columns = ("exec_id", "log", "output", "datetime")
    return ok([row | {name: last.get(row["job_id"], {}).get(name) for name in columns} for row in rows])


@blueprint.get("/admin/scheduled_jobs/<number>")
def scheduled_job(number: str) -> Response:
    """One schedule with its last executions, newest first."""
    page = _page()
    with parts().ledger.read() as view:
        schedule = visible(view)(_schedule(view, number))
        found = _executions(view, islice(view.executions(List.ALL, schedule.id, page.before), page.limit))
    return ok(job_json.schedule_detail(schedule, _shown(found)))


@blueprint.get("/admin/scheduled_jobs/ok", defaults={"outcome": "ok"})
@blueprint.get("/admin/scheduled_jobs/failed", defaults={"outcome": "failed"})
@blueprint.get("/admin/scheduled_jobs/ok/<number>", defaults={"outcome": "ok"})
@blueprint.get("/admin/scheduled_jobs/failed/<number>", defaults={"outcome": "failed"})
def executions(outcome: str, number: str = "") -> Response:
    """Executions that succeeded or failed, of one schedule or of all, newest first."""
    page = _page()
    with parts().ledger.read() as view:
        which = _OUTCOMES[outcome]
        if number:
            ids = view.executions(which, _schedule(view, number).id, page.before)
        else:
            ids = own_jobs.executions(view, request.environ, which, page.before)
        found = _executions(view, islice(ids, page.limit))
    return ok(_shown(found))


@blueprint.get("/admin/job_catalog")
def job_catalog() -> Response:
    """Every script that a node has, or those that the client may launch."""
    with parts().ledger.read() as view:
        return ok([row for row in script_catalog.rows(view) if own_jobs.launchable(request.environ, str(row["path"]))])


def visible(view: LedgerView) -> VisibleJobs:
    """What gives jobs and schedules as who asks for them may see them."""
    return VisibleJobs(view, parts().secrets)


def _jobs(view: LedgerView, ids: Iterable[int]) -> list[Row]:
    shown = visible(view)
    return [job_json.row(shown(found)) for number in ids if (found := view.job(number))]


def _schedules(view: LedgerView, ids: Iterable[int]) -> list[Row]:
    shown = visible(view)
    return [job_json.scheduled(shown(found)) for number in ids if (found := view.schedule(number))]


def _schedule(view: LedgerView, number: str) -> Schedule:
    """The schedule with this id; raises `NotFound`, and `Forbidden` when it is somebody else's."""
    own_jobs.require(view, _id(number), request.environ)
    found = view.schedule(_id(number))
    if found is None:
        raise NotFound(f"no schedule has the id {number}; GET /admin/scheduled_jobs lists those there are")
    return found


def _executions(view: LedgerView, ids: Iterable[int]) -> list[Execution]:
    shown = visible(view)
    return [
        Execution(shown(found), view.schedule(found.schedule), view.progress(number))
        for number in ids
        if (found := view.job(number))
    ]


def _shown(executions: list[Execution]) -> list[Row]:
    """Rows of executions. Call it outside of a transaction: logs and outputs may come from nodes."""
    files = Files(parts().read, _url)
    return [job_json.execution(found, files) for found in executions]


def _url(key: str) -> str:
    return f"{request.host_url}get_key/{key}"


def _id(text: str) -> int:
    try:
        return integers.parse(text, 1)
    except ValueError:
        raise NotFound(f"{text[:40]!r} is no id of a job; it is an integer from 1 on") from None
