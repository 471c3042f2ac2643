"""Schedules: all of them with a week's calendar, one of them with its executions; pause, resume, run now, cancel."""

from __future__ import annotations

import json
import secrets
from datetime import timedelta
from itertools import islice
from typing import NamedTuple

from flask import Blueprint, Response, request

from broker import integers
from broker.clock import DAY_MS, now_ms
from broker.refusals import BadRequest, NotFound
from master.jobs import script_catalog
from master.jobs.history import pages, script_runs, timing
from master.jobs.history.pages import HistoryFilter
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, Schedule, ScheduleState
from master.jobs.rows import SCHEDULED, List
from master.web.flask_routes.job_admin import BEFORE
from master.web.flask_routes.visible_jobs import VisibleJobs
from master.web.jobs import own_jobs
from master.web.jobs.launch_request import rhythm_of
from master.web.ui.frame import charts, formats
from master.web.ui.frame.inner import message_of
from master.web.ui.frame.pages import Nav
from master.web.ui.jobs import calendar_week, filled_form
from master.web.ui.jobs.catalog import KINDS
from master.web.ui.parts import ask, confirmed, environ, fragment, page, parts, see, visit

NAV = Nav("schedules", "Schedules", "schedules", ("jobs", "launch"))
blueprint = Blueprint("schedules", __name__)

WEEK = timedelta(days=calendar_week.DAYS)
WEEK_MS = calendar_week.DAYS * DAY_MS
_ROWS = 100
_DRAWN = 30  # of them in the calendar
_COMING = 5
_EXECUTIONS = 50
_LOOKED_AT = 300  # executions of a week
_STATES = {
    ScheduleState.ACTIVE: ("active", "ok"),
    ScheduleState.PAUSED: ("paused", "warn"),
    ScheduleState.ENDED: ("ended", "plain"),
    ScheduleState.CANCELLED: ("cancelled", "plain"),
}


class Shown(NamedTuple):
    """A schedule, and what is said of it."""

    row: Schedule
    timing: str
    state: str
    kind: str  # the colour of the state
    last: Job | None
    last_kind: str
    may_change: bool
    may_run: bool


@blueprint.get("/ui/schedules")
def schedules() -> Response:
    """All schedules that are not over, or with those that are, and a week of them."""
    past = request.args.get("past") == "1"
    now = now_ms()
    try:
        first = calendar_week.first_day(request.args.get("first", ""), now)
    except ValueError as error:
        raise BadRequest(f"first={request.args.get('first', '')[:40]!r} is no day like 2026-11-30: {error}") from None
    with parts().context.ledger.read() as view:
        rows, cursor = _listed(view, past)
        scripts = sorted(
            {
                str(row["path"])
                for row in script_catalog.rows(view)
                if row.get("kind") != "helper" and visit().may("launch", str(row["path"]))
            }
        )
        begin = calendar_week.begin_of(first)
        soonest = sorted((one.row for one in rows), key=lambda row: (not row.active, row.next))[:_DRAWN]
        jobs, since = _executions_of_week(view, {row.id for row in soonest}, begin, begin + WEEK_MS)
    days = calendar_week.week(first, soonest, jobs, now)
    return page(
        "schedules/schedules.html",
        here="schedules",
        title="Schedules",
        rows=rows,
        cursor=cursor,
        past=past,
        scripts=scripts,
        days=days,
        left_out=len(rows) - len(soonest),
        since=since / 1000,
        earlier=first - WEEK,
        later=first + WEEK,
        this_week=not request.args.get("first"),
    )


@blueprint.get("/ui/schedules/rows")
def rows() -> Response:
    """More rows, for the last one of the table."""
    past = request.args.get("past") == "1"
    with parts().context.ledger.read() as view:
        found, cursor = _listed(view, past)
    return fragment("schedules/rows.html", rows=found, cursor=cursor, past=past)


@blueprint.get("/ui/schedules/preview")
def preview() -> Response:
    """What the timing in a form means, while it is typed."""
    error, words, times = "", "", []
    now = now_ms()
    try:
        if typed := filled_form.schedule_of(request.args):
            rhythm = rhythm_of(typed)
            words = timing.words(rhythm, now)
            times = timing.preview(rhythm, now, _COMING)
    except (BadRequest, ValueError) as problem:
        error = str(problem)
    return fragment("schedules/preview.html", error=error, words=words, times=[time / 1000 for time in times])


@blueprint.get("/ui/schedules/<number>")
def one(number: str) -> Response:
    """One schedule."""
    before = BEFORE.read(request.args)
    with parts().context.ledger.read() as view:
        schedule = _found(view, number)
        shown = _shown(view, schedule)
        ids = list(islice(view.executions(List.ALL, schedule.id, before), _EXECUTIONS + 1))
        jobs = [job for one in ids if (job := view.job(one))]
        row = VisibleJobs(view, parts().context.secrets)(schedule)
    runs = [(script_runs.secs(job), KINDS[job.state], _title(job)) for job in reversed(jobs) if job.started]
    arguments = json.loads(row.arguments)
    return page(
        "schedules/one.html",
        here="schedules",
        title=f"Schedule {schedule.id}",
        shown=shown._replace(row=row),
        arguments=json.dumps(arguments, ensure_ascii=False, indent=2) if arguments else "",
        coming=[time / 1000 for time in timing.coming(schedule, now_ms(), _COMING)],
        jobs=[(job, KINDS[job.state], script_runs.secs(job)) for job in jobs[:_EXECUTIONS]],
        bars=charts.bars(runs) if len(runs) > 1 else [],
        cursor=ids[_EXECUTIONS - 1] if len(ids) > _EXECUTIONS else 0,
        token=secrets.token_hex(12),
    )


@blueprint.post("/ui/schedules/<number>/<action>")
def act(number: str, action: str) -> Response:
    """Pause, resume, run or cancel a schedule."""
    back = request.form.get("back", "") or f"schedules/{_id(number)}"
    if action == "cancel":
        if not confirmed():
            text = "It will not run again. What it has launched goes on."
            return ask(f"Cancel schedule {_id(number)}?", text, "Cancel it", back=back)
        done = parts().inner.call(environ(), "POST", f"/cancel_job/{_id(number)}")
        return see(back, message_of(done))
    query = {"unique": request.form.get("token", "")} if action == "run" else {}
    done = parts().inner.call(environ(), "POST", f"/scheduled_jobs/{_id(number)}/{action}", query)
    return see(back, message_of(done))


def _listed(view: LedgerView, past: bool) -> tuple[list[Shown], int]:
    """A page of schedules, and the id that the next one begins before, 0 if there is none."""
    before = BEFORE.read(request.args)
    which = List.SCHEDULES if past else List.SCHEDULED
    ids = list(islice(own_jobs.listed(view, environ(), which, before), _ROWS + 1))
    found = [_shown(view, schedule) for one in ids[:_ROWS] if (schedule := view.schedule(one))]
    return found, ids[_ROWS - 1] if len(ids) > _ROWS else 0


def _shown(view: LedgerView, schedule: Schedule) -> Shown:
    state, kind = _STATES[schedule.state]
    last = view.job(schedule.last) if schedule.last else None
    own = bool(schedule.by) and schedule.by == visit().name
    may = not schedule.over and (visit().may("jobs") or own)
    return Shown(
        schedule,
        timing.words(schedule.rhythm, schedule.created),
        state,
        kind,
        last,
        KINDS[last.state] if last else "plain",
        may,
        may and visit().may("launch", schedule.path),
    )


def _executions_of_week(view: LedgerView, schedules: set[int], begin: int, end: int) -> tuple[list[Job], int]:
    """The executions of some schedules that were launched in a time, and since when they are known, 0: all are.

    Only the newest executions are looked at.
    """
    asked = HistoryFilter(source=SCHEDULED, by=own_jobs.owner(environ()))
    newest = pages.page(view, asked, 0, _LOOKED_AT, shown=lambda job: job)
    found = [job for job in newest.jobs if begin <= job.created < end and job.schedule in schedules]
    last = newest.jobs[-1].created if newest.jobs else 0
    return found, last if newest.cursor and last >= begin else 0


def _found(view: LedgerView, number: str) -> Schedule:
    own_jobs.require(view, _id(number), environ())
    found = view.schedule(_id(number))
    if found is None:
        raise NotFound(f"there is no schedule {number}; it was forgotten, or never made")
    return found


def _id(number: str) -> int:
    try:
        return integers.parse(number, 1)
    except ValueError:
        raise NotFound(f"{number[:40]!r} is no id of a schedule") from None


def _title(job: Job) -> str:
    return f"job {job.id}: {job.state.name.lower()} after {formats.duration(script_runs.secs(job))}"
