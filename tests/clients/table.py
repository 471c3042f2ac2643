"""The table of clients: `python -m tests.clients.table` puts it into docs/clients.md; with --seen, the last runs' outcomes."""

from __future__ import annotations

import json
import sys
from typing import NamedTuple

from tests.clients.programs import CACHE
from tests.clients.rows import COLUMNS, NONE, ROWS
from tests.support import ROOT

PAGE = ROOT / "docs" / "clients.md"
OUTCOMES = CACHE / "outcomes.json"
BEGIN, END = "<!-- python -m tests.clients.table -->\n", "<!-- end of the table -->\n"


class Found(NamedTuple):
    """What was seen in one try."""

    row: str
    column: str
    word: str
    status: int | None
    said: str
    secs: float


def page_table() -> str:
    """What is wanted, for the page."""
    lines = [f"| client | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    notes = []
    for row in ROWS:
        mark = ""
        if row.note:
            notes.append(row.note)
            mark = f" ({len(notes)})"
        words = [word.replace("|", " or ") for word in row.words.split()]
        lines.append(f"| {row.title}{mark} | {' | '.join(words)} |")
    lines.append("")
    lines += [
        f"{number}. {note[0].upper() if note[0].isalpha() else note[0]}{note[1:]}."
        for number, note in enumerate(notes, 1)
    ]
    return "\n".join(lines) + "\n"


def columns() -> str:
    """What the columns are, for the page."""
    lines = [f"| {name} | {column.title} |" for name, column in COLUMNS.items()]
    return "\n".join(["| column | what is tried |", "| --- | --- |", *lines])


def parts(text: str) -> tuple[str, str, str]:
    """The page before the table, the table, and what is after it."""
    before, _, rest = text.partition(BEGIN)
    middle, _, after = rest.partition(END)
    return before, middle, after


def generated() -> str:
    """What stands between the two marks of the page."""
    return f"\n{columns()}\n\n{page_table()}\n"


def keep(found: list[Found]) -> None:
    """Put these into the file of outcomes, in place of older ones of the same tries."""
    CACHE.mkdir(parents=True, exist_ok=True)
    known = {(one.row, one.column): one for one in [*kept(), *found]}
    OUTCOMES.write_text(json.dumps(list(known.values()), indent=0))


def kept() -> list[Found]:
    """The outcomes of the last runs."""
    return [Found(*one) for one in json.loads(OUTCOMES.read_text())] if OUTCOMES.exists() else []


def seen(found: list[Found]) -> str:
    """These outcomes as a table; what is not as wanted has a `!`, and is told below it."""
    by_row: dict[str, dict[str, Found]] = {}
    for one in found:
        by_row.setdefault(one.row, {})[one.column] = one
    lines = [f"{'client':34}" + "".join(f"{name:>8}" for name in COLUMNS)]
    told = []
    for row in ROWS:
        if row.name not in by_row:
            continue
        cells = []
        for name in COLUMNS:
            one = by_row[row.name].get(name)
            good = one is None or one.word in row.wanted.get(name, "").split("|")
            cells.append(f"{(one.word if one else NONE) + ('' if good else '!'):>8}")
            if one and not good:
                said = " ".join(one.said.split())[:160]
                told.append(
                    f"{row.name} {name}: {one.word}, not {row.wanted[name]}; {one.status}, {one.secs:g} s: {said}"
                )
        lines.append(f"{row.name:34}" + "".join(cells))
    return "\n".join([*lines, "", *told])


def main(arguments: list[str]) -> None:
    """Write the page's table, or print what was seen."""
    if arguments == ["--seen"]:
        print(seen(kept()))
        return
    before, _, after = parts(PAGE.read_text())
    PAGE.write_text(before + BEGIN + generated() + END + after)


if __name__ == "__main__":
    main(sys.argv[1:])
