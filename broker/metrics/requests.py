"""Counts requests by route and status, and how long they took. A route is a template, never a key."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence

from broker.metrics.layout import MICROS, SECONDS, Histogram, Layout

STATUSES = (
    *(200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308),
    *(400, 401, 403, 404, 405, 409, 411, 412, 413, 414, 415, 416, 421, 422, 429),
    *(500, 501, 502, 503, 504, 507),
)
OTHER = "other"  # a route or a status that is not among these


class Requests:
    """The requests of one server. Used on its event loop alone."""

    def __init__(self, layout: Layout, routes: Sequence[tuple[str, str]]) -> None:
        """`routes`: method and template of each."""
        self.routes = tuple(routes)
        rows = [*routes, (OTHER, OTHER)]
        self._rows = {row: at for at, row in enumerate(rows)}
        self.other = len(rows) - 1  # the row of all other routes
        statuses = [*map(str, STATUSES), OTHER]
        self._statuses = {status: at for at, status in enumerate(STATUSES)}
        self._width = len(statuses)
        self._counter = layout.counter(
            "pulzar_http_requests_total",
            "Requests by route and status.",
            ("method", "route", "status"),
            [(*row, status) for row in rows for status in statuses],
            sparse=True,
        )
        self._durations: Histogram = layout.histogram(
            "pulzar_http_request_seconds",
            "From the head of a request to the end of its response; of a plain response, to when it is ready.",
            ("method", "route"),
            rows,
            sparse=True,
        )
        self._cells: array[int] = layout.counts
        self._first = self._counter.family.first
        self._first_duration, self._step = self._durations.family.first, self._durations.family.width

    def row(self, method: str, route: str) -> int:
        """The row of a route; that of all others for one that is not known. HEAD may count as GET."""
        row = self._rows.get((method, route))
        if row is None and method == "HEAD":
            row = self._rows.get(("GET", route))
        return self.other if row is None else row

    def note(self, row: int, status: int, seconds: float) -> None:
        """Count a request. Each costs three additions to an array."""
        cells = self._cells
        cells[self._first + row * self._width + self._statuses.get(status, self._width - 1)] += 1
        at = self._first_duration + row * self._step
        cells[at + bisect_left(SECONDS, seconds)] += 1
        cells[at + self._step - 1] += int(seconds * MICROS)
