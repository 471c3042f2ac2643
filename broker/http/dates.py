"""HTTP dates: written in one form, read in three (RFC 9110, section 5.6.7)."""

from __future__ import annotations

import calendar
import re
import time
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LONG_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_DAY, _LONG_DAY, _MONTH = "|".join(_DAYS), "|".join(_LONG_DAYS), "|".join(_MONTHS)
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_FORMS = tuple(
    re.compile(form, re.ASCII)
    for form in (
        rf"(?:{_DAY}), (?P<day>\d\d) (?P<month>{_MONTH}) (?P<year>\d{{4}}) {_CLOCK} GMT",
        rf"(?:{_LONG_DAY}), (?P<day>\d\d)-(?P<month>{_MONTH})-(?P<year>\d\d) {_CLOCK} GMT",
        rf"(?:{_DAY}) (?P<month>{_MONTH}) (?P<day>\d\d| \d) {_CLOCK} (?P<year>\d{{4}})",
    )
)

_LONGEST = len("Wednesday, 06-Nov-94 08:49:37 GMT")


@lru_cache(maxsize=4096)
def write(seconds: int) -> str:
    """Seconds since the epoch as an HTTP date, `Sun, 06 Nov 1994 08:49:37 GMT`."""
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(seconds)
    return f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year:04} {hour:02}:{minute:02}:{second:02} GMT"


def read(text: str) -> int | None:
    """The seconds since the epoch of an HTTP date; None when the text is no HTTP date."""
    return _read(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=256)
def _read(text: str) -> int | None:
    match = next(filter(None, (form.fullmatch(text) for form in _FORMS)), None)
    if match is None:
        return None
    month = _MONTHS.index(match["month"]) + 1
    day, hour, minute, second = (int(match[name]) for name in ("day", "hour", "minute", "second"))
    year = int(match["year"])
    if len(match["year"]) == 2:
        year = _century(year)
    # A leap second, :60, is valid and counts as the second after it.
    if hour > 23 or minute > 59 or second > 60 or year < 1 or not 1 <= day <= calendar.monthrange(year, month)[1]:
        return None
    return calendar.timegm((year, month, day, hour, minute, second, 0, 0, 0))


def _century(year: int) -> int:
    """A year of two digits is at most 50 years in the future."""
    this_year = time.gmtime().tm_year
    year += this_year - this_year % 100
    return year - 100 if year > this_year + 50 else year
