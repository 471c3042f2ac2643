"""Objects of libraries as plain Python values. Their attributes tell what they are; no library is imported."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from typing import Any

from jobs.errors import BadOutput

NOT_A_VALUE = ("NaTType", "NAType")  # of pandas


class TooLarge(BadOutput):
    """Raised when a value takes more bytes than allowed."""


def text(value: Any) -> str | None:
    """A date, time or duration in ISO 8601. None for anything else."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in ("M", "m") and not getattr(value, "shape", (0,)) and hasattr(value, "item"):  # of numpy
        given = value.item()
        if kind == "M":
            return None if str(value) == "NaT" else str(value)
        if isinstance(given, int) and "[ns]" not in str(value.dtype):  # months and years have no length
            return str(value)
        value = timedelta(microseconds=given / 1000) if isinstance(given, int) else given
    if type(value).__name__ in NOT_A_VALUE:
        return None
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    return str(value) if type(value).__name__ == "Period" and hasattr(value, "freq") else None


def _duration(value: timedelta) -> str:
    if value < timedelta(0):
        return f"-{_duration(-value)}"
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    return f"P{value.days}DT{hours}H{minutes}M{seconds}{fraction}S"


def by_library(value: Any, room: int) -> tuple[Any] | None:
    """The object of a library as a plainer value, None for other objects. Raises whatever the library raises."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if hasattr(value, "index") and hasattr(value, "iloc") and hasattr(value, "to_dict"):  # of pandas
        _fits(value.size, room)
        for labels in (value.index, getattr(value, "columns", value.index)):
            if not labels.is_unique:
                raise BadOutput("has the same label twice; give reset_index().to_dict('records') of it")
        return (value.to_dict(),)
    for method in ("to_pylist", "to_dicts", "to_list", "tolist"):  # of Arrow, polars, numpy and all others
        if hasattr(value, method):
            shape = getattr(value, "shape", None)
            _fits(
                math.prod(shape) if isinstance(shape, tuple) else len(value) if hasattr(value, "__len__") else 1, room
            )
            if kind in ("M", "m"):  # as integers their unit would be lost; one alone is NaT
                return (list(value),) if shape else (None,)
            given = getattr(value, method)()
            return (float(given),) if type(given) is type(value) else (given,)  # the long double of numpy
    if hasattr(value, "as_py"):
        return (value.as_py(),)
    if hasattr(value, "model_dump"):
        return (value.model_dump(),)
    if hasattr(value, "__fields__") and hasattr(value, "dict"):  # pydantic 1
        return (value.dict(),)
    return None


def _fits(parts: int, room: int) -> None:
    if parts > room:
        raise TooLarge(f"has {parts} parts, and there is room for {room} bytes of JSON; store it under a key instead")


def names(value: Any) -> Sequence[str] | None:
    """The field names of a dataclass, attrs class or msgspec struct. None for other objects."""
    if isinstance(value, type):
        return None
    if is_dataclass(value):
        return [field.name for field in fields(value)]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    if attributes is not None:
        return [attribute.name for attribute in attributes]
    return getattr(type(value), "__struct_fields__", None)
