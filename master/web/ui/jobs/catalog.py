"""The catalog: the scripts that nodes have, with a search, and how their last jobs went."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flask import Blueprint, Response, request

from broker.http.environ import Environ
from master.jobs import script_catalog
from master.jobs.history import pages
from master.jobs.history.pages import HistoryFilter
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, JobState
from master.security.gate import OWN
from master.web.jobs import own_jobs
from master.web.ui.frame.pages import Nav
from master.web.ui.parts import environ, fragment, page, parts, visit

NAV = Nav("jobs", "Jobs", "jobs", ("jobs", "launch"))
blueprint = Blueprint("job_catalog", __name__)

_SHOWN_RUNS = 5
_MOST_ROWS = 200
KINDS = {
    JobState.PENDING: "plain",
    JobState.RUNNING: "busy",
    JobState.COMPLETED: "ok",
    JobState.FAILED: "bad",
    JobState.CANCELLED: "plain",
}


class Run(NamedTuple):
    """A job of a script, as a mark in its row."""

    id: int
    kind: str  # the colour of its state
    state: str


class Script(NamedTuple):
    """A row of the catalog."""

    path: str
    description: str  # its first paragraph
    category: str
    author: str
    error: str
    problems: list[str]  # it runs all the same
    nodes: list[str]
    differs: bool
    everywhere: bool
    runs: list[Run]  # the newest first
    launchable: bool


@blueprint.get("/ui/jobs")
def catalog() -> Response:
    """The whole screen."""
    return page("jobs/catalog.html", here="jobs", title="Jobs", **_values())


@blueprint.get("/ui/jobs/catalog/rows")
def rows() -> Response:
    """The rows that a search gives."""
    return fragment("jobs/catalog_rows.html", **_values())


def newest(view: LedgerView, of: Environ, path: str, most: int) -> list[Job]:
    """The newest jobs of a script that a request may see."""
    return pages.page(view, HistoryFilter(script=path, by=of.get(OWN)), 0, most, shown=lambda job: job).jobs


def _values() -> dict[str, object]:
    text = request.args.get("q", "").strip()
    wanted = text.lower().split()
    of = environ()
    with parts().context.ledger.read() as view:
        known = [row for row in script_catalog.rows(view) if row.get("kind") != "helper"]
        visible = [row for row in known if own_jobs.launchable(of, str(row["path"]))]
        found = [row for row in visible if all(word in _searched(row) for word in wanted)]
        runs = [newest(view, of, str(row["path"]), _SHOWN_RUNS) for row in found[:_MOST_ROWS]]
    nodes = len({node for row in known for node in _nodes(row)})
    return {
        "q": text,
        "scripts": [_script(row, nodes, jobs) for row, jobs in zip(found, runs, strict=False)],
        "more": max(0, len(found) - _MOST_ROWS),
        "total": len(visible),
        "folder": parts().context.settings.jobs.dir,
    }


def _script(row: Mapping[str, object], nodes: int, jobs: list[Job]) -> Script:
    path, having = str(row["path"]), _nodes(row)
    return Script(
        path,
        str(row.get("description") or "").split("\n\n")[0],
        str(row.get("category") or ""),
        str(row.get("author") or ""),
        str(row.get("error") or ""),
        problems(row),
        having,
        bool(row.get("differs")),
        len(having) >= nodes,
        [Run(job.id, KINDS[job.state], job.state.name.lower()) for job in jobs],
        visit().may("launch", path),
    )


def problems(row: Mapping[str, object]) -> list[str]:
    """What is wrong with what a script says of itself."""
    found = row.get("problems")
    return list(map(str, found)) if isinstance(found, list) else []


def _nodes(row: Mapping[str, object]) -> list[str]:
    nodes = row["nodes"]
    return list(map(str, nodes)) if isinstance(nodes, list) else []


def _searched(row: Mapping[str, object]) -> str:
    return " ".join(str(row.get(name) or "") for name in ("path", "description", "category", "author")).lower()
