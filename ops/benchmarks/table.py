"""Rows of figures, each the median of its runs beside its target, and their Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ops.benchmarks.client import Figures

_HEAD = ("what", "figure", "p50 ms", "p99 ms", "target", "")


@dataclass(frozen=True)
class Row:
    """One line of the table. `reached` is None without a target."""

    name: str
    figure: str
    p50: str = ""
    p99: str = ""
    target: str = ""
    reached: bool | None = None
    note: str = ""  # said below the table
    errors: dict[str, int] = field(default_factory=dict)
    commands: list[str] = field(default_factory=list)
    runs: list[Any] = field(default_factory=list)

    def verdict(self) -> str:
        """Whether the target was reached, and the errors of the runs."""
        word = {None: "", True: "reached", False: "**not reached**"}[self.reached]
        wrong = ", ".join(f"{count} × {what}" for what, count in sorted(self.errors.items()))
        return f"{word} **errors: {wrong}**".strip() if wrong else word


def rate_row(name: str, runs: Sequence[Figures], *, least: float = 0, p50_below_ms: float = 0) -> Row:
    """A row of operations per second. The target is a rate of at least `least`, or a p50 below `p50_below_ms`."""
    rate = median(run.rate for run in runs)
    p50 = median(run.p50_ms for run in runs)
    errors: dict[str, int] = {}
    for run in runs:
        for what, count in run.errors.items():
            errors[what] = errors.get(what, 0) + count
    target, reached = "", None
    if least:
        target, reached = f"≥ {least:,.0f}/s", rate >= least and not errors
    if p50_below_ms:
        target, reached = f"p50 < {p50_below_ms:g} ms", p50 < p50_below_ms and not errors
    return Row(
        name=name,
        figure=f"{rate:,.0f}/s",
        p50=f"{p50:.2f}",
        p99=f"{median(run.p99_ms for run in runs):.2f}",
        target=target,
        reached=reached,
        errors=errors,
        commands=[runs[-1].command],
        runs=[run.details for run in runs],
    )


def markdown(rows: Sequence[Row]) -> str:
    """The table. Its columns are padded, so it can be read as plain text."""
    lines = [_HEAD, *((row.name, row.figure, row.p50, row.p99, row.target, row.verdict()) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)
