"""Reads the query of a request. A bad parameter is refused with what was received."""

from __future__ import annotations

import re
from collections.abc import Mapping

from broker import integers
from extensions._errors import Refused

Params = Mapping[str, list[str]]

_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_SHOWN = 100  # characters


def text(params: Params, name: str) -> str | None:
    """The value of a parameter; None when it was not given. Raises `Refused` when it was given twice."""
    values = params.get(name, [])
    if len(values) > 1:
        raise Refused(400, f"{name} was given {len(values)} times; give it once")
    return values[0] if values else None


def whole(params: Params, name: str, least: int) -> int | None:
    """A whole number of at least `least`; None when it was not given. Raises `Refused`."""
    given = text(params, name)
    if given is None:
        return None
    try:
        return integers.parse(given, least)
    except ValueError:
        needed = f"a whole number from {least} on is needed"
        raise Refused(400, f"{name}={shown(given)} was received, and {needed}") from None


def number(params: Params, name: str, default: float, least: float, most: float) -> float:
    """A number from `least` to `most`. Raises `Refused`."""
    given = text(params, name)
    if given is None:
        return default
    if not _DECIMAL.fullmatch(given) or not least <= float(given) <= most:
        raise Refused(400, f"{name}={shown(given)} was received, and a number from {least:g} to {most:g} is needed")
    return float(given)


def switch(params: Params, name: str) -> bool:
    """True for 1; false for 0 and when it was not given. Raises `Refused`."""
    given = text(params, name)
    if given not in (None, "0", "1"):
        raise Refused(400, f"{name}={shown(given or '')} was received, and 0 or 1 is needed")
    return given == "1"


def shown(given: str) -> str:
    """What was received, quoted and shortened for a message."""
    return repr(given if len(given) <= _SHOWN else given[: _SHOWN - 3] + "...")
