"""The lines of web servers' access logs. A module beside the jobs that use it."""

import re
from typing import NamedTuple

_COMMON = re.compile(
    r'(?P<host>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "(?P<method>[A-Z]+) (?P<target>\S+)[^"]*"'
    r" (?P<status>\d{3}) (?P<size>\d+|-)"
)


class Request(NamedTuple):
    """One line."""

    host: str
    time: str
    method: str
    path: str  # without the query
    status: int
    size: int  # bytes


def parse(line: str) -> Request | None:
    """A line in the common or the combined format; None for any other."""
    match = _COMMON.match(line)
    if not match:
        return None
    size = match["size"]
    path = match["target"].partition("?")[0]
    return Request(
        match["host"], match["time"], match["method"], path, int(match["status"]), int(size) if size != "-" else 0
    )
