"""When backups are made: `[backup] at`, a time of the day or the five fields of cron, in local time.

Where clocks are set forward, what was due in the missing hour is done behind it. Where they are set back, the repeated
hour counts once.
"""

from __future__ import annotations

import re
from datetime import datetime
from itertools import islice, pairwise

from broker.clock import DAY_SECS

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_FIELDS = 5
_LOOKED_AT = 10  # times between which the longest pause is looked for
_NEEDED = 'a time like "02:30", or five fields of cron like "30 2 * * *", is needed'


def parse(raw: str) -> str:
    """A time of the day or five cron fields, as they are written; raises `ValueError`."""
    text = " ".join(raw.split())
    if _TIME.fullmatch(text):
        return text
    from cronsim import CronSim, CronSimError  # few settings need it

    if len(text.split(" ")) != _FIELDS:
        raise ValueError(_NEEDED)
    try:
        CronSim(text, datetime(2000, 1, 1))
    except CronSimError as error:
        raise ValueError(f"{_NEEDED} ({error})") from error
    return text


def following(at: str, after: float) -> float:
    """The first time of a timetable later than `after`, both in seconds since the epoch."""
    from cronsim import CronSim

    # The local time of one hour earlier: where clocks are set back, it may come twice.
    for moment in CronSim(_cron(at), datetime.fromtimestamp(after - 3600)):
        if (found := moment.timestamp()) > after:
            return found
    raise ValueError(f"there is no time {at!r}")


def longest_pause(at: str, after: float) -> float:
    """The longest time between two of the next few times of a timetable, in seconds."""
    from cronsim import CronSim

    times = [moment.timestamp() for moment in islice(CronSim(_cron(at), datetime.fromtimestamp(after)), _LOOKED_AT)]
    return max((later - earlier for earlier, later in pairwise(times)), default=DAY_SECS)


def _cron(at: str) -> str:
    match = _TIME.fullmatch(at)
    return f"{int(match[2])} {int(match[1])} * * *" if match else at
