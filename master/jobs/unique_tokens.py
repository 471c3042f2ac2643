"""Unique tokens of launches: the same launch again is the same job, another launch with that token is refused.

A token counts for as long as its job or schedule is kept: until `retention_policy` days after its end.
"""

from __future__ import annotations

import json

from broker.messages.jobs import Order
from broker.refusals import Conflict
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, Rhythm, Schedule


def known(view: LedgerView, order: Order, rhythm: Rhythm | None = None) -> int:
    """Id of the job or schedule that this very launch made before, 0 when there is none.

    Raises `Conflict` when its token belongs to another job or schedule.
    """
    token = order.options.unique
    number = view.by_token(token) if token else 0
    found: Job | Schedule | None = view.job(number) or view.schedule(number) if number else None
    if not found:
        return number
    difference = _difference(found, order, rhythm)
    if difference:
        shown = token if len(token) <= 60 else token[:57] + "…"
        raise Conflict(
            f"the unique token {shown!r} belongs to {'schedule' if isinstance(found, Schedule) else 'job'} {number},"
            f" which has {difference}; nothing was launched, give another token"
        )
    return number


def _difference(found: Job | Schedule, order: Order, rhythm: Rhythm | None) -> str:
    """What is different in an earlier launch, "" when nothing is."""
    if found.path != order.job:
        return f"another script, {found.path} instead of {order.job}"
    if found.data != order.data:
        return f"another pulzar_data, {found.data or 'none'!r} instead of {order.data or 'none'!r}"
    if _canonical(json.loads(found.arguments)) != _canonical(order.arguments):
        return "other arguments"
    for name, before, now in zip(order.options._fields, found.options, order.options, strict=True):
        if before != now:
            return f"other options: {name} = {before!r} instead of {now!r}"
    earlier = found.rhythm if isinstance(found, Schedule) else None
    if earlier != rhythm:  # one is a schedule and the other is not, or both are
        return f"another time: {earlier or 'at once'} instead of {rhythm or 'at once'}"
    return ""


def _canonical(arguments: object) -> str:
    """The same text for the same JSON, whatever the order of its names: 1, 1.0 and true are not the same."""
    return json.dumps(arguments, sort_keys=True)
