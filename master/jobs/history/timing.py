"""The timing of a schedule in words, and its times."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice, takewhile

from cronsim import CronSim

from master.jobs.model import CRON, Rhythm, Schedule

_SINGULAR = {"minutes": "minute", "hours": "hour", "days": "day", "weeks": "week"}


def words(rhythm: Rhythm, created: int) -> str:
    """When a schedule that was made at `created` (ms) runs, like `every Monday at 09:00 UTC`."""
    if rhythm.interval == CRON:
        return f"{'' if rhythm.repeat else 'once, '}{_explained(rhythm.cron)}, {rhythm.zone or 'UTC'}"
    if not rhythm.repeat:
        moment = datetime.fromtimestamp((created + rhythm.period_ms) / 1000, UTC)
        return f"once, on {moment:%Y-%m-%d} at {moment:%H:%M} UTC"
    return f"every {_every(rhythm, datetime.fromtimestamp(created / 1000, UTC))}"


@lru_cache(1024)
def _explained(cron: str) -> str:
    """The fields of cron in words; kept, since making them takes long."""
    said = CronSim(cron, datetime(2000, 1, 1)).explain()
    return said[:1].lower() + said[1:]


def coming(schedule: Schedule, now: int, number: int) -> list[int]:
    """The next times (ms) of a schedule, of which `number` are given at most; none unless it is active."""
    if not schedule.active:
        return []
    if not schedule.repeat:
        return [schedule.next]
    # The next one may be late: the controller is about to see to it.
    later = schedule.rhythm.times(schedule.created, max(schedule.next, now))
    return [schedule.next, *islice(later, number - 1)]


def preview(rhythm: Rhythm, now: int, number: int) -> list[int]:
    """The first times (ms) of a schedule that is made now."""
    return list(islice(rhythm.times(now, now), number if rhythm.repeat else 1))


def between(schedule: Schedule, begin: int, end: int, most: int) -> list[int]:
    """The times (ms) of a schedule that will come from `begin` on and before `end`, `most` of them at most."""
    if not schedule.active or schedule.next >= end:
        return []
    if not schedule.repeat:
        return [schedule.next] if schedule.next >= begin else []
    times: Iterator[int] = schedule.rhythm.times(schedule.created, max(begin, schedule.next) - 1)
    return list(islice(takewhile(lambda time: time < end, times), most))


def _every(rhythm: Rhythm, made: datetime) -> str:
    number, unit = rhythm.time_unit, _SINGULAR[rhythm.interval]
    some = unit if number == 1 else f"{number} {rhythm.interval}"
    if rhythm.interval == "minutes":
        return some
    if rhythm.interval == "hours":
        return f"{some} at minute {made:%M}"
    at = f"at {made:%H:%M} UTC"
    if rhythm.interval == "days":
        return f"{some} {at}"
    return f"{made:%A} {at}" if number == 1 else f"{some} on {made:%A} {at}"
