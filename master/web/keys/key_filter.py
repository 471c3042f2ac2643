"""What `GET /keys?contains=&since=&until=` lets through: a text in the name, and the days of storing."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import NamedTuple

from broker import keys
from broker.clock import DAY_MS
from broker.refusals import BadRequest

NAMES = ("contains", "since", "until")
_NEVER = 1 << 63


class KeyFilter(NamedTuple):
    """Which keys of a list are wanted."""

    text: str  # in the name behind the prefix, in whatever case; "": any
    since: int  # ms since the epoch
    before: int  # ms since the epoch

    @classmethod
    def read(cls, given: Mapping[str, str]) -> KeyFilter | None:
        """From the parameters of a request; None when it has none of them. Raises `BadRequest`."""
        text, since, until = (given.get(name, "") for name in NAMES)
        if not (text or since or until):
            return None
        if not text.isascii() or not text.isprintable() or len(text) > keys.MAX_BYTES:
            raise BadRequest(f"contains is no printable ASCII text of up to {keys.MAX_BYTES} characters")
        begin = _day("since", since) if since else 0
        end = _day("until", until) + DAY_MS if until else _NEVER
        if begin >= end:
            raise BadRequest(f"since={since} is after until={until}; exchange them")
        return cls(text, begin, end)

    def takes(self, created: int) -> bool:
        """Whether a value that was stored at `created`, in ms since the epoch, was so on one of the days."""
        return self.since <= created < self.before


def _day(name: str, text: str) -> int:
    """The beginning of a day, in ms since the epoch. Raises `BadRequest`."""
    try:
        day = datetime.datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=datetime.UTC)
    except ValueError as error:
        raise BadRequest(f"{name}={text[:40]!r} is no day; give one like 2026-11-29, in UTC") from error
    return int(day.timestamp()) * 1000
