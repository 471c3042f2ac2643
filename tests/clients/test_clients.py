"""Every client of docs/clients.md, in every way of sending: only with -m clients."""

from __future__ import annotations

import pytest

from tests.clients import report
from tests.clients.rows import ROWS, Row
from tests.clients.tries import Bench

# Column by column would start another runtime each time; a row's tries are together.
CASES = [pytest.param(row, column, id=f"{row.name}-{column}") for row in ROWS for column in row.wanted]


@pytest.mark.clients
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("row", "column"), CASES)
def test_a_client_meets_what_the_table_says(
    bench: Bench, request: pytest.FixtureRequest, row: Row, column: str
) -> None:
    report.check(request, bench, row, column)
