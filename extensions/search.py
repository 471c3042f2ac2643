"""`/extension/search/{text}?eq=&lt=&gt=&limit=&prefix=`: the keys that contain a text, by the day they were created.

Looks at all keys in order, or at those with a prefix, which are one range of the index. Sends each key as it is found.
"""

from __future__ import annotations

import datetime
import itertools
import re
from collections.abc import Iterator

from extensions import Entry, Extension, Refused
from extensions._parameters import Params, shown, text, whole

_DATE = re.compile(r"([0-9]{2})-([0-9]{2})-([0-9]{4})")
_DAY_SECS = 86400
_EPOCH = datetime.date(1970, 1, 1).toordinal()


class Search(Extension):
    """The path is the text, slashes included; case counts. Without a text every key fits."""

    def execute(self) -> Iterator[dict[str, str]]:
        """`{"key", "url"}` of each key found, in key order; raises `Refused` for a parameter that is wrong."""
        limit = whole(self.params, "limit", 1)
        first, behind = _days(self.params)
        found = self._found("/".join(self.arguments), text(self.params, "prefix") or "", first, behind)
        return ({"key": entry.key, "url": entry.url} for entry in itertools.islice(found, limit))

    def _found(self, wanted: str, prefix: str, first: float, behind: float) -> Iterator[Entry]:
        for entry in self.store.keys(prefix):
            if wanted in entry.key and first <= entry.created < behind:
                yield entry


def _days(params: Params) -> tuple[float, float]:
    """The first second at which a key may be created, and the second after the last one; since the epoch."""
    # `eq` wins over `gt` and `lt`.
    day = _day(params, "eq")
    from_day, to_day = (day, day) if day is not None else (_day(params, "gt"), _day(params, "lt"))
    first = float("-inf") if from_day is None else from_day * _DAY_SECS
    behind = float("inf") if to_day is None else (to_day + 1) * _DAY_SECS
    return first, behind


def _day(params: Params, name: str) -> int | None:
    """The day of a parameter, in days since the epoch (UTC); None when it was not given."""
    given = text(params, name)
    if given is None:
        return None
    if match := _DATE.fullmatch(given):
        month, day, year = map(int, match.groups())
        try:
            return datetime.date(year, month, day).toordinal() - _EPOCH
        except ValueError as error:
            raise Refused(400, f"{name}={given} was received, which is no day of the calendar: {error}") from error
    raise Refused(400, f"{name}={shown(given)} was received, and a date mm-dd-yyyy is needed, such as 12-31-2026")
