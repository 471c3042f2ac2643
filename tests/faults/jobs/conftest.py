"""A cluster with scripts whose effects are seen, for the tests of one module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.cluster import Cluster
from tests.faults.jobs_tools import Field, unexpected
from tests.faults.tools import tracebacks
from tests.support import Clusters


@pytest.fixture(scope="module")
def field(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Field:
    return Field(make_shared_cluster, tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def cluster(field: Field) -> Cluster:
    return field.cluster


@pytest.fixture
def nothing_left(field: Field, cluster: Cluster) -> Iterator[None]:
    """When a test is over, no run goes on, and nothing happened that nobody had thought of."""
    yield
    field.open_all()
    field.check_nothing_left()
    assert not tracebacks(cluster)
    assert not unexpected(cluster)
