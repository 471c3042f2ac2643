"""kill -9, of everything, in the middle of sixteen clients that write."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ops.cluster import Cluster
from tests.faults.load import Load, check
from tests.faults.tools import COMPANION, WORKER, kill_part, settle, tracebacks, wipe_index
from tests.support import Clusters

TIMES = 2
BETWEEN = 100  # PUTs acknowledged from one kill to the next

SETTINGS = {
    "PULZAR_SERVER_WORKERS": "2",
    "PULZAR_SERVER_PUT_TIMEOUT": "5",
    "PULZAR_VOLUME_SEGMENT": "1M",
}


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster(env=SETTINGS)


def kill_node(cluster: Cluster) -> None:
    cluster.kill_node(0)
    cluster.start_node(0)


def kill_master(cluster: Cluster) -> None:
    cluster.kill_master()
    cluster.start_master()


KILLS: dict[str, Callable[[Cluster], None]] = {
    "node": kill_node,
    "agent": lambda cluster: kill_part(cluster.nodes[0].process, COMPANION),
    "data server": lambda cluster: kill_part(cluster.nodes[0].process, WORKER),
    "master": kill_master,
    "controller": lambda cluster: kill_part(cluster.master, COMPANION),
    "web worker": lambda cluster: kill_part(cluster.master, WORKER),
}


@pytest.mark.parametrize("part", KILLS)
def test_what_was_acknowledged_is_there_after_kills_of_a(part: str, cluster: Cluster) -> None:
    # Given sixteen clients that write, overwrite, delete and read
    with Load(cluster.master_url, prefix=f"killed {part}") as load:
        load.wait_stored(BETWEEN)
        # When a part of the cluster is killed several times, and started again
        for _ in range(TIMES):
            KILLS[part](cluster)
            load.wait_stored(BETWEEN)
    # Then everything is as the clients were told
    settle(cluster)
    check(load)
    # And an index filled anew from the nodes' logs says the same
    if part in ("node", "master"):
        cluster.stop_master()
        wipe_index(cluster)
        cluster.start_master()
        settle(cluster)
        check(load)
    assert not tracebacks(cluster)


def test_everything_killed_at_once_comes_back_with_all_that_was_acknowledged(cluster: Cluster) -> None:
    # Given sixteen clients that write
    with Load(cluster.master_url, prefix="killed all") as load:
        load.wait_stored(BETWEEN)
        # When the master and all nodes are killed at the same moment
        cluster.kill_master()
        cluster.kill_node(0)
        cluster.kill_node(1)
        cluster.start_node(1)
        cluster.start_node(0)
        cluster.start_master()
        load.wait_stored(BETWEEN)
    # Then everything is as the clients were told
    settle(cluster)
    check(load)


def test_a_web_worker_may_be_killed_again_and_again(cluster: Cluster) -> None:
    # Given a master
    main = cluster.master.pid
    # When the same worker's place is hit twice within a second or two
    for _ in range(4):
        kill_part(cluster.master, WORKER)
    # Then the master has not given up
    assert cluster.master.pid == main
    settle(cluster)
