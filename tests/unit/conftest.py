"""A runner for the tests of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.runs import Node, alive


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A runner of which nothing is left afterwards."""
    node = Node(tmp_path)
    yield node
    node.stop()
    assert not alive(str(tmp_path))
