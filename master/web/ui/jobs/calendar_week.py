"""A week of schedules, day by day, in UTC: what has run, what was left out, what will run. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from broker.clock import DAY_MS
from master.jobs.history import timing
from master.jobs.model import Job, JobState, Schedule

DAYS = 7
SINGLE = 4  # times of a schedule and a day that are shown each
_KINDS = {JobState.COMPLETED: "ok", JobState.FAILED: "bad", JobState.RUNNING: "busy"}


class Entry(NamedTuple):
    """A line of a day."""

    at: int  # ms, to sort by
    text: str  # a time, or how many there are
    path: str
    schedule: int
    job: int  # 0: it is none, or several
    kind: str  # the colour: ok, bad, warn, busy or plain
    said: str  # the same in words


class Day(NamedTuple):
    """A day of the week."""

    date: date
    today: bool
    entries: list[Entry]


def first_day(text: str, now: int) -> date:
    """The day in ISO form, or the one before now (ms); raises `ValueError` for a text that is none."""
    day = date.fromisoformat(text) if text else datetime.fromtimestamp(now / 1000, UTC).date() - timedelta(days=1)
    if not 1971 <= day.year <= 9000:
        raise ValueError("the year is not from 1971 to 9000")
    return day


def begin_of(day: date) -> int:
    """The first moment of a day, in ms."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def week(first: date, schedules: Sequence[Schedule], executions: Iterable[Job], now: int) -> list[Day]:
    """The days from `first` on. `executions` are those of these schedules that were launched in that time."""
    jobs: dict[tuple[int, int], list[Job]] = {}
    for job in executions:
        jobs.setdefault((job.schedule, job.created // DAY_MS), []).append(job)
    days = []
    for number in range(DAYS):
        day = first + timedelta(days=number)
        begin = begin_of(day)
        end = begin + DAY_MS
        entries = [
            entry for one in schedules for entry in _day(one, jobs.get((one.id, begin // DAY_MS), []), begin, now)
        ]
        days.append(Day(day, begin <= now < end, sorted(entries)))
    return days


def _day(schedule: Schedule, done: Sequence[Job], begin: int, now: int) -> list[Entry]:
    entries, end = [], begin + DAY_MS
    if len(done) <= SINGLE:
        for job in done:
            kind, state = _KINDS.get(job.state, "plain"), job.state.name.lower()
            entries.append(_entry(schedule, job.created, _clock(job.created), kind, state, job=job))
    else:
        failed = sum(job.state is JobState.FAILED for job in done)
        said = f"{len(done)} executions, {failed} failed" if failed else f"{len(done)} executions"
        entries.append(_entry(schedule, done[-1].created, f"{len(done)} ×", "bad" if failed else "ok", said))
    for gap in schedule.gaps:
        if begin <= gap.due < end:
            text = _clock(gap.due) if gap.number == 1 else f"{gap.number} ×"
            said = "missed: the master did not run" if gap.cause == "missed" else "left out: the last one still ran"
            entries.append(_entry(schedule, gap.due, text, "warn", said))
    coming = timing.between(schedule, max(begin, min(now, schedule.next)), end, SINGLE + 1)
    if len(coming) <= SINGLE:
        entries += [_entry(schedule, at, _clock(at), "plain", "to come") for at in coming]
    else:
        many = 0 if schedule.cron else schedule.rhythm.number(schedule.created, coming[0] - 1, end - 1)
        number = str(many or f"over {SINGLE}")  # to count those of cron takes long
        entries.append(_entry(schedule, coming[0], f"{number} ×", "plain", f"{number} to come"))
    return entries


def _entry(schedule: Schedule, at: int, text: str, kind: str, said: str, *, job: Job | None = None) -> Entry:
    return Entry(at, text, schedule.path, schedule.id, job.id if job else 0, kind, said)


def _clock(at: int) -> str:
    return f"{datetime.fromtimestamp(at / 1000, UTC):%H:%M}"
