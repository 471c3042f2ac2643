"""Pages of the history: jobs by state, script, node, source, schedule and text, newest first.

Each filter is a list of ids in the ledger. An id that is in all of them is found by going down in turns: each list goes
to its newest id up to the one where the last list is. So a page costs what its rare filter has, not what all jobs are.
A text has no list; the rows of the other filters are read for it. A page that takes too long ends early, with a cursor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

from broker import integers
from master.jobs.ledger import IdCursor, LedgerView
from master.jobs.model import Job, JobState
from master.jobs.rows import Ids, List

STATES = ("pending", "running", "completed", "failed", "cancelled")
SOURCES = ("rest", "queue", "schedule")
MOST_SECS = 0.03  # that a page is looked for
_CHECKED = 32  # ids between two looks at the clock
_LISTS = {
    "pending": List.PENDINGS,
    "running": List.RUNNING,
    "completed": List.READY,
    "failed": List.BROKEN,
    "cancelled": List.CANCELLED,
}


class HistoryFilter(NamedTuple):
    """Which jobs are asked for; "", 0 and None stand for all."""

    state: str = ""  # one of `STATES`
    script: str = ""
    node: str = ""  # of the last run
    source: str = ""  # one of `SOURCES`
    schedule: int = 0
    text: str = ""  # in script, arguments, reason or name of the token; ASCII letters count in either case
    by: str | None = None  # name of the token that has launched them


class HistoryPage(NamedTuple):
    """Some jobs, newest first."""

    jobs: list[Job]
    cursor: int  # the next page begins before this id; 0: there is none
    early: bool  # it has fewer jobs than asked for, because looking for them took too long


class HistoryCounts(NamedTuple):
    """Numbers of jobs."""

    by_state: dict[str, int]
    exact: bool  # else there are at least so many; counting them would take too long


def page(
    view: LedgerView,
    asked: HistoryFilter,
    before: int,
    limit: int,
    *,
    shown: Callable[[Job], Job],
    secs: float = MOST_SECS,
) -> HistoryPage:
    """The newest jobs of a filter, before an id (0: from the newest on).

    `shown` gives a job as the reader may see it; a text is looked for in that alone. `secs`: how long it may take.
    """
    deadline = time.monotonic() + secs
    needle = asked.text.encode(errors="surrogatepass").lower()
    state = JobState[asked.state.upper()] if asked.state else None
    found: list[Job] = []
    with ExitStack() as stack:
        for number, match in _common(_cursors(view, asked, stack), before - 1 if before else integers.MAX):
            if match and (job := _job(view, number, state, needle, shown)):
                if len(found) == limit:
                    return HistoryPage(found, found[-1].id, early=False)
                found.append(job)
            elif time.monotonic() > deadline:
                return HistoryPage(found, number, early=True)
    return HistoryPage(found, 0, early=False)


def counts(view: LedgerView, asked: HistoryFilter, secs: float = MOST_SECS) -> HistoryCounts:
    """How many jobs of a filter there are in each state; its own state and text do not count."""
    asked = asked._replace(state="", text="")
    if asked == HistoryFilter():
        numbers, exact = {state: view.count(which) for state, which in _LISTS.items()}, True
    else:
        deadline = time.monotonic() + secs
        numbers, exact = {}, True
        for state in STATES:
            numbers[state], whole = _count(view, asked._replace(state=state), deadline)
            exact = exact and whole
    # Running jobs are in the list of pending ones, too.
    numbers["pending"] = max(0, numbers["pending"] - numbers["running"])
    return HistoryCounts(numbers, exact)


def lists_of(asked: HistoryFilter) -> list[Ids]:
    """The lists of ids that a job of this filter is in, all of them."""
    lists = []
    if asked.state:
        lists.append(Ids.of_list(_LISTS[asked.state]))
    if asked.script:
        lists.append(Ids.of_script(asked.script))
    if asked.node:
        lists.append(Ids.of_node(asked.node))
    if asked.schedule:
        lists.append(Ids.of_schedule(asked.schedule))
    if asked.source:
        lists.append(Ids.of_source(asked.source))
    if asked.by is not None:
        lists.append(Ids.of_owner(asked.by))
    return lists or [Ids.of_all()]


def _cursors(view: LedgerView, asked: HistoryFilter, stack: ExitStack) -> list[IdCursor]:
    cursors = [view.ids(ids) for ids in lists_of(asked)]
    for cursor in cursors:
        stack.callback(cursor.close)
    return cursors


def _count(view: LedgerView, asked: HistoryFilter, deadline: float) -> tuple[int, bool]:
    """How many jobs are in all lists of a filter, and whether all were counted in time."""
    number = 0
    with ExitStack() as stack:
        for steps, (_, match) in enumerate(_common(_cursors(view, asked, stack), integers.MAX)):
            number += match
            if steps % _CHECKED == 0 and time.monotonic() > deadline:
                return number, False
    return number, True


def _common(cursors: list[IdCursor], newest: int) -> Iterator[tuple[int, bool]]:
    """Ids that are in all lists, newest first. With false: an id that was reached without a match, now and then."""
    number, agreed, steps = newest, 0, 0
    while True:
        for cursor in cursors:
            reached = cursor.at_most(number)
            if not reached:
                return
            agreed = agreed + 1 if reached == number else 1
            number = reached
            steps += 1
            if agreed >= len(cursors):
                yield number, True
                number -= 1
                agreed = 0
                break
            if steps % _CHECKED == 0:
                yield number + 1, False


def _job(
    view: LedgerView, number: int, state: JobState | None, needle: bytes, shown: Callable[[Job], Job]
) -> Job | None:
    """The job with this id as it is shown, if it is in this state and has the text."""
    if needle:
        raw = view.job_bytes(number)
        if raw is None or needle not in raw.lower():
            return None
    job = view.job(number)
    if job is None or (state is not None and job.state is not state):
        return None
    job = shown(job)
    texts = (job.path, job.arguments, job.reason, job.by)
    if needle and not any(needle in text.encode(errors="surrogatepass").lower() for text in texts):
        return None
    return job
