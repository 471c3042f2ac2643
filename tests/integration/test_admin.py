"""`/admin/…` and `/health`: what the cluster says of itself."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from broker import VERSION
from ops.cluster import Cluster
from tests.faults.tools import settle
from tests.integration.wire import Client, Closed, follow_to, good, payload, refused
from tests.support import Clusters, unique, wait_for


def test_the_status_has_the_statistics_of_lmdb(master: Client) -> None:
    good(master.put(unique(), b"value"), 201)
    data = good(master.request("GET", "/admin/status"), 200, "ok")
    for name in ("psize", "depth", "branch_pages", "leaf_pages", "overflow_pages", "entries"):
        assert isinstance(data[name], int), name
    assert data["psize"] == 4096
    assert data["depth"] >= 1
    assert data["leaf_pages"] >= 1


def test_the_status_says_more_of_the_master(master: Client) -> None:
    data = good(master.request("GET", "/admin/status"))
    assert data["version"] == VERSION
    assert data["uptime"] >= 0
    assert data["broker"] == {"connected": True, "problem": ""}
    assert data["controller"] is True
    assert data["restoring"] == []


def test_the_status_counts_keys_and_bytes(master: Client) -> None:
    def figures() -> tuple[int, int, int]:
        data = good(master.request("GET", "/admin/status"))
        return data["entries"], data["keys"], data["bytes"]

    # Lifetimes that other tests gave may end meanwhile.
    wait_for(lambda: len({figures() for _ in range(3) if not time.sleep(0.5)}) == 1, what="quiet")
    entries, keys, size = figures()
    names = [unique() for _ in range(3)]
    for name, length in zip(names, (0, 1_000, 2_000_000), strict=True):
        good(master.put(name, payload(length)), 201)
    assert figures() == (entries + 3, keys + 3, size + 2_001_000)
    good(master.put(names[1], payload(500), "?overwrite=1"), 201)
    assert figures() == (entries + 3, keys + 3, size + 2_000_500)
    for name in names:
        good(master.delete(name))
    assert figures() == (entries, keys, size)


def test_the_network_has_every_node(cluster: Cluster, master: Client) -> None:
    rows = good(master.request("GET", "/admin/network"), 200, "ok")
    assert [row["node"] for row in rows] == sorted(node.id for node in cluster.nodes)
    for row in rows:
        node = next(node for node in cluster.nodes if node.id == row["node"])
        assert row["synch"] is True
        assert row["url"] == node.url
        assert isinstance(row["percent"], int)
        df = subprocess.run(["df", "--output=pcent", node.directory], capture_output=True, text=True, check=True).stdout
        assert row["percent"] == pytest.approx(int(df.split()[1].rstrip("%")), abs=2), "what df says"
        assert 0 < row["disk_free"] <= row["disk_total"]
        assert row["version"] == VERSION
        assert 0 <= row["load"] < 1_000
        assert 0 < row["memory"] <= 100
        assert row["seq"] >= 1
        assert abs(row["last_seen"] - time.time()) < 5
        assert isinstance(row["slots"], int)
        assert "running" in row


def test_a_node_can_be_asked_for_by_its_name(cluster: Cluster, master: Client) -> None:
    for node in cluster.nodes:
        row = good(master.request("GET", f"/admin/network/{node.id}"))
        assert (row["node"], row["url"], row["synch"]) == (node.id, node.url, True)


@pytest.mark.parametrize("name", ["nobody", "node-99", "%C3%A9", "a%20b", "NODE-1", "..%2f"])
def test_an_unknown_node_is_404(master: Client, name: str) -> None:
    refused(master.request("GET", f"/admin/network/{name}"), 404)


def test_a_heartbeat_moves_what_the_network_tells(master: Client) -> None:
    def seen() -> dict[str, float]:
        return {row["node"]: row["last_seen"] for row in good(master.request("GET", "/admin/network"))}

    before = seen()
    wait_for(lambda: all(at > before[node] for node, at in seen().items()))


def test_what_can_be_brought_back_is_counted(master: Client) -> None:
    def counted() -> tuple[int, int]:
        data = good(master.request("GET", "/admin/status"))
        rows = good(master.request("GET", "/admin/network"))
        assert all(isinstance(row["held_keys"], int) for row in rows)
        return data["held_keys"], data["held_bytes"]

    # Given a key that was overwritten once
    key = unique()
    good(master.put(key, payload(700_001)), 201)
    before = counted()
    good(master.put(key, payload(5), "?overwrite=1"), 201)
    # Then its bytes are shown as held after a heartbeat
    wait_for(lambda: counted()[0] > before[0] and counted()[1] >= before[1] + 700_001)
    good(master.delete(key))


def test_the_log_of_a_node_grows_with_what_it_stores(master: Client) -> None:
    def total() -> int:
        return sum(row["seq"] for row in good(master.request("GET", "/admin/network")))

    before = total()
    for _ in range(10):
        good(master.put(unique(), b"value"), 201)
    wait_for(lambda: total() >= before + 10)


def test_health_says_that_it_is_alive_and_ready(cluster: Cluster, master: Client) -> None:
    for target in ("/health", "/health?ready=1", "/health?live=1"):
        data = good(master.request("GET", target), 200, "ok")
        assert data["live"] is True
        assert data["ready"] is True
        assert data["nodes"] == len(cluster.nodes)


def test_a_node_says_who_it_is(cluster: Cluster) -> None:
    for node in cluster.nodes:
        data = good(follow_to(f"{node.url}/autodiscovery"))
        assert data["node"] == node.id


def test_restore_refuses_what_it_does_not_understand(master: Client) -> None:
    for body in (b"", b"x", b"[]", b'{"node": 1}', b'{"nodes": "node-1"}', b'"node-1"', b"\xff"):
        refused(master.request("POST", "/internal/restore", body, {"Content-Type": "application/json"}), 400)
    refused(master.request("POST", "/internal/restore", b'{"node": "nobody"}'), 404)


def test_values_are_spread_over_both_nodes(cluster: Cluster) -> None:
    def put(number: int) -> str:
        with Client(cluster.master_url) as client:
            url: str = good(client.put(unique(), payload(number * 50)), 201)["url"]
            return url[: url.index("/get_key")]

    with ThreadPoolExecutor(8) as pool:
        nodes = Counter(pool.map(put, range(400)))
    assert set(nodes) == {node.url for node in cluster.nodes}
    assert min(nodes.values()) >= 100, nodes


def test_large_uploads_are_spread_over_both_nodes(cluster: Cluster, master: Client) -> None:
    nodes = Counter()
    for _ in range(60):
        url: str = good(master.request("GET", f"/get_node/{unique()}"))["node"]
        nodes[url[: url.index("/add_key")]] += 1
    assert set(nodes) == {node.url for node in cluster.nodes}
    assert min(nodes.values()) >= 15, nodes


def test_a_node_that_is_gone_is_out_of_synch_and_gets_nothing(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=2)
    here, gone = cluster.nodes
    with Client(cluster.master_url) as master:
        kept = {}
        for _ in range(30):
            key = unique()
            kept[key] = good(master.put(key, payload(6_000)), 201)["url"]
        cluster.stop_node(1)

        def out_of_synch() -> bool:
            row = good(master.request("GET", f"/admin/network/{gone.id}"))
            # Heartbeats that were on their way may still come in.
            return row["synch"] is False and time.time() - row["last_seen"] > 2.5

        wait_for(out_of_synch)
        health = good(master.request("GET", "/health?ready=1"))
        assert (health["ready"], health["nodes"]) == (True, 1)
        for _ in range(10):
            assert good(master.put(unique(), b"value"), 201)["url"].startswith(here.url)
            assert good(master.request("GET", f"/get_node/{unique()}"))["node"].startswith(here.url)
        for key, url in kept.items():
            answer = master.get(key)
            if url.startswith(here.url):
                assert answer.body == payload(6_000)
            else:
                refused(answer, 503)
                assert int(answer.headers["retry-after"]) >= 1
                assert master.head(key).status == 200, "the headers are in the index"

        cluster.stop_node(0)
        wait_for(lambda: master.request("GET", "/health?ready=1").status == 503)
        for answer in (master.put(unique(), b"value"), master.request("GET", f"/get_node/{unique()}")):
            refused(answer, 503)
            assert int(answer.headers["retry-after"]) >= 1
        assert "no node was heard from lately" in refused(master.request("GET", "/health"), 503)
        assert good(master.request("GET", "/health?live=1"))["ready"] is False
        refused(master.get(unique()), 404)


def test_health_is_what_a_put_would_be_from_the_first_answer_of_a_new_cluster_on(make_cluster: Clusters) -> None:
    # Given a new cluster
    cluster = make_cluster(nodes=2, start=False)
    starting = threading.Thread(target=cluster.start)
    starting.start()
    wrong: list[str] = []
    silent = 0.0
    try:
        with Client(cluster.master_url) as master:
            # When it is asked all the time
            deadline = time.monotonic() + 60
            ready = 0
            while ready < 200 and time.monotonic() < deadline:
                try:
                    health = master.request("GET", "/health")
                    status = master.put(unique(), b"value").status if health.status == 200 else 0
                except (OSError, Closed):
                    master.close()
                    time.sleep(0.01)
                    continue
                silent = silent or time.monotonic()
                ready += health.status == 200
                # Then it says that it is ready when a PUT is stored, and why when it is not
                if health.status == 200 and status != 201:
                    wrong.append(f"{health.body!r}: PUT {status}")
                elif health.status == 503 and not refused(health, 503).startswith("not ready: "):
                    wrong.append(f"{health.body!r}")
                if ready == 1:
                    assert time.monotonic() - silent < 15, "nothing has to be waited for but the nodes' start"
    finally:
        starting.join()
    assert ready == 200
    assert not wrong, wrong[:5]


def test_a_node_that_is_heard_from_is_not_forgotten(cluster: Cluster, master: Client) -> None:
    for query in ("", "?keys=1", "?keys=0"):
        assert "is heard from" in refused(master.request("DELETE", f"/admin/network/{cluster.nodes[0].id}{query}"), 409)
    assert "neither 1 nor 0" in refused(master.request("DELETE", f"/admin/network/{cluster.nodes[0].id}?keys=x"), 400)
    assert "neither 1 nor 0" in refused(master.request("GET", f"/admin/network/{cluster.nodes[0].id}?entries=x"), 400)
    refused(master.request("DELETE", "/admin/network/nobody"), 404)


def test_the_keys_of_a_node_are_counted_when_that_is_asked_for(cluster: Cluster, master: Client) -> None:
    def counted() -> int:
        rows = [good(master.request("GET", f"/admin/network/{node.id}?entries=1")) for node in cluster.nodes]
        return sum(row["entries"] for row in rows)

    wait_for(
        lambda: counted() == good(master.request("GET", "/admin/status"))["keys"], what="all keys on the two nodes"
    )
    assert "entries" not in good(master.request("GET", f"/admin/network/{cluster.nodes[0].id}"))


def test_a_node_that_is_gone_for_good_can_be_forgotten_with_or_without_its_keys(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=2)
    gone = cluster.nodes[1]
    with Client(cluster.master_url) as master:
        on_it: list[str] = []
        while len(on_it) < 5:
            key = unique()
            if good(master.put(key, payload(6_000)), 201)["url"].startswith(gone.url):
                on_it.append(key)
        cluster.stop_node(1)
        wait_for(lambda: not good(master.request("GET", f"/admin/network/{gone.id}"))["synch"])
        # When it is forgotten, its keys are still not free
        data = good(master.request("DELETE", f"/admin/network/{gone.id}"))
        assert (data["node"], data["removed"]) == (gone.id, False)
        assert data["keys"] >= 5
        wait_for(
            lambda: [row["node"] for row in good(master.request("GET", "/admin/network"))] == [cluster.nodes[0].id]
        )
        for key in on_it:
            refused(master.get(key), 503)
            refused(master.put(key, b"other"), 409)
        # When it is forgotten with its keys, these are
        data = good(master.request("DELETE", f"/admin/network/{gone.id}?keys=1"), 202)
        assert data["removed"] is True
        wait_for(lambda: master.get(on_it[0]).status == 404)
        for key in on_it:
            refused(master.get(key), 404)
            good(master.put(key, b"new"), 201)
        wait_for(
            lambda: master.request("DELETE", f"/admin/network/{gone.id}").status == 404, what="nothing of it is known"
        )
        # And when it comes back after all, what was stored since then counts
        cluster.start_node(1)
        settle(cluster)
        for key in on_it:
            assert master.get(key).body == b"new"
