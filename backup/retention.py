"""Which backups stay: a pure function of their times and the rule."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from broker import snapshot_files
from broker.backups.keep_rule import KeepRule


def order(name: str) -> tuple[str, int]:
    """The place of a snapshot's name among others: by time, then by the number behind it."""
    at, _, number = name.partition("-")
    return at, int(number or 1)


def stay(names: Iterable[str], rule: KeepRule) -> set[str]:
    """The names of the snapshots that stay. The newest one always does.

    In each of the last days, weeks, months and years (UTC) that have any snapshot, the newest one stays.
    """
    newest_first = sorted(names, key=order, reverse=True)
    kept = set(newest_first[: max(1, rule.last)])
    periods: tuple[tuple[int, Callable[[time.struct_time], tuple[int, ...]]], ...] = (
        (rule.daily, lambda at: (at.tm_year, at.tm_yday)),
        (rule.weekly, _week),
        (rule.monthly, lambda at: (at.tm_year, at.tm_mon)),
        (rule.yearly, lambda at: (at.tm_year,)),
    )
    for most, period_of in periods:
        seen: set[tuple[int, ...]] = set()
        for name in newest_first:
            period = period_of(time.gmtime(snapshot_files.time_of(name)))
            if len(seen) < most and period not in seen:
                seen.add(period)
                kept.add(name)
    return kept


def _week(at: time.struct_time) -> tuple[int, ...]:
    """The ISO week."""
    return tuple(int(part) for part in time.strftime("%G %V", at).split())
