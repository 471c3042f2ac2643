"""Who may launch jobs may list, see and cancel those that he has launched himself."""

from __future__ import annotations

from collections.abc import Iterator

from broker.http.environ import Environ
from broker.refusals import Forbidden
from master.jobs.ledger import LedgerView
from master.jobs.rows import List
from master.security.gate import LAUNCHES, OWN
from master.security.rights import Right, Rights


def owner(environ: Environ) -> str | None:
    """Name of the token that a request may see the jobs of; None when it may see all."""
    return environ.get(OWN)


def listed(view: LedgerView, environ: Environ, which: List, before: int) -> Iterator[int]:
    """Ids of a list, newest first, or those before an id: those that a request may see."""
    name = environ.get(OWN)
    if name is not None:
        return view.owned(name, which, before)
    return (job.id for job in view.jobs(before)) if which is List.ALL else view.listed(which, before)


def executions(view: LedgerView, environ: Environ, which: List, before: int) -> Iterator[int]:
    """Ids of the executions of all schedules that a request may see."""
    name = environ.get(OWN)
    return view.executions(which, 0, before) if name is None else view.owned(name, which, before, executions=True)


def launchable(environ: Environ, path: str) -> bool:
    """Whether the script is one that a request may see in the catalog: all, or those that it may launch."""
    if OWN not in environ:
        return True
    return Rights(map(Right.parse, environ[LAUNCHES].split())).allow(Right("launch", path))


def require(view: LedgerView, number: int, environ: Environ) -> None:
    """Raises `Forbidden` for a job or schedule that a request may not see: it lacks `jobs`, and somebody else's it is.

    An id that is unknown is not refused.
    """
    name = environ.get(OWN)
    if name is None:
        return
    found = view.job(number) or view.schedule(number)
    if found is not None and found.by != name:
        raise Forbidden(f"job {number} was not launched with the token {name}, and it lacks the right jobs")
