"""`GET /schedule_preview`: what a timing means, in words and with its first times, before anything is scheduled."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, Response, request

from broker import integers
from broker.clock import now_ms
from broker.contract.kinds import Integer
from broker.contract.parameters import Parameter
from master.jobs.history import timing
from master.jobs.model import Rhythm
from master.web.flask_routes.context import ok
from master.web.jobs.launch_request import rhythm_of

blueprint = Blueprint("schedule_preview", __name__)

TIMES = 5
MAX_TIMES = 100
_INTEGERS = ("time_unit", "repeat")
COUNT = Parameter("count", Integer(MAX_TIMES), "Times at most.", TIMES)


@blueprint.get("/schedule_preview")
def preview() -> Response:
    """The timing in the parameters, as a launch would read it."""
    given = {name: value for name, value in request.args.items() if name != "count"}
    number = COUNT.read(request.args)
    rhythm, now = rhythm_in(given), now_ms()
    times = timing.preview(rhythm, now, number)
    return ok({"timing": timing.words(rhythm, now), "next": [time / 1000 for time in times]})


def rhythm_in(given: Mapping[str, str]) -> Rhythm:
    """The rhythm in the texts of a form or query; raises `BadRequest` as a launch does."""
    typed: dict[str, object] = {name: value for name, value in given.items() if value or name not in ("cron", "zone")}
    for name in _INTEGERS:
        text = given.get(name, "")
        try:
            typed |= {name: integers.parse(text)} if name in given else {}
        except ValueError:
            typed[name] = text  # a launch says what is wrong with it
    return rhythm_of(typed)
