"""Tables for people, to be read in a log."""

from collections.abc import Iterable, Sequence


def table(title: str, rows: Iterable[Sequence[object]]) -> str:
    """Rows as lines of text, in columns."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([title, *(f"  {line}" for line in lines)])
