"""What holds for the clusters that the tests of one module share."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from ops.cluster import Cluster
from tests.faults.tools import revive
from tests.support import process_logs


@pytest.fixture(autouse=True)
def whole_cluster(request: pytest.FixtureRequest) -> None:
    """A test finds its module's cluster whole, whatever one before it has left."""
    if "cluster" in request.fixturenames:
        revive(request.getfixturevalue("cluster"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the ends of the logs of its cluster."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and isinstance(cluster, Cluster):
        report.sections.extend(process_logs([cluster]))
    return report
