"""The request to launch a job: reads and checks its body.

Everything here raises `BadRequest` with a message that says what was received and how to put it right.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from broker import integers
from broker.clock import DAY_MS
from broker.errors import MalformedMessage
from broker.messages import jobs
from broker.messages.jobs import Options, Order
from broker.refusals import BadRequest
from master.jobs.model import INTERVALS, Rhythm

SCHEDULED = "scheduled"
OPTIONS = "pulzar_options"
MAX_PERIOD_MS = 36_500 * DAY_MS
_EXAMPLE = '{"interval": "minutes", "time_unit": 5, "repeat": 1}'


class LaunchOutcome(NamedTuple):
    """The response to a launch."""

    status: int
    data: dict[str, object]
    message: str


def order_of(path: str, body: bytes) -> tuple[Order, Rhythm | None]:
    """The job that a request asks for, and its rhythm if it is a schedule."""
    try:
        job = jobs.check_path(path)
        given = _object(body)
        rhythm = _rhythm(given.pop(SCHEDULED)) if SCHEDULED in given else None
        options = _options(given.pop(OPTIONS)) if OPTIONS in given else Options()
        arguments, data = jobs.read_arguments(given)
        order = Order(job, arguments, options, data)
        jobs.check_sendable(order)
    except MalformedMessage as error:
        raise BadRequest(str(error)) from error
    if options.overlap and rhythm is None:
        raise BadRequest(f"{OPTIONS}: overlap is for scheduled jobs; give {SCHEDULED} too, or leave it out")
    return order, rhythm


def launch_outcome(number: int, safe: bool, warnings: list[str]) -> LaunchOutcome:
    """The response for the job with this id; `safe`: RabbitMQ has confirmed its message already."""
    data: dict[str, object] = {"job_id": number} | ({"warnings": warnings} if warnings else {})
    if safe:
        return LaunchOutcome(200, data, f"Job added with id {number}")
    message = f"Job {number} is in the ledger; RabbitMQ has not confirmed it yet, and gets it as soon as it can"
    return LaunchOutcome(202, data, message)


def _object(body: bytes) -> dict[str, object]:
    if len(body) > jobs.MAX_BYTES:
        raise BadRequest(
            f"the body has {len(body)} bytes, and {jobs.MAX_BYTES} is the limit; store what is large under a key and"
            f' give {{"{jobs.DATA}": "<key>"}}'
        )
    if body.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        raise BadRequest("the body begins with a byte order mark; send UTF-8 without one")
    if not body.strip():
        return {}
    try:
        given = json.loads(body.decode("utf-8"), parse_constant=jobs.no_constant)
    except RecursionError:
        raise BadRequest("the body has lists or objects too deep in each other") from None
    except ValueError as error:
        raise BadRequest(f"the body is no JSON in UTF-8: {error}; it begins with {body[:40]!r}") from error
    if not isinstance(given, dict):
        raise BadRequest(f'the body is {_short(given)}; give an object with the arguments, like {{"number": 5}}')
    return given


def _options(given: object) -> Options:
    try:
        return jobs.read_options(given)
    except MalformedMessage as error:
        raise BadRequest(f"{OPTIONS}: {error}") from error


def _rhythm(given: object) -> Rhythm:
    if not isinstance(given, dict):
        raise BadRequest(f"{SCHEDULED} = {_short(given)} is no object; give one like {_EXAMPLE}")
    missing = [name for name in Rhythm._fields if name not in given]
    if missing:
        raise BadRequest(f"{SCHEDULED} has no {missing[0]}; give all of {_EXAMPLE}")
    unknown = [name for name in given if name not in Rhythm._fields]
    if unknown:
        raise BadRequest(f"{SCHEDULED} has {_short(unknown[0])}, which is not known; give {_EXAMPLE}")
    interval, time_unit, repeat = (given[name] for name in Rhythm._fields)
    if interval not in INTERVALS:
        raise BadRequest(f"{SCHEDULED}: interval = {_short(interval)} is none of {', '.join(INTERVALS)}")
    most = MAX_PERIOD_MS // Rhythm(interval, 1, False).period_ms
    if type(time_unit) is int and time_unit > most:
        raise BadRequest(f"{SCHEDULED}: {_short(time_unit)} {interval} is more than 36500 days")
    try:
        integers.bounded(time_unit, 1, most)
    except ValueError:
        raise BadRequest(
            f"{SCHEDULED}: time_unit = {_short(time_unit)} is no integer from 1 on; give one like 5"
        ) from None
    if type(repeat) is not int or repeat not in (0, 1):
        raise BadRequest(f"{SCHEDULED}: repeat = {_short(repeat)} is neither 0 (run it once) nor 1 (again and again)")
    return Rhythm(interval, time_unit, bool(repeat))


def _short(value: object) -> str:
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
