"""A new node fills up, although the controller is killed while values move to it."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from ops.cluster import Cluster
from tests.faults.test_full import small_disk
from tests.faults.test_history import whole
from tests.faults.tools import COMPANION, kill_part
from tests.integration.test_replicas import body, having, holders
from tests.support import Clusters, get, http_request, put, unique, wait_for

DISK_BYTES = 96 << 20
VALUE_BYTES = 300_000
VALUES = 100
POINTS = 10  # a difference that is left alone
ENV = {
    "PULZAR_GENERAL_REBALANCE": "True",
    "PULZAR_GENERAL_REPAIR_AFTER": "3",
    "PULZAR_VOLUME_RESERVE": "2M",
    "PULZAR_VOLUME_SEGMENT": "1M",
}


def kept(cluster: Cluster, values: dict[str, bytes]) -> dict[str, int]:
    """Bytes of these values by node, as the index says."""
    found = {node.id: 0 for node in cluster.nodes}
    for key, value in values.items():
        for name in holders(cluster, key):
            found[name] += len(value)
    return found


def points(cluster: Cluster, values: dict[str, bytes]) -> float:
    """How many points the fullest node is ahead of the emptiest one."""
    shares = [100 * size / DISK_BYTES for size in kept(cluster, values).values()]
    return max(shares) - min(shares)


def test_values_move_to_a_new_node_and_none_is_lost_or_left_twice(make_cluster: Clusters) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small filesystem can only be mounted by root")
    cluster = make_cluster(nodes=2, env=ENV, start=False)
    with ExitStack() as stack:
        for node in cluster.nodes:
            stack.enter_context(small_disk(node.directory, DISK_BYTES))
        # Given a node with values, and a new one beside it
        cluster.start()
        stack.callback(cluster.stop)
        cluster.stop_node(1)
        second = cluster.nodes[1].id
        folder = unique()
        values = {f"{folder}/{number}": body(f"{folder}/{number}", VALUE_BYTES) for number in range(VALUES)}
        for key, value in values.items():
            wait_for(lambda key=key, value=value: put(cluster, key, value, "overwrite=1").status == 201)  # type: ignore[misc]
        assert kept(cluster, values)[second] == 0
        assert points(cluster, values) > 2 * POINTS
        # When it is heard from, and the controller is killed once values move
        cluster.start_node(1)
        wait_for(lambda: kept(cluster, values)[second] > 0, 90, "the first values on the new node", pause=0.2)
        kill_part(cluster.master, COMPANION)
        # Then it goes on until both are about as full as each other, and stops there
        wait_for(lambda: points(cluster, values) <= POINTS, 90, "nodes that are about as full", pause=0.5)

        def calm() -> bool:
            repair = http_request("GET", f"{cluster.master_url}/admin/status").data["repair"]
            return whole(repair) and not repair["move"]

        wait_for(calm, 90, "no more moves", pause=0.5)
        # And each value is on one node, as the index says and as the nodes say
        for key, value in values.items():
            assert len(holders(cluster, key)) == 1
            assert get(cluster, key).body == value
        wait_for(lambda: all(having(cluster, key) == holders(cluster, key) for key in values), 90, "no copy left", 0.5)
