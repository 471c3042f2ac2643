"""The geometry of charts. Pure functions; the macros `curve` and `bars` draw what they give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 600.0, 120.0  # units of the drawing, which is scaled to its place


class Curve(NamedTuple):
    """A curve as `points` of polylines, one for each stretch without a gap, and the same as closed areas."""

    lines: list[str]
    areas: list[str]
    top: float  # the value at the upper edge
    last: float | None


def curve(
    points: Sequence[tuple[float, float]], begin: float, end: float, *, top: float = 0.0, gap: float = 0.0
) -> Curve:
    """A curve of (time, value) from `begin` to `end`, which is broken where no value came for more than `gap`.

    `top`: the least value of the upper edge.
    """
    shown = sorted(point for point in points if begin <= point[0] <= end)
    upper = max([top, *(value for _, value in shown)]) or 1.0
    stretches: list[list[tuple[float, float]]] = []
    before = None
    for at, value in shown:
        if before is None or (gap and at - before > gap):
            stretches.append([])
        stretches[-1].append((WIDTH * (at - begin) / (end - begin), HEIGHT * (1 - max(0.0, value) / upper)))
        before = at
    lines = [_joined([*stretch, (stretch[0][0] + 1, stretch[0][1])][: max(2, len(stretch))]) for stretch in stretches]
    areas = [_joined([(part[0][0], HEIGHT), *part, (part[-1][0], HEIGHT)]) for part in stretches]
    return Curve(lines, areas, upper, shown[-1][1] if shown else None)


def series(points: Iterable[NamedTuple], name: str) -> list[tuple[float, float]]:
    """One field of points that have a time `at`, for `curve`."""
    return [(point.at, getattr(point, name)) for point in points]  # type: ignore[attr-defined]


class Bar(NamedTuple):
    """A bar of a bar chart."""

    x: float
    y: float
    width: float
    height: float
    kind: str  # a class of its style: ok, bad, warn or plain
    title: str


def bars(values: Sequence[tuple[float, str, str]], most: int = 60) -> list[Bar]:
    """Bars of (value, kind, title), the newest at the right; `most` fit in."""
    shown = values[-most:]
    upper = max([value for value, _, _ in shown], default=0.0) or 1.0
    step = WIDTH / most
    first = WIDTH - step * len(shown)
    return [
        Bar(
            first + step * number, HEIGHT - max(2.0, HEIGHT * value / upper), step * 0.75,
            max(2.0, HEIGHT * value / upper), kind, title
        )
        for number, (value, kind, title) in enumerate(shown)
    ]  # fmt: skip


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
