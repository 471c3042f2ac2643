"""A runner for the tests of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_for
from tests.unit.runs import Node, alive


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A runner of which nothing is left afterwards."""
    node = Node(tmp_path)
    yield node
    node.stop()
    # Of a runner in a process of its own, which the test has killed, the rest ends a moment later.
    wait_for(lambda: not alive(str(tmp_path)), what="the end of all that was run")
