"""Which backups stay: `[backup] keep`, like "7 daily, 4 weekly, 6 monthly"."""

from __future__ import annotations

import re
from typing import NamedTuple

_PART = re.compile(r"([0-9]{1,4}) *(last|daily|weekly|monthly|yearly)")


class KeepRule(NamedTuple):
    """How many backups stay: the last ones, and the newest of each of the last days, weeks, months and years."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def __str__(self) -> str:
        """As the setting has it."""
        return ", ".join(f"{number} {name}" for name, number in self._asdict().items() if number)


def parse(raw: str) -> KeepRule:
    """The rule in a text; raises `ValueError` with what is needed."""
    found: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in raw.split(","))):
        match = _PART.fullmatch(part)
        if not match or match[2] in found:
            found = {}
            break
        found[match[2]] = int(match[1])
    if not any(found.values()):
        raise ValueError(
            "numbers of last, daily, weekly, monthly and yearly backups are needed, like 7 daily, 4 weekly, 6 monthly"
        )
    return KeepRule(**found)


def text(raw: str) -> str:
    """The rule as a text in one form; raises `ValueError` with what is needed."""
    return str(parse(raw))
