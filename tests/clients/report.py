"""At the end of a run: the table of what was seen, which is also kept for `python -m tests.clients.table`."""

from __future__ import annotations

import json

import pytest

from tests.clients import table
from tests.clients.rows import COLUMNS, Row
from tests.clients.tries import Bench

PROPERTY = "client"


def check(request: pytest.FixtureRequest, bench: Bench, row: Row, column: str) -> None:
    """Try it, and compare with what is wanted. What was seen goes to where the table is printed, another process perhaps."""
    word, seen, secs = bench.attempt(row, column)
    found = table.Found(row.name, column, word, seen.status, seen.said, round(secs, 2))
    request.node.user_properties.append((PROPERTY, json.dumps(found)))
    told = f"{row.title}, {COLUMNS[column].title}: status {seen.status}, {secs:.1f} s: {seen.said}"
    assert word in row.wanted[column].split("|"), told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table, if clients were tried."""
    found = [
        table.Found(*json.loads(text))
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, text in getattr(report, "user_properties", [])
        if name == PROPERTY and report.when == "call"
    ]
    if found:
        table.keep(found)
        terminalreporter.section("clients")
        terminalreporter.write_line(table.seen(found))
