"""Copies that are missing are made again: of nodes that are lost, wiped or came too late."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from ops.cluster import Cluster
from tests.faults.test_history import settle
from tests.faults.tools import COMPANION, kill_part
from tests.integration.test_replicas import FILE, LARGE, SMALL, at_node, body, having, holders
from tests.support import Clusters, delete, get, http_request, put, unique, wait_for

ENV = {
    "PULZAR_GENERAL_REPLICAS": "1, two/: 2",
    "PULZAR_GENERAL_REPAIR_AFTER": "3",
    "PULZAR_SERVER_PUT_TIMEOUT": "4",
    "PULZAR_SERVER_CACHED": "100",
}
SIZES = {"tiny": 50, "small": SMALL, "file": FILE, "large": LARGE}


@pytest.fixture
def cluster(make_cluster: Clusters) -> Cluster:
    return make_cluster(nodes=3, env=ENV)


def filled(cluster: Cluster, number: int, query: str = "") -> dict[str, bytes]:
    """Values of each size, by key."""
    values = {}
    for name, size in SIZES.items():
        for count in range(number):
            key = f"two/{unique(f'{name}-{count}')}"
            values[key] = body(key, size)
            answer = put(cluster, key, values[key], query)
            assert answer.status == 201, answer.msg
    return values


def whole(cluster: Cluster, values: dict[str, bytes], among: set[str]) -> bool:
    """Whether each value is on two of these nodes, as the index says."""
    return all(len(holders(cluster, key) & among) >= 2 for key in values)


def check_bytes(cluster: Cluster, values: dict[str, bytes], among: set[str]) -> None:
    for key, value in values.items():
        for node in holders(cluster, key) & among:
            read = at_node(cluster, node, key)
            assert (read.status, read.body == value) == (200, True), (key, node)


def state(cluster: Cluster) -> dict[str, object]:
    found: dict[str, object] = http_request("GET", f"{cluster.master_url}/admin/status").data["repair"]
    return found


def set_replicas(cluster: Cluster, text: str) -> None:
    """Start the master again with this setting."""
    cluster.kill_master()
    cluster.master.environment["PULZAR_GENERAL_REPLICAS"] = text
    cluster.start_master()
    cluster.wait_healthy()


def on(cluster: Cluster, values: dict[str, bytes], number: int) -> bool:
    """Whether each value is on so many nodes, as the index says and as these say."""
    return all(len(holders(cluster, key)) == number and having(cluster, key) == holders(cluster, key) for key in values)


def test_values_follow_a_changed_number_and_a_controller_that_is_killed_goes_on(cluster: Cluster) -> None:
    names = {node.id for node in cluster.nodes}
    set_replicas(cluster, "1")
    values, own = filled(cluster, 3), filled(cluster, 1, "replicas=3")
    assert on(cluster, values, 1)
    # When the number is raised
    set_replicas(cluster, "1, two/: 3")
    kill_part(cluster.master, COMPANION)
    wait_for(lambda: on(cluster, values, 3), 90, "all have three holders")
    check_bytes(cluster, values, names)
    wait_for(lambda: state(cluster)["lacking"] == 0 and state(cluster)["under_way"] == 0, 30, "it says that it is done")
    # And lowered again
    set_replicas(cluster, "1, two/: 2")
    kill_part(cluster.master, COMPANION)
    wait_for(lambda: on(cluster, values, 2), 90, "all have two holders, and only these have the bytes")
    check_bytes(cluster, values, names)
    wait_for(lambda: state(cluster)["surplus"] == 0, 30, "it says that none is too many")
    # Then what was put with a number of its own has kept it, also when the index is lost
    assert on(cluster, own, 3)
    cluster.kill_master()
    shutil.rmtree(Path(cluster.master_directory) / "index")
    cluster.start_master()
    settle(cluster)
    assert on(cluster, values, 2)
    assert on(cluster, own, 3)
    check_bytes(cluster, values | own, names)


def test_a_lost_node_is_replaced_and_when_it_is_back_nothing_old_is_read(cluster: Cluster) -> None:
    values = filled(cluster, 3)
    # When a node is lost
    cluster.kill_node(0)
    left = {"node-2", "node-3"}
    wait_for(lambda: whole(cluster, values, left), 60, "all have two holders again")
    assert state(cluster)["lost"] == ["node-1"]
    check_bytes(cluster, values, left)
    # And values are changed and deleted while it is away
    changed, deleted, *_ = values
    values[changed] = b"new"
    assert put(cluster, changed, b"new", "overwrite=1").status == 201
    assert delete(cluster, deleted).status == 200
    del values[deleted]
    # Then it comes back with what it had
    cluster.start_node(0)
    cluster.wait_healthy()
    wait_for(lambda: state(cluster)["lost"] == [], 30, "it counts again")
    for key, value in values.items():
        for _ in range(3):
            assert get(cluster, key).body == value
    assert get(cluster, deleted).status == 404
    wait_for(lambda: not having(cluster, deleted), 30, "it has heard of the deletion")


def test_a_wiped_node_is_filled_again_and_another_disk_may_die_then(cluster: Cluster) -> None:
    values = filled(cluster, 3)
    for index in (0, 1):
        # When a node loses its disk
        cluster.kill_node(index)
        shutil.rmtree(cluster.nodes[index].directory)
        since = time.time()
        cluster.start_node(index)
        # Then no value lacks a copy when the master says so
        settle(cluster, since)
    # And nothing is lost, nor when the index is
    check_bytes(cluster, values, {node.id for node in cluster.nodes})
    cluster.kill_master()
    shutil.rmtree(Path(cluster.master_directory) / "index")
    cluster.start_master()
    cluster.wait_healthy()
    for key, value in values.items():
        assert get(cluster, key).body == value


def test_two_nodes_that_return_with_older_disks_bring_back_the_newest_value_that_is_left(
    make_cluster: Clusters,
) -> None:
    cluster = make_cluster(nodes=3, env=ENV | {"PULZAR_GENERAL_REPAIR_AFTER": "60"})
    key = "two/" + unique()
    # Too large for the index, which would bring the newest one back by itself.
    old, new = body("old", SMALL), body("new", SMALL)
    assert put(cluster, key, old).status == 201
    before = holders(cluster, key)
    nodes = [index for index, node in enumerate(cluster.nodes) if node.id in before]
    # Given disks from before the value was changed
    for index in nodes:
        cluster.stop_node(index)
        shutil.copytree(cluster.nodes[index].directory, cluster.directory / f"older-{index}")
        cluster.start_node(index)
    cluster.wait_healthy()
    network = f"{cluster.master_url}/admin/network"
    wait_for(lambda: all(row["synch"] for _ in range(20) for row in http_request("GET", network).data), what="all back")
    wait_for(lambda: put(cluster, key, new, "overwrite=1").status == 201, what="it is changed")
    assert holders(cluster, key) == before
    # When both come back with them; RabbitMQ has nothing left for them, since they were stopped in order
    for index in nodes:
        cluster.stop_node(index)
        shutil.rmtree(cluster.nodes[index].directory)
        (cluster.directory / f"older-{index}").rename(cluster.nodes[index].directory)
        cluster.start_node(index)
    cluster.wait_healthy()
    # Then the old value is there, on two nodes in the end, and nobody is told to forget it
    wait_for(lambda: get(cluster, key).body == old, 60, "the old value is read")
    wait_for(lambda: len(holders(cluster, key)) >= 2, 90, "it is on two nodes")
    assert get(cluster, key).body == old


def test_a_drained_node_can_be_stopped_and_forgotten_with_nothing_lost(cluster: Cluster) -> None:
    values = filled(cluster, 2) | {unique(str(number)): body(str(number), SMALL) for number in range(20)}
    for key, value in values.items():
        if not key.startswith("two/"):
            assert put(cluster, key, value).status == 201
    # When a node is drained, and the controller killed meanwhile
    drain = f"{cluster.master_url}/admin/network/node-1/drain"
    assert http_request("POST", f"{cluster.master_url}/admin/network/nobody/drain").status == 404
    assert http_request("POST", drain).status == 202
    kill_part(cluster.master, COMPANION)
    wait_for(lambda: state(cluster)["draining"] == {"node-1": 0}, 90, "nothing is left")
    # Then it gets no new values, and each value is elsewhere
    key = unique()
    for _ in range(6):
        assert put(cluster, key, b"x", "overwrite=1").status == 201
        assert "node-1" not in holders(cluster, key)
    for key in values:
        assert len(holders(cluster, key) - {"node-1"}) >= (2 if key.startswith("two/") else 1)
    cluster.stop_node(0)
    network = f"{cluster.master_url}/admin/network/node-1"
    wait_for(lambda: not http_request("GET", network).data["synch"], 30, "it is noticed")
    wait_for(lambda: http_request("DELETE", f"{network}?keys=1").status in (200, 202), 30, "it is forgotten")
    wait_for(lambda: not any("node-1" in holders(cluster, key) for key in values), 30, "it holds nothing")
    for key, value in values.items():
        assert get(cluster, key).body == value
    assert state(cluster)["draining"] == {}
