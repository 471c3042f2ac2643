"""The figures that the processes of one program keep, and the cells of each.

All processes of a program have the same cells in the same order. So their files can be added up number by number.
Counting is one addition to an array. A cell belongs to one thread, or to threads that seldom meet: two that add to it
at the same moment may lose one of the two.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

# Upper bounds of the buckets of a histogram of seconds, for what takes up to a minute.
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# The same for jobs, which may take hours.
LONG_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0)
SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
MICROS = 1_000_000  # the sum of a histogram of seconds is kept in these

Row = tuple[str, ...]  # the values of a figure's labels


class Family(NamedTuple):
    """A figure with all its rows, one for each combination of labels."""

    name: str
    kind: str  # counter, gauge or histogram
    about: str
    labels: Row
    rows: Sequence[Row]
    first: int  # cell
    bounds: tuple[float, ...] = ()  # of a histogram
    scale: int = 1  # what its sum is multiplied by
    sparse: bool = False  # rows that nothing was counted in are left out of the text
    own: bool = False  # a gauge that each process has for itself

    @property
    def width(self) -> int:
        """Cells of a row: buckets, the last of them without a bound, and the sum."""
        return len(self.bounds) + 2 if self.kind == "histogram" else 1

    def row(self, *values: str) -> int:
        """The number of the row with these labels. Raises `ValueError`."""
        return list(self.rows).index(values)


class Counter:
    """Counts events."""

    __slots__ = ("_cells", "_first", "family")

    def __init__(self, family: Family, cells: array[int]) -> None:
        self.family = family
        self._cells = cells
        self._first = family.first

    def add(self, row: int = 0, number: int = 1) -> None:
        """Count `number` more."""
        self._cells[self._first + row] += number

    def value(self, row: int = 0) -> int:
        """What this process has counted."""
        return self._cells[self._first + row]


class Histogram:
    """Counts values by size, and adds them up."""

    __slots__ = ("_cells", "_first", "_scale", "_sum", "_width", "bounds", "family")

    def __init__(self, family: Family, cells: array[int]) -> None:
        self.family = family
        self.bounds = family.bounds
        self._cells = cells
        self._first, self._width, self._scale = family.first, family.width, family.scale
        self._sum = family.width - 1

    def observe(self, value: float, row: int = 0) -> None:
        """Count one value; a negative one, which a clock that was set can make, is 0."""
        cells, at = self._cells, self._first + row * self._width
        cells[at + bisect_left(self.bounds, value)] += 1
        if value > 0:
            cells[at + self._sum] += int(value * self._scale)

    def count(self, row: int = 0) -> int:
        """How many values this process has counted."""
        at = self._first + row * self._width
        return sum(self._cells[at : at + self._sum])


class Gauge:
    """A number that rises and falls. Until it is set, its process does not tell it."""

    __slots__ = ("_cells", "_first", "family")

    def __init__(self, family: Family, cells: array[float]) -> None:
        self.family = family
        self._cells = cells
        self._first = family.first

    def set(self, value: float, row: int = 0) -> None:
        """Note the number."""
        self._cells[self._first + row] = value


class Layout:
    """The figures of a program. All are made before the first is used, in the same order in each process."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.counts: array[int] = array("Q")
        self.gauges: array[float] = array("d")

    def counter(
        self, name: str, about: str, labels: Row = (), rows: Sequence[Row] = ((),), *, sparse: bool = False
    ) -> Counter:
        """A counter; `rows` has the values of the labels, all that there will ever be."""
        family = Family(name, "counter", about, labels, rows, len(self.counts), sparse=sparse)
        return Counter(self._counting(family), self.counts)

    def histogram(
        self,
        name: str,
        about: str,
        labels: Row = (),
        rows: Sequence[Row] = ((),),
        *,
        bounds: tuple[float, ...] = SECONDS,
        sparse: bool = False,
    ) -> Histogram:
        """A histogram of seconds, or of sizes with the `bounds` of these."""
        scale = 1 if bounds is SIZES else MICROS
        family = Family(name, "histogram", about, labels, rows, len(self.counts), bounds, scale, sparse)
        return Histogram(self._counting(family), self.counts)

    def gauge(
        self, name: str, about: str, labels: Row = (), rows: Sequence[Row] = ((),), *, own: bool = False
    ) -> Gauge:
        """A gauge. `own`: each process has one, and its name is a label."""
        family = Family(name, "gauge", about, labels, rows, len(self.gauges), own=own)
        self.families.append(family)
        self.gauges.extend([float("nan")] * len(rows))
        return Gauge(family, self.gauges)

    @cached_property
    def digest(self) -> bytes:
        """16 bytes that are others for other cells: two programs may add up their files when these are the same."""
        return hashlib.sha256(repr(self.families).encode()).digest()[:16]

    def _counting(self, family: Family) -> Family:
        self.families.append(family)
        self.counts.extend([0] * (len(family.rows) * family.width))
        return family
