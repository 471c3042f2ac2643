"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.cluster import Cluster
from tests.integration.wire import Client


@pytest.fixture
def master(cluster: Cluster) -> Iterator[Client]:
    """A client of the master of the shared cluster."""
    with Client(cluster.master_url) as client:
        yield client
