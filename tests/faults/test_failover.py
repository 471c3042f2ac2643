"""A node that ends is passed over at once, long before its heartbeats are missed."""

from __future__ import annotations

import subprocess

from ops.cluster import Cluster
from tests.integration.wire import Client, good, payload
from tests.support import Clusters, unique, wait_for

# Its silence would be noticed after a minute.
SETTINGS = {"PULZAR_GENERAL_HEARTBEAT": "20", "PULZAR_GENERAL_REPLICAS": "2", "PULZAR_SERVER_CLIENT_TIMEOUT": "5"}
KEYS = 20
READS = 60
BYTES = 20_000  # too many for the master to keep


def nodes_named(cluster: Cluster, keys: list[str]) -> set[str]:
    """The nodes to which the master sends a reader of these keys."""
    with Client(cluster.master_url) as client:
        answers = [client.get(key, follow=False) for key in keys]
    assert {answer.status for answer in answers} == {307}
    targets = [answer.headers["location"] for answer in answers]
    return {node.id for node in cluster.nodes for target in targets if target.startswith(node.url)}


def test_readers_are_sent_to_the_other_holder_as_soon_as_one_is_killed(make_cluster: Clusters) -> None:
    # Given values on two nodes, to both of which readers are sent
    cluster = make_cluster(env=SETTINGS)
    folder = unique()
    values = {f"{folder}/{number}": payload(BYTES, number) for number in range(KEYS)}
    with Client(cluster.master_url) as client:
        for key, value in values.items():
            good(client.put(key, value), 201)
    first, second = (node.id for node in cluster.nodes)
    assert nodes_named(cluster, list(values)) == {first, second}
    # When one is killed, its heartbeat still counts
    cluster.kill_node(0)
    wait_for(lambda: nodes_named(cluster, list(values)) == {second}, 20, "readers that are sent to the other")
    # Then a plain client reads everything
    for number in range(READS):
        key = list(values)[number % KEYS]
        command = ["curl", "-sS", "-L", "--fail", "--retry", "1", f"{cluster.master_url}/get_key/{key}"]
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == values[key]
    with Client(cluster.master_url) as client:
        row = good(client.request("GET", f"/admin/network/{first}"))
        assert row["synch"], "its silence was noticed, so nothing was shown"
    # And it is read from again once it is back
    cluster.start_node(0)
    wait_for(lambda: nodes_named(cluster, list(values)) == {first, second}, 60, "readers that are sent to both")
