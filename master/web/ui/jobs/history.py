"""The history of jobs: all of them by filter, and the last runs of one script."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flask import Blueprint, Response, request

from broker.contract.kinds import Integer
from broker.contract.parameters import Parameter
from broker.http.environ import Environ
from master.jobs import script_catalog
from master.jobs.history import pages, script_runs
from master.jobs.history.pages import SOURCES, STATES, HistoryFilter, HistoryPage
from master.jobs.history.script_runs import Typical
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, JobState
from master.web.flask_routes.job_history import filter_of
from master.web.flask_routes.visible_jobs import VisibleJobs
from master.web.jobs import own_jobs
from master.web.ui.frame import charts, formats
from master.web.ui.frame.charts import Bar
from master.web.ui.jobs.catalog import KINDS
from master.web.ui.parts import environ, fragment, page, parts

NAV = None
blueprint = Blueprint("job_history_page", __name__)

_ROWS = 50
_LIVE_ROWS = 200  # of the first page, with what has come since it was loaded
_RUNS = 60
_SAID = 160  # characters of a reason


class Shown(NamedTuple):
    """A row: a job, and what is said of it."""

    job: Job  # without its arguments
    kind: str  # the colour of its state
    state: str
    secs: float | None  # that its last run took
    reason: str


class Runs(NamedTuple):
    """The last runs of a script."""

    bars: list[Bar]
    number: int
    failed: int
    typical: Typical | None


@blueprint.get("/ui/jobs/history")
def shown() -> Response:
    """The whole screen."""
    asked = filter_of(request.args)
    cursor = _integer("cursor")
    of = environ()
    with parts().context.ledger.read() as view:
        found = _page(view, asked, cursor, _limit())
        scripts = sorted({str(row["path"]) for row in script_catalog.rows(view) if _shown_script(row, of)})
        runs = _runs(view, asked) if asked.script else None
    return page(
        "jobs/history.html",
        here="jobs",
        title="History of jobs",
        states=STATES,
        sources=SOURCES,
        scripts=scripts,
        nodes=parts().context.network.names(),
        runs=runs,
        oldest=found.jobs[-1].id if found.cursor and found.jobs else 0,
        live=not cursor and not found.early,
        **_values(asked, found),
        **_numbers(asked),
    )


@blueprint.get("/ui/jobs/history/numbers")
def numbers() -> Response:
    """How many jobs of the filter there are in each state."""
    asked = filter_of(request.args)
    return fragment("jobs/history_numbers.html", **_kept(asked), **_numbers(asked))


@blueprint.get("/ui/jobs/history/rows")
def rows() -> Response:
    """More rows, for the last one of the table."""
    asked = filter_of(request.args)
    with parts().context.ledger.read() as view:
        found = _page(view, asked, _integer("cursor"), _limit())
    return fragment("jobs/history_rows.html", **_values(asked, found))


@blueprint.get("/ui/jobs/history/newest")
def newest() -> Response:
    """The rows down to one that is shown already, as they are now."""
    asked = filter_of(request.args)
    oldest = _integer("oldest")
    with parts().context.ledger.read() as view:
        found = _page(view, asked, 0, _LIVE_ROWS)
    jobs = [job for job in found.jobs if job.id >= oldest]
    return fragment("jobs/history_rows.html", **_values(asked, HistoryPage(jobs, 0, early=False)))


def _page(view: LedgerView, asked: HistoryFilter, cursor: int, limit: int) -> HistoryPage:
    return pages.page(view, asked, cursor, limit, shown=VisibleJobs(view, parts().context.secrets))


def _values(asked: HistoryFilter, found: HistoryPage) -> dict[str, object]:
    rows = [_row(job) for job in found.jobs]
    return {"rows": rows, "cursor": found.cursor, "early": found.early, **_kept(asked)}


def _kept(asked: HistoryFilter) -> dict[str, object]:
    """The filter as it stands in addresses."""
    kept = {name: value for name, value in asked._asdict().items() if value and name != "by"}
    if (limit := _limit()) != _ROWS:
        kept["limit"] = limit
    return {"asked": asked, "kept": kept}


def _numbers(asked: HistoryFilter) -> dict[str, object]:
    with parts().context.ledger.read() as view:
        found = pages.counts(view, asked)
    return {"numbers": found.by_state, "exact": found.exact}


def _row(job: Job) -> Shown:
    secs = script_runs.secs(job) if job.started and job.ended and job.state.final else None
    reason = job.reason if job.state in (JobState.FAILED, JobState.PENDING) else ""
    said = reason if len(reason) <= _SAID else f"{reason[: _SAID - 1]}…"
    state = "cancel asked" if job.cancelling else job.state.name.lower()
    return Shown(job, "warn" if job.cancelling else KINDS[job.state], state, secs, said)


def _runs(view: LedgerView, asked: HistoryFilter) -> Runs:
    """The last runs of the script of the filter, the newest at the right."""
    jobs = script_runs.last(view, asked.script, _RUNS, by=asked.by)
    values = [(script_runs.secs(job), KINDS[job.state], _title(job)) for job in reversed(jobs)]
    failed = sum(job.state is JobState.FAILED for job in jobs)
    return Runs(charts.bars(values, _RUNS), len(jobs), failed, script_runs.typical_of(jobs))


def _title(job: Job) -> str:
    began = formats.moment(job.started / 1000)
    return f"job {job.id}, {began}: {job.state.name.lower()} after {formats.duration(script_runs.secs(job))}"


def _shown_script(row: Mapping[str, object], of: Environ) -> bool:
    return row.get("kind") != "helper" and own_jobs.launchable(of, str(row["path"]))


def _limit() -> int:
    return Parameter("limit", Integer(_LIVE_ROWS), "Rows.", _ROWS).read(request.args)


def _integer(name: str) -> int:
    return Parameter(name, Integer(), "The id of a job.", 0).read(request.args)
