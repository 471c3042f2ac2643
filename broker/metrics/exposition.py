"""The text format of Prometheus, version 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import accumulate

from broker.http.responses import NO_FRAMES, Response
from broker.metrics.layout import Family, Layout, Row
from broker.metrics.reading import Reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Text:
    """The lines of one response."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def gauge(self, name: str, about: str, value: float, kind: str = "gauge") -> None:
        """A figure without labels."""
        self.gauges(name, about, (), [((), value)], kind)

    def gauges(
        self, name: str, about: str, labels: Row, rows: Iterable[tuple[Row, float]], kind: str = "gauge"
    ) -> None:
        """A figure with its rows: values of the labels, and the number."""
        self._head(name, kind, about)
        self._lines += [f"{name}{braces(labels, values)} {number(value)}" for values, value in rows]

    def reading(self, layout: Layout, found: Reading) -> None:
        """What processes have counted."""
        for family in layout.families:
            if family.kind == "counter":
                self._counter(family, found)
            elif family.kind == "histogram":
                self._histogram(family, found)
            else:
                self._gauge(family, found)

    def _head(self, name: str, kind: str, about: str) -> None:
        self._lines.append(f"# HELP {name} {about}\n# TYPE {name} {kind}")

    def _counter(self, family: Family, found: Reading) -> None:
        self._head(family.name, family.kind, family.about)
        counts = found.counts[family.first : family.first + len(family.rows)]
        for at, count in enumerate(counts):
            if count or not family.sparse:
                self._lines.append(f"{family.name}{_known_braces(family.labels, family.rows[at])} {count}")

    def _histogram(self, family: Family, found: Reading) -> None:
        self._head(family.name, family.kind, family.about)
        width = family.width
        for at, row in enumerate(family.rows):
            begin = family.first + at * width
            cells = found.counts[begin : begin + width]
            if family.sparse and not any(cells):
                continue
            *_, count = buckets = [*accumulate(cells[:-1])]
            template = _histogram_lines(family.name, family.labels, row, family.bounds)
            self._lines.append(template % (*buckets, number(cells[-1] / family.scale), count))

    def _gauge(self, family: Family, found: Reading) -> None:
        self._head(family.name, family.kind, family.about)
        labels = (*family.labels, "process") if family.own else family.labels
        for process in found.processes:
            for at, row in enumerate(family.rows):
                value = process.gauges[family.first + at]
                if not math.isnan(value):
                    values = (*row, process.name) if family.own else row
                    self._lines.append(f"{family.name}{braces(labels, values)} {number(value)}")

    def encode(self) -> bytes:
        """The body of the response."""
        return ("\n".join(self._lines) + "\n").encode()


def braces(labels: Row, values: Row) -> str:
    """Labels with their values, as they follow a name; "" for none."""
    if not labels:
        return ""
    pairs = (f'{label}="{value.translate(_ESCAPES)}"' for label, value in zip(labels, values, strict=True))
    return f"{{{','.join(pairs)}}}"


_known_braces = cache(braces)  # of rows that are always the same


@cache
def _histogram_lines(name: str, labels: Row, row: Row, bounds: tuple[float, ...]) -> str:
    """The lines of a row of a histogram, with places for the counts, the sum and the count of all."""
    own = braces(labels, row).replace("%", "%%")
    inside = f"{own[1:-1]}," if own else ""
    lines = [f'{name}_bucket{{{inside}le="{bound}"}} %d' for bound in (*map(number, bounds), "+Inf")]
    return "\n".join([*lines, f"{name}_sum{own} %s", f"{name}_count{own} %d"])


def number(value: float) -> str:
    """A number as the format has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
    return f"{value:.6g}" if abs(value) < 1 else str(int(value)) if value == int(value) else repr(float(value))


def info(text: Text, name: str, about: str, fields: Mapping[str, str]) -> None:
    """A figure that is always 1, whose labels tell something."""
    text.gauges(name, about, tuple(fields), [(tuple(fields.values()), 1)])


def response(text: Text) -> Response:
    """The response to a request for figures."""
    body = text.encode()
    headers = [("Content-Type", CONTENT_TYPE), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
    return Response(200, [*headers, NO_FRAMES], body)
