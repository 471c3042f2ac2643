"""Unique tokens of launches: the same launch again is the same job, another launch with that token is refused.

A token counts for as long as its job or schedule is kept: until `retention_policy` days after its end.
"""

from __future__ import annotations

import json

from broker.messages.jobs import Order
from broker.refusals import Conflict
from master.jobs.ledger import LedgerView
from master.jobs.model import Job, Rhythm, Schedule

_OF_KEY = "\0"  # the first character of a token that a request's key stands for; no text that is typed has it


def of_key(key: str, place: int) -> str:
    """The token of the job at this place of a request with an Idempotency-Key, unlike any that a job has of its own."""
    return f"{_OF_KEY}{key} {place}"


def known(view: LedgerView, order: Order, rhythm: Rhythm | None = None, schedule: int = 0) -> int:
    """Id of the job or schedule that this very launch made before, 0 when there is none.

    `schedule`: the one that launches the order, 0 for none. Raises `Conflict` when the token belongs to another job or
    schedule.
    """
    token = order.options.unique
    number = view.by_token(token) if token else 0
    found: Job | Schedule | None = view.job(number) or view.schedule(number) if number else None
    if not found:
        return number
    difference = _difference(found, order, rhythm, schedule)
    if difference:
        raise Conflict(
            f"{_shown(token)} belongs to {'schedule' if isinstance(found, Schedule) else 'job'} {number},"
            f" which has {difference}; nothing was launched, give another token"
        )
    return number


def _shown(token: str) -> str:
    kind, text = "unique token", token
    if token.startswith(_OF_KEY):
        kind, text = "Idempotency-Key", token.removeprefix(_OF_KEY).rpartition(" ")[0]
    return f"the {kind} {text if len(text) <= 60 else text[:57] + '…'!r}"


def _difference(found: Job | Schedule, order: Order, rhythm: Rhythm | None, schedule: int) -> str:
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
    if isinstance(found, Job) and found.schedule != schedule:
        before, now = (f"schedule {number}" if number else "no schedule" for number in (found.schedule, schedule))
        return f"another origin: {before} instead of {now}"
    return ""


def _canonical(arguments: object) -> str:
    """The same text for the same JSON, whatever the order of its names: 1, 1.0 and true are not the same."""
    return json.dumps(arguments, sort_keys=True)
