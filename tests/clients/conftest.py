from __future__ import annotations

import pytest

from tests.clients.tries import Bench
from tests.support import Clusters


@pytest.fixture(scope="module")
def bench(make_shared_cluster: Clusters, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """What clients are tried against."""
    return Bench(make_shared_cluster, tmp_path_factory.mktemp("clients"))
