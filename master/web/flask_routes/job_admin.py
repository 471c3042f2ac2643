"""`/admin/jobs` and its siblings: jobs, schedules and the catalog, read from the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from flask import Blueprint, Response, current_app, request

from broker import integers, masks
from broker.refusals import BadRequest, NotFound
from jobs.secret_file import SecretFile
from master.jobs import script_catalog
from master.jobs.ledger import Ledger, List
from master.jobs.model import Job, JobProgress, Schedule
from master.web.flask_routes import job_json
from master.web.flask_routes.context import ok
from master.web.flask_routes.job_json import Read
from master.web.keys import parameters

blueprint = Blueprint("jobs_admin", __name__)

EXTENSION = "pulzar jobs"  # key of `JobParts` in the application's extensions
LIMIT = 100
MAX_LIMIT = 1_000
MAX_ID = integers.MAX
_LISTS = {"pendings": List.PENDINGS, "ready": List.READY, "failed": List.FAILED, "scheduled": List.SCHEDULED}
Shown = TypeVar("Shown", Job, Schedule)

_OUTCOMES = {"ok": List.READY, "failed": List.FAILED}


class JobParts(NamedTuple):
    """What these routes work with."""

    ledger: Ledger  # opened to be read
    read: Read
    secrets: SecretFile = SecretFile("")  # that are not to be seen among arguments


def _parts() -> JobParts:
    parts: JobParts = current_app.extensions[EXTENSION]
    return parts


@blueprint.get("/admin/jobs")
def jobs() -> Response:
    """Jobs by state, newest first. `?list=` gives one list only, which `?before=<job_id>` goes on in."""
    limit, before = _integer("limit", LIMIT, MAX_LIMIT), _integer("before", 0, MAX_ID)
    which = request.args.get("list", "")
    if which and which not in _LISTS:
        raise BadRequest(f"list={which[:40]!r} is none of {', '.join(_LISTS)}")
    ledger = _parts().ledger
    data: dict[str, list[dict[str, Any]]] = {}
    with ledger.begin() as txn:
        for name, of in _LISTS.items():
            ids = islice(ledger.listed(txn, of, before), limit) if which in ("", name) else ()
            data[name] = _schedules(txn, ids) if of is List.SCHEDULED else _jobs(txn, ids)
    return ok(data)


@blueprint.get("/admin/jobs/<number>")
def job(number: str) -> Response:
    """One job with its log and output."""
    parts = _parts()
    with parts.ledger.begin() as txn:
        found = parts.ledger.job(txn, _id(number))
        live = parts.ledger.live(txn, _id(number))
        schedule = parts.ledger.schedule(txn, _id(number))
    if found:
        return ok(job_json.detail(_masked(found), live, parts.read, _url))
    if schedule:
        return ok(job_json.schedule_as_job(_masked(schedule)))
    raise NotFound(f"no job has the id {number}; GET /admin/all_jobs lists those that are kept")


@blueprint.get("/admin/all_jobs")
def all_jobs() -> Response:
    """Jobs of every state, newest first."""
    limit, before = _integer("limit", LIMIT, MAX_LIMIT), _integer("before", 0, MAX_ID)
    ledger = _parts().ledger
    with ledger.begin() as txn:
        return ok([job_json.row(_masked(found)) for found in islice(ledger.jobs(txn, before), limit)])


@blueprint.get("/admin/scheduled_jobs")
def scheduled_jobs() -> Response:
    """Schedules, newest first, those that have ended too; each with its last execution."""
    limit, before = _integer("limit", LIMIT, MAX_LIMIT), _integer("before", 0, MAX_ID)
    ledger = _parts().ledger
    with ledger.begin() as txn:
        rows = _schedules(txn, islice(ledger.listed(txn, List.SCHEDULES, before), limit))
        found = _executions(txn, [row["last_job"] for row in rows if row["last_job"]])
    last = {row["job_id"]: row for row in _shown(found)}
    columns = ("exec_id", "log", "output", "datetime")
    return ok([row | {name: last.get(row["job_id"], {}).get(name) for name in columns} for row in rows])


@blueprint.get("/admin/scheduled_jobs/<number>")
def scheduled_job(number: str) -> Response:
    """One schedule with its last executions, newest first."""
    limit, before = _integer("limit", LIMIT, MAX_LIMIT), _integer("before", 0, MAX_ID)
    ledger = _parts().ledger
    with ledger.begin() as txn:
        schedule = ledger.schedule(txn, _id(number))
        if schedule is None:
            raise NotFound(f"no schedule has the id {number}; GET /admin/scheduled_jobs lists those there are")
        found = _executions(txn, islice(ledger.executions(txn, List.ALL, schedule.id, before), limit))
    return ok(job_json.schedule_detail(_masked(schedule), _shown(found)))


@blueprint.get("/admin/scheduled_jobs/ok", defaults={"outcome": "ok"})
@blueprint.get("/admin/scheduled_jobs/failed", defaults={"outcome": "failed"})
@blueprint.get("/admin/scheduled_jobs/ok/<number>", defaults={"outcome": "ok"})
@blueprint.get("/admin/scheduled_jobs/failed/<number>", defaults={"outcome": "failed"})
def executions(outcome: str, number: str = "") -> Response:
    """Executions that went well, or did not, of one schedule or of all, newest first."""
    limit, before = _integer("limit", LIMIT, MAX_LIMIT), _integer("before", 0, MAX_ID)
    ledger = _parts().ledger
    with ledger.begin() as txn:
        if number and ledger.schedule(txn, _id(number)) is None:
            raise NotFound(f"no schedule has the id {number}; GET /admin/scheduled_jobs lists those there are")
        ids = ledger.executions(txn, _OUTCOMES[outcome], _id(number) if number else 0, before)
        found = _executions(txn, islice(ids, limit))
    return ok(_shown(found))


@blueprint.get("/admin/job_catalog")
def job_catalog() -> Response:
    """Every script that a node has."""
    ledger = _parts().ledger
    with ledger.begin() as txn:
        return ok(script_catalog.rows(ledger, txn))


def _masked(found: Shown) -> Shown:
    """A job or a schedule, without the secrets that its arguments may have."""
    hiding = masks.of(_parts().secrets.values())
    if hiding is None:
        return found
    options = found.options._replace(argv=tuple(map(hiding.text, found.options.argv)))
    return found._replace(arguments=hiding.json(found.arguments.encode()).decode(), options=options)


def _jobs(txn: Any, ids: Iterable[int]) -> list[dict[str, Any]]:
    ledger = _parts().ledger
    return [job_json.row(_masked(found)) for number in ids if (found := ledger.job(txn, number))]


def _schedules(txn: Any, ids: Iterable[int]) -> list[dict[str, Any]]:
    ledger = _parts().ledger
    return [job_json.scheduled(_masked(found)) for number in ids if (found := ledger.schedule(txn, number))]


def _executions(txn: Any, ids: Iterable[int]) -> list[tuple[Job, Schedule | None, JobProgress | None]]:
    ledger = _parts().ledger
    return [
        (_masked(found), ledger.schedule(txn, found.schedule), ledger.live(txn, number))
        for number in ids
        if (found := ledger.job(txn, number))
    ]


def _shown(executions: list[tuple[Job, Schedule | None, JobProgress | None]]) -> list[dict[str, Any]]:
    """Rows of executions; not in a transaction, since logs and outputs may come from the nodes."""
    read = _parts().read
    return [job_json.execution(found, schedule, live, read, _url) for found, schedule, live in executions]


def _url(key: str) -> str:
    return f"{request.host_url}get_key/{key}"


def _id(text: str) -> int:
    try:
        return integers.parse(text, 1)
    except ValueError:
        raise NotFound(f"{text[:40]!r} is no id of a job; it is an integer from 1 on") from None


def _integer(name: str, default: int, most: int) -> int:
    return parameters.integer(name, request.args.get(name), default, most)
