"""Reads the form that launches a job: from the texts of its inputs to a request of the API. Pure functions.

| inputs            | what                                                         |
| ----------------- | ------------------------------------------------------------ |
| `a.<name>`        | an argument                                                  |
| `more`            | further arguments, a JSON object                             |
| `pulzar_data`     | the key that the job works on                                |
| `o.<option>`      | an option of `pulzar_options`                                |
| `s.interval` …    | the schedule                                                 |
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from broker.messages import jobs
from jobs.docstrings import RESERVED
from master.jobs.model import INTERVALS
from master.web.jobs.launch_request import OPTIONS, SCHEDULED
from master.web.ui.jobs.fields import Field, text_of

HIDDEN = "…"  # stands for a password in what is shown
_WHOLE, _SECS = ("attempts", "memory_mb", "overlap"), ("timeout", "retry_delay")
_TEXTS = ("priority", "node", "unique")
_ONCE, _REPEAT, _CRON = "once", "repeat", "cron"
TIMINGS = ("", _ONCE, _REPEAT, _CRON)
MOST_CHARACTERS = 400_000  # of one input


class Filled(NamedTuple):
    """What a form says."""

    arguments: dict[str, object]
    body: dict[str, object]  # of the launch
    problems: dict[str, str]  # by the name of the input, without the prefix `a.`
    hidden: frozenset[str]  # names of the arguments that are not shown

    def shown(self) -> dict[str, object]:
        """The body without passwords."""
        return {name: HIDDEN if name in self.hidden else value for name, value in self.body.items()}


def read(fields: Sequence[Field], given: Mapping[str, str], kept: Mapping[str, object] | None = None) -> Filled:
    """What a form with these inputs says.

    `kept`: arguments of the job that the form was filled in from. A password that is left empty is that one's.
    """
    kept = kept or {}
    arguments: dict[str, object] = {}
    problems: dict[str, str] = {}
    for field in fields:
        text = given.get(f"a.{field.name}", "").replace("\r\n", "\n")
        try:
            if text.strip():
                arguments[field.name] = _READERS.get(field.kind, _text)(text[:MOST_CHARACTERS], field)
            elif field.kind == "password" and field.name in kept:
                arguments[field.name] = kept[field.name]
        except (ValueError, RecursionError) as error:
            problems[field.name] = str(error)
    try:
        arguments |= _more(given.get("more", ""), arguments)
    except (ValueError, RecursionError) as error:
        problems["more"] = str(error)
    body = dict(arguments)
    if data := given.get(jobs.DATA, "").strip():
        body[jobs.DATA] = data
    for name, read_part in ((OPTIONS, _options), (SCHEDULED, schedule_of)):
        try:
            if part := read_part(given):
                body[name] = part
        except ValueError as error:
            problems[name] = str(error)
    hidden = frozenset(field.name for field in fields if field.kind == "password")
    return Filled(arguments, body, problems, hidden & arguments.keys())


def restored(filled: Filled, shown: Mapping[str, object], kept: Mapping[str, object]) -> Filled:
    """What a form says, with the true value of each argument that is still as it was shown: parts were masked."""
    true = {
        name: kept[name]
        for name, value in filled.arguments.items()
        if name in kept and name in shown and value == shown[name] != kept[name]
    }
    return filled._replace(arguments=filled.arguments | true, body=filled.body | true)


def _text(text: str, _field: Field) -> object:
    return text


def _integer(text: str, _field: Field) -> object:
    try:
        if len(text) < 25:
            return int(text.strip().replace("_", "x"))
    except ValueError:
        pass  # the sentence below says it
    raise ValueError(f"{text[:40]!r} is no whole number; give one like 5")


def _number(text: str, _field: Field) -> object:
    try:
        value = float(text.strip().replace("_", "x"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]!r} is no number; give one like 2.5")
    return int(value) if value.is_integer() and abs(value) < 1 << 53 and "." not in text else value


def _flag(text: str, _field: Field) -> object:
    if text not in ("true", "false"):
        raise ValueError(f"{text[:40]!r} is neither true nor false")
    return text == "true"


def _choice(text: str, field: Field) -> object:
    value = _json(text, field)
    if not any(type(value) is type(choice) and value == choice for choice in field.choices):
        raise ValueError(f"{text[:40]} is none of the choices")
    return value


def _list(text: str, field: Field) -> object:
    if text.lstrip().startswith("["):
        value = _json(text, field)
        if not isinstance(value, list):
            raise ValueError("this is no JSON list; give an item a line")
        return value
    return [line.strip() for line in text.split("\n") if line.strip()]


def _json(text: str, _field: Field) -> object:
    try:
        value: object = json.loads(text, parse_constant=jobs.no_constant)
    except ValueError as error:
        raise ValueError(f"this is no JSON: {error}") from None
    return value


_READERS: Mapping[str, Callable[[str, Field], object]] = {
    "integer": _integer,
    "number": _number,
    "flag": _flag,
    "choice": _choice,
    "list": _list,
    "json": _json,
}


def _more(text: str, taken: Mapping[str, object]) -> dict[str, object]:
    if not text.strip():
        return {}
    try:
        value = json.loads(text[:MOST_CHARACTERS], parse_constant=jobs.no_constant)
    except ValueError as error:
        raise ValueError(f"this is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError('this is no JSON object; give one like {"number": 5}')
    for name in value:
        if name in RESERVED:
            raise ValueError(f"{name} has inputs of its own below")
        if name in taken:
            raise ValueError(f"{name[:40]} is filled in above already")
    return value


def _options(given: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in (*_WHOLE, *_SECS, *_TEXTS):
        text = given.get(f"o.{name}", "").strip()
        if not text or (name, text) in (("priority", "normal"), ("overlap", "0")):
            continue
        try:
            reader = _text if name in _TEXTS else _integer if name in _WHOLE else _number
            found[name] = reader(text, Field(name, ""))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if words := [word for word in given.get("o.argv", "").replace("\r\n", "\n").split("\n") if word]:
        found["argv"] = words
    return found


def schedule_of(given: Mapping[str, str]) -> dict[str, object]:
    """The `scheduled` of a launch that a form's inputs stand for, {} for none; raises `ValueError`."""
    timing = given.get("s.timing", "")
    if not timing:
        return {}
    if timing not in TIMINGS:
        raise ValueError(f"{timing[:40]!r} is none of {', '.join(TIMINGS[1:])}")
    if timing == _CRON:
        zone = given.get("s.zone", "").strip()
        return {"cron": given.get("s.cron", "").strip(), **({"zone": zone} if zone else {})}
    interval = given.get("s.interval", "")
    if interval not in INTERVALS:
        raise ValueError(f"{interval[:40]!r} is none of {', '.join(INTERVALS)}")
    number = given.get("s.time_unit", "").strip()
    try:
        unit = _integer(number, Field("time_unit", "")) if number else 0
    except ValueError:
        unit = 0
    if not isinstance(unit, int) or unit < 1:
        raise ValueError("say after how many minutes, hours, days or weeks: a whole number from 1 on")
    return {"interval": interval, "time_unit": unit, "repeat": int(timing == _REPEAT)}


def inputs_of(
    fields: Sequence[Field],
    arguments: Mapping[str, object],
    *,
    data: str = "",
    options: Mapping[str, object] | None = None,
) -> dict[str, str]:
    """The texts of a form's inputs that stand for a job's arguments and options; `unique` and passwords stay empty."""
    from_fields = {field.name: field for field in fields}
    texts = {
        f"a.{name}": text_of(field.kind, arguments[name])
        for name, field in from_fields.items()
        if name in arguments and field.kind != "password"
    }
    rest = {name: value for name, value in arguments.items() if name not in from_fields}
    if rest:
        texts["more"] = json.dumps(rest, ensure_ascii=False, indent=1)
    texts[jobs.DATA] = data
    for name, value in (options or {}).items():
        if name == "argv" and isinstance(value, list | tuple):
            texts["o.argv"] = "\n".join(map(str, value))
        elif name != "unique" and value not in (0, ""):
            texts[f"o.{name}"] = f"{value:g}" if isinstance(value, float) else str(value)
    return texts
