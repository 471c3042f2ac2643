"""A node started from a copy of a running node's directory is refused, and the running one is not harmed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node import twin
from ops.cluster import Cluster
from ops.cluster.network import free_base
from tests.faults.tools import settle
from tests.integration.wire import payload
from tests.support import ROOT, Clusters, get, put, unique


@pytest.fixture
def cluster(make_cluster: Clusters) -> Cluster:
    return make_cluster(nodes=1)


def start(cluster: Cluster, directory: Path, program: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """Start a node on a copy, and wait for its end."""
    node = cluster.nodes[0]
    environ = dict(node.process.environment) | {
        "PULZAR_VOLUME_DIR": str(directory),
        "PULZAR_VOLUME_PORT": str(free_base()),
        **more,
    }
    command = [sys.executable, "-c", program] if program else [sys.executable, "-m", "node"]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_a_copy_that_reaches_the_running_node_is_refused_at_once(cluster: Cluster, tmp_path: Path) -> None:
    # Given a running node with values, and a copy of its directory
    values = {unique(): payload(size) for size in (20, 100_000)}
    for key, value in values.items():
        assert put(cluster, key, value).status == 201
    node = cluster.nodes[0]
    shutil.copytree(node.directory, tmp_path / "copy")
    # When a node is started on the copy, with another port
    ended = start(cluster, tmp_path / "copy")
    # Then it says why it does not
    assert ended.returncode == 2
    assert f"the node node-1 is running at http://{node.host}:{node.port}" in ended.stderr
    assert str(tmp_path / "copy") in ended.stderr
    # And the running one goes on
    assert cluster.health()["nodes"] == 1
    for key, value in values.items():
        assert get(cluster, key).body == value
    assert put(cluster, unique(), b"more").status == 201


# The patience is for connections of machines that lost power, which a test can't wait for.
IMPATIENT = """
import sys
from node import agent, twin
from broker.service.companion import run_companion
twin.PATIENCE_SECS = 3.0
sys.exit(run_companion("agent", "node", agent.Agent))
"""


def test_a_copy_that_does_not_reach_it_is_refused_by_rabbitmq(cluster: Cluster, tmp_path: Path) -> None:
    # Given a copy on a machine that does not reach the running node's address
    assert put(cluster, key := unique(), b"value").status == 201
    before = cluster.nodes[0].process.log.read_text()
    shutil.copytree(cluster.nodes[0].directory, tmp_path / "copy")
    # When its agent is started
    ended = start(cluster, tmp_path / "copy", IMPATIENT)
    # Then it ends with a clear message
    assert ended.returncode == 2
    assert "another process is this node" in ended.stderr
    assert twin.REMEDY in ended.stderr
    # And the running one was not disturbed
    assert get(cluster, key).body == b"value"
    assert put(cluster, unique(), b"more").status == 201
    assert "link" not in cluster.nodes[0].process.log.read_text()[len(before) :]


def test_a_node_that_was_killed_starts_again_at_once(cluster: Cluster) -> None:
    assert put(cluster, key := unique(), b"value").status == 201
    cluster.kill_node(0)
    cluster.start_node(0)
    settle(cluster)
    assert get(cluster, key).body == b"value"


def test_a_copy_takes_the_place_of_a_node_that_is_gone(cluster: Cluster, tmp_path: Path) -> None:
    assert put(cluster, key := unique(), b"value").status == 201
    node = cluster.nodes[0]
    cluster.stop_node(0)
    shutil.copytree(node.directory, tmp_path / "copy")
    shutil.rmtree(node.directory)
    shutil.copytree(tmp_path / "copy", node.directory)
    cluster.start_node(0)
    settle(cluster)
    assert get(cluster, key).body == b"value"
