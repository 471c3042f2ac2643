"""Unique tokens of launches: the same launch again is the same job, and another launch with that token is a mistake.

A token counts for as long as its job or schedule is kept: until `retention_policy` days after its end.
"""

from __future__ import annotations

import json
from typing import Any

from broker.messages.jobs import Order
from broker.refusals import Conflict
from master.jobs.ledger import Ledger
from master.jobs.model import Job, Schedule

Rhythm = tuple[str, int, bool]  # see `master.jobs.schedules.Rhythm`


def known(ledger: Ledger, txn: Any, order: Order, rhythm: Rhythm | None = None) -> int:
    """Id of the job or schedule that this very launch made before, 0 when there is none.

    Raises `Conflict` when its token belongs to a job or schedule that is another one.
    """
    token = order.options.unique
    number = ledger.by_token(txn, token) if token else 0
    if not number:
        return 0
    found: Job | Schedule | None = ledger.job(txn, number) or ledger.schedule(txn, number)
    difference = _difference(found, order, rhythm) if found else ""
    if difference:
        shown = token if len(token) <= 60 else token[:57] + "…"
        raise Conflict(
            f"the unique token {shown!r} belongs to {'schedule' if isinstance(found, Schedule) else 'job'} {number},"
            f" which has {difference}; nothing was launched, give another token"
        )
    return number


def _difference(found: Job | Schedule, order: Order, rhythm: Rhythm | None) -> str:
    """What of an earlier launch is different, "" when nothing is."""
    if found.path != order.job:
        return f"another script, {found.path} instead of {order.job}"
    if found.data != order.data:
        return f"another pulzar_data, {found.data or 'none'!r} instead of {order.data or 'none'!r}"
    if _canonical(json.loads(found.arguments)) != _canonical(order.arguments):
        return "other arguments"
    if found.options != order.options:
        name = next(
            name for name in found.options._fields if getattr(found.options, name) != getattr(order.options, name)
        )
        return f"other options: {name} = {getattr(found.options, name)!r} instead of {getattr(order.options, name)!r}"
    kept = (found.interval, found.time_unit, found.repeat) if isinstance(found, Schedule) else None
    if kept != rhythm:  # one is a schedule and the other is not, or both are
        return f"another time: {_words(kept)} instead of {_words(rhythm)}"
    return ""


def _canonical(arguments: dict[str, Any]) -> str:
    """The same for the same JSON, whatever the order of its names: 1, 1.0 and true are not the same."""
    return json.dumps(arguments, sort_keys=True)


def _words(rhythm: Rhythm | None) -> str:
    if rhythm is None:
        return "at once"
    interval, time_unit, repeat = rhythm
    return f"{'every' if repeat else 'once in'} {time_unit} {interval}"
