"""Deletions while the node with the value is away."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

from ops.cluster import Cluster
from tests.faults.load import FILE_BYTES, LARGE_BYTES, Client, check_usable
from tests.faults.test_copies import put_on, statuses
from tests.faults.tools import settle, wait_silent, wipe_index
from tests.support import ROOT, Clusters


def restore(cluster: Cluster, *more: str) -> None:
    """`ops/manage.py --restore`, as a person does it."""
    command = [sys.executable, "ops/manage.py", "--data", str(cluster.directory), "--restore", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_deleted_while_its_node_is_away_never_comes_back(make_cluster: Clusters) -> None:
    cluster = make_cluster(env={"PULZAR_SERVER_PUT_TIMEOUT": "2"})
    # Given keys on a node, small ones and large ones
    values = put_on(cluster, 0, "away/small", 6) | put_on(cluster, 0, "away/file", 2, FILE_BYTES)
    values |= put_on(cluster, 0, "away/large", 1, LARGE_BYTES)
    kept = put_on(cluster, 0, "away/kept", 3)
    settle(cluster)
    # When they are deleted while that node is down: some before the master knows that it is, some after
    cluster.kill_node(0)
    with closing(Client(cluster.master_url)) as client:
        for number, key in enumerate(values):
            if number == 3:
                wait_silent(cluster, cluster.nodes[0])
            answer = client.delete(key)
            # Then that is done
            assert answer.status == 200, answer
    assert statuses(cluster, values) == {404}
    # And they stay away when the node comes back
    cluster.start_node(0)
    settle(cluster)
    assert statuses(cluster, values) == {404}
    assert statuses(cluster, kept) == {200}
    # And when the index is filled anew
    cluster.stop_master()
    wipe_index(cluster)
    cluster.start_master()
    settle(cluster)
    assert statuses(cluster, values) == {404}
    assert statuses(cluster, kept) == {200}
    # And after a restore of their node
    restore(cluster, cluster.nodes[0].url)
    settle(cluster)
    assert statuses(cluster, values) == {404}
    assert statuses(cluster, kept) == {200}
    # And such a key can be stored again
    with closing(Client(cluster.master_url)) as client:
        for key in list(values)[::2]:
            kept[key] = values.pop(key)
            assert client.put(key, kept[key]).status == 201
    # And all that holds after a restore of all nodes
    restore(cluster)
    settle(cluster)
    assert statuses(cluster, values) == {404}
    assert statuses(cluster, kept) == {200}
    check_usable(cluster.master_url, "away/usable")
