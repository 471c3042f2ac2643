"""The last runs of a script, how long they usually take, and when one that goes on should end."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from master.jobs.history import pages
from master.jobs.history.pages import HistoryFilter
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, JobState

SAMPLE = 20  # completed jobs that say how long a script usually takes
_LEAST = 3  # of them, to say it
_ENDS = ("completed", "failed", "cancelled")


class Typical(NamedTuple):
    """How long runs of a script take that are completed."""

    secs: float  # half of them take less
    slow_secs: float  # nine of ten take less
    jobs: int  # so many were looked at


def last(
    view: LedgerView, path: str, limit: int, *, by: str | None = None, shown: Callable[[Job], Job] = lambda job: job
) -> list[Job]:
    """The newest jobs of a script that have ended and were run, newest first. `by`: those of one launcher only."""
    found = []
    for state in _ENDS:
        asked = HistoryFilter(state=state, script=path, by=by)
        found.append([job for job in pages.page(view, asked, 0, limit, shown=shown).jobs if job.started])
    return list(heapq.merge(*found, key=lambda job: -job.id))[:limit]


def typical(view: LedgerView, path: str) -> Typical | None:
    """How long a script usually takes; None when too few of its jobs are completed."""
    asked = HistoryFilter(state="completed", script=path)
    return typical_of(pages.page(view, asked, 0, SAMPLE, shown=lambda job: job).jobs)


def typical_of(jobs: Sequence[Job]) -> Typical | None:
    """The same from some jobs, of which the first that are completed count."""
    lengths = sorted(secs(job) for job in [job for job in jobs if job.state is JobState.COMPLETED][:SAMPLE])
    if len(lengths) < _LEAST:
        return None
    slow = lengths[min(len(lengths) - 1, round(0.9 * len(lengths)))]
    return Typical(round(statistics.median(lengths), 3), slow, len(lengths))


def secs(job: Job) -> float:
    """How long the last run of a job took, 0 when it has not ended."""
    return max(0, job.ended - job.started) / 1000 if job.ended and job.started else 0.0


def expected_end(view: LedgerView, job: Job) -> int | None:
    """When a running job should end by what its script usually takes, in ms; None when too little is known."""
    if job.state is not JobState.RUNNING or not job.started:
        return None
    usual = typical(view, job.path)
    return None if usual is None else job.started + int(usual.secs * 1000)
