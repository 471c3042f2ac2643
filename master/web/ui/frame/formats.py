"""Numbers, sizes and times for people. Pure functions; templates use those in `FILTERS` as filters."""

from __future__ import annotations

import datetime
import re
import unicodedata
from urllib.parse import quote, urlencode

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def size(number: float) -> str:
    """1234567 → 1.2 MB."""
    value = float(number)
    for unit in _UNITS:
        if abs(value) < 999.5 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.5 else f"{value:.1f} {unit}"


def count(number: float) -> str:
    """1234567 → 1,234,567."""
    return f"{number:,.0f}"


def duration(secs: float) -> str:
    """200 → 3 min 20 s: two units at most."""
    if secs < 0:
        return "0 s"
    if secs < 1:
        return f"{secs * 1000:.0f} ms"
    if secs < 60:
        return f"{secs:.1f} s" if secs < 9.95 else f"{secs:.0f} s"
    whole = round(secs)
    for large, name, small, lesser in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {name}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole} s"


def moment(secs: float) -> str:
    """Seconds since the epoch → 2026-11-29 05:50:12 UTC."""
    return f"{_utc(secs):%Y-%m-%d %H:%M:%S} UTC"


def iso(secs: float) -> str:
    """Seconds since the epoch → 2026-11-29T05:50:12Z, for `datetime` of `<time>`."""
    return f"{_utc(secs):%Y-%m-%dT%H:%M:%SZ}"


def _utc(secs: float) -> datetime.datetime:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return epoch + datetime.timedelta(seconds=min(max(secs, 0.0), 250_000_000_000))


def path(text: str) -> str:
    """A text as one part of a path."""
    return quote(text, safe="")


def plain_name(filename: str) -> str:
    """The name of a file as the end of a key, which is printable ASCII: "ü file.txt" → "u file.txt".

    Marks are taken off letters, and what is left becomes "_". `keys.js` and `launch.js` do the same.
    """
    name = filename.replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^ -~]", "_", re.sub(r"[\u0300-\u036f]", "", unicodedata.normalize("NFKD", name)))


def query(**values: object) -> str:
    """`?name=value&…` of the values that are neither None nor ""; "" without any."""
    given = {name: value for name, value in values.items() if value not in (None, "", False)}
    return f"?{urlencode(given)}" if given else ""


FILTERS = {
    "size": size,
    "count": count,
    "duration": duration,
    "moment": moment,
    "iso": iso,
    "path": path,
}
