"""The requests to launch a job, or many: reads and checks what they say of a job.

Everything here raises `BadRequest` with a message that says what was received and how to put it right.
"""

from __future__ import annotations

import json
import zoneinfo
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import NamedTuple

from cronsim import CronSim, CronSimError

from broker import integers
from broker.clock import DAY_MS, now_ms
from broker.contract.bodies import read_json
from broker.errors import MalformedMessage
from broker.messages import jobs
from broker.messages.jobs import Options, Order
from broker.refusals import BadRequest
from master.jobs.model import CRON, INTERVALS, Rhythm

SCHEDULED = "scheduled"
OPTIONS = "pulzar_options"
MAX_PERIOD_MS = 36_500 * DAY_MS
_EXAMPLE = '{"interval": "minutes", "time_unit": 5, "repeat": 1}'
_CRON_EXAMPLE = '{"cron": "0 9 * * 1", "zone": "Europe/Vienna"}'
_FIELDS = ("interval", "time_unit", "repeat")
_CRON_FIELDS = ("cron", "zone", "repeat")
_CRON_NUMBER = 5  # fields: cronsim takes six, with seconds
MOST_CRON = 100  # characters


class JobLaunch(NamedTuple):
    """A job that a request asks for."""

    order: Order
    rhythm: Rhythm | None  # None: it is launched at once
    packed: bytes  # the order as a message


class LaunchOutcome(NamedTuple):
    """The response to a launch."""

    status: int
    data: dict[str, object]
    message: str


def launch_of(path: str, body: bytes) -> JobLaunch:
    """The job that a request with this body asks for."""
    return launch_with(path, _object(body))


def launch_with(path: object, given: Mapping[str, object], *, unique: str = "") -> JobLaunch:
    """The job with these arguments, among them the reserved names. `unique` is its token if it has no other."""
    try:
        job = jobs.check_path(path)
        rest = dict(given)
        rhythm = rhythm_of(rest.pop(SCHEDULED)) if SCHEDULED in rest else None
        options = _options(rest.pop(OPTIONS)) if OPTIONS in rest else Options()
        if unique and not options.unique:
            options = options._replace(unique=unique)
        arguments, data = jobs.read_arguments(rest)
        order = Order(job, arguments, options, data)
        packed = jobs.pack(order)
    except MalformedMessage as error:
        raise BadRequest(str(error)) from error
    if options.overlap and rhythm is None:
        raise BadRequest(f"{OPTIONS}: overlap is for scheduled jobs; give {SCHEDULED} too, or leave it out")
    return JobLaunch(order, rhythm, packed)


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
    given = read_json(body) if body.strip() else {}
    if not isinstance(given, dict):
        raise BadRequest(f'the body is {short(given)}; give an object with the arguments, like {{"number": 5}}')
    return given


def _options(given: object) -> Options:
    try:
        return jobs.read_options(given)
    except MalformedMessage as error:
        raise BadRequest(f"{OPTIONS}: {error}") from error


def rhythm_of(given: object) -> Rhythm:
    """The rhythm in `scheduled` of a launch: interval, time_unit and repeat, or the fields of cron."""
    if not isinstance(given, dict):
        raise BadRequest(f"{SCHEDULED} = {short(given)} is no object; give one like {_EXAMPLE}")
    if CRON in given:
        return _cron(given)
    missing = [name for name in _FIELDS if name not in given]
    if missing:
        raise BadRequest(f"{SCHEDULED} has no {missing[0]}; give all of {_EXAMPLE}, or {_CRON_EXAMPLE}")
    unknown = [name for name in given if name not in _FIELDS]
    if unknown:
        raise BadRequest(f"{SCHEDULED} has {short(unknown[0])}, which is not known; give {_EXAMPLE}")
    interval, time_unit, repeat = (given[name] for name in _FIELDS)
    if interval not in INTERVALS:
        raise BadRequest(f"{SCHEDULED}: interval = {short(interval)} is none of {', '.join(INTERVALS)}")
    most = MAX_PERIOD_MS // Rhythm(interval, 1, False).period_ms
    if type(time_unit) is int and time_unit > most:
        raise BadRequest(f"{SCHEDULED}: {short(time_unit)} {interval} is more than 36500 days")
    try:
        integers.bounded(time_unit, 1, most)
    except ValueError:
        raise BadRequest(
            f"{SCHEDULED}: time_unit = {short(time_unit)} is no integer from 1 on; give one like 5"
        ) from None
    return Rhythm(interval, time_unit, _repeat(repeat))


def _cron(given: dict[str, object]) -> Rhythm:
    unknown = [name for name in given if name not in _CRON_FIELDS]
    if unknown:
        raise BadRequest(f"{SCHEDULED} has {short(unknown[0])} beside cron; give {_CRON_EXAMPLE}")
    cron, zone = given[CRON], given.get("zone", "")
    if not isinstance(cron, str) or len(cron) > MOST_CRON:
        raise BadRequest(f"{SCHEDULED}: cron = {short(cron)} is no text of up to {MOST_CRON} characters")
    known = _zones().get(zone.lower()) if isinstance(zone, str) else None
    if known is None:
        raise BadRequest(
            f"{SCHEDULED}: zone = {short(zone)} is no time zone that the master knows; give one like "
            '"Europe/Vienna", or leave it out for UTC'
        )
    fields = " ".join(cron.split())
    rhythm = Rhythm(CRON, 0, _repeat(given.get("repeat", 1)), fields, known)
    try:
        if len(fields.split(" ")) != _CRON_NUMBER:
            raise CronSimError("Wrong number of fields")
        rhythm.first(now_ms())
    except CronSimError as error:
        if not _reads(fields):
            raise BadRequest(
                f'{SCHEDULED}: cron = {short(cron)} is not the five fields of cron, like "0 9 * * 1" ({error})'
            ) from None
        raise BadRequest(_never(cron)) from None
    except StopIteration:
        raise BadRequest(_never(cron)) from None
    return rhythm


def _reads(fields: str) -> bool:
    """Whether each field of cron alone can be read: then the day that they make together is in no year."""
    parts = fields.split(" ")
    if len(parts) != _CRON_NUMBER:
        return False
    try:
        for number, part in enumerate(parts):
            alone = ["*"] * _CRON_NUMBER
            alone[number] = part
            CronSim(" ".join(alone), datetime.now(UTC))
    except CronSimError:
        return False  # the caller says what it is
    return True


def _never(cron: str) -> str:
    return f"{SCHEDULED}: cron = {short(cron)} never comes; no year has such a day"


def _repeat(given: object) -> bool:
    if type(given) is not int or given not in (0, 1):
        raise BadRequest(f"{SCHEDULED}: repeat = {short(given)} is neither 0 (run it once) nor 1 (again and again)")
    return bool(given)


@cache
def _zones() -> dict[str, str]:
    """Names of time zones by their small letters; "" for UTC. A name that is among them is no path to another file."""
    names = {name.lower(): name for name in zoneinfo.available_timezones()}
    return names | {"": "", "utc": ""}


def short(value: object) -> str:
    """A value as it is shown in a message."""
    text = json.dumps(value) if not isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
