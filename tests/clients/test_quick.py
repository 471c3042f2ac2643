"""The clients that are there anyway, in every run: curl, requests, urllib and Node.js."""

from __future__ import annotations

import shutil

import pytest

from tests.clients import report
from tests.clients.rows import QUICK, ROWS, Row
from tests.clients.tries import Bench

CASES = [
    pytest.param(row, column, id=f"{row.name}-{column}")
    for row in ROWS
    if row.quick
    for column in row.wanted
    if column in QUICK
]


@pytest.mark.parametrize(("row", "column"), CASES)
def test_a_client_meets_what_the_table_says(
    bench: Bench, request: pytest.FixtureRequest, row: Row, column: str
) -> None:
    if row.driver == "node" and not shutil.which("node"):
        pytest.skip("Node.js is not there")
    report.check(request, bench, row, column)
