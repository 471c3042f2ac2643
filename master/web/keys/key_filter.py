"""What `GET /keys?contains=&since=&until=` lets through: a text in the name, and the days of storing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker import keys
from broker.clock import DAY_MS
from broker.contract.kinds import Day, OrEmpty, Text
from broker.contract.parameters import Parameter
from broker.refusals import BadRequest

NAMES = ("contains", "since", "until")
_NEVER = 1 << 63
CONTAINS = Parameter(
    NAMES[0],
    Text(keys.MAX_BYTES, "[ -~]*"),
    "Only keys with this text behind the prefix, in whatever case. Not with delimiter.",
    "",
)
_DAY = OrEmpty(Day(), -1)
SINCE = Parameter(NAMES[1], _DAY, "Only values stored on this day (UTC) or later. Not with delimiter.", -1)
UNTIL = Parameter(NAMES[2], _DAY, "Only values stored on this day (UTC) or earlier. Not with delimiter.", -1)
PARAMETERS = (CONTAINS, SINCE, UNTIL)


class KeyFilter(NamedTuple):
    """Which keys of a list are wanted."""

    text: str  # in the name behind the prefix, in whatever case; "": any
    since: int  # ms since the epoch
    before: int  # ms since the epoch

    @classmethod
    def read(cls, given: Mapping[str, str]) -> KeyFilter | None:
        """From the parameters of a request; None when it has none of them. Raises `BadRequest`."""
        text, since, until = CONTAINS.read(given), SINCE.read(given), UNTIL.read(given)
        if not text and since < 0 and until < 0:
            return None
        end = _NEVER if until < 0 else until + DAY_MS
        if since >= end:
            raise BadRequest(f"since={given[SINCE.name]} is after until={given[UNTIL.name]}; exchange them")
        return cls(text, max(since, 0), end)

    def takes(self, created: int) -> bool:
        """Whether a value that was stored at `created`, in ms since the epoch, was so on one of the days."""
        return self.since <= created < self.before
