"""A cluster with scripts whose effects are seen, for the tests of one module, in each of the modes of `jobs_tools.MODES`.

The normal run has all tests in the first mode, and in the others those with the mark `every_mode`. `-m modes` has the
others in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.cluster import Cluster
from tests.faults.jobs_tools import MODES, Field, unexpected
from tests.faults.tools import tracebacks
from tests.support import Clusters


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        call = getattr(item, "callspec", None)
        mode = call.params.get("mode", MODES[0]) if call else MODES[0]
        if mode in MODES[1:]:
            item.add_marker(pytest.mark.modes(always=item.get_closest_marker("every_mode") is not None))


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def field(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory, mode: str) -> Iterator[Field]:
    field = Field(make_shared_cluster, tmp_path_factory.mktemp("field"), mode=mode)
    field.wait_mode()
    yield field
    make_shared_cluster.close()


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
