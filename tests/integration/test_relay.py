"""Large values that the master passes on to a node, and those it does not: what each client sees."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import psutil
import pytest

from ops.cluster import Cluster
from ops.cluster.network import answers
from tests.integration.wire import INLINE, Client, follow_to, good, payload, refused, sent_first
from tests.support import Clusters, unique, wait_for

MIB = 1 << 20
RELAY = 8 * MIB


@pytest.fixture(scope="module")
def small(make_shared_cluster: Clusters) -> Cluster:
    """A cluster whose master passes on values of up to `RELAY` bytes."""
    return make_shared_cluster(nodes=2, env={"PULZAR_SERVER_RELAY": str(RELAY)})


def staged(cluster: Cluster) -> list[Path]:
    return [path for node in cluster.nodes for path in (node.directory / "staging").iterdir()]


@pytest.mark.parametrize("size", [INLINE + 1, 3 * MIB, 24 * MIB])
def test_a_large_value_that_is_sent_without_waiting_is_stored_without_a_redirect(
    cluster: Cluster, master: Client, size: int
) -> None:
    key, value = unique("a.bin"), payload(size)
    answer = sent_first(f"{cluster.master_url}/add_key/{key}", "PUT", value, {"Content-Type": "image/x-mine"})
    data = good(answer, 201, "key added")
    assert any(data == {"url": f"{node.url}/get_key/{key}"} for node in cluster.nodes)
    digest = hashlib.sha256(value).hexdigest()
    assert answer.headers["etag"] == f'"{digest}"'
    got = master.get(key)
    assert (got.body, got.headers["content-type"], got.headers["etag"]) == (value, "image/x-mine", f'"{digest}"')
    assert staged(cluster) == []


def test_lifetime_overwrite_checksum_and_conditions_count_for_what_is_passed_on(master: Client) -> None:
    key, first, second = unique(), payload(2 * MIB), payload(2 * MIB, seed=2)
    target = f"/add_key/{key}"
    answer = master.request("PUT", f"{target}?ttl=1h", first)
    good(answer, 201)
    row = good(master.request("GET", f"/keys?prefix={key}"))["keys"][0]
    assert row["expires"] - row["created"] == pytest.approx(3600, abs=5)
    refused(master.request("PUT", target, second), 409)
    refused(master.request("PUT", target, second, {"If-None-Match": "*"}), 412)
    refused(master.request("PUT", target, second, {"If-Match": '"0000"'}), 412)
    refused(master.request("PUT", f"{target}?overwrite=1", second, {"X-Checksum-Sha256": "00" * 32}), 400)
    assert master.get(key).body == first
    good(master.request("PUT", target, second, {"If-Match": answer.headers["etag"]}), 201)
    assert master.get(key).body == second
    good(master.request("PUT", f"{target}?overwrite=1", first), 201)
    assert master.get(key).body == first


def test_a_chunked_put_on_get_node_is_passed_on(master: Client) -> None:
    for size in (0, 20_000, 3 * MIB):
        key, value = unique(), payload(size)
        pieces = (value[at : at + 50_000] for at in range(0, size, 50_000))
        good(master.request("PUT", f"/get_node/{key}", pieces), 201, "key added")
        assert master.get(key).body == value


def test_a_chunked_put_on_get_node_that_waits_to_be_told_is_sent_on(master: Client) -> None:
    key = unique()
    answer = master.request("PUT", f"/get_node/{key}", [b"value"], {"Expect": "100-continue"})
    assert answer.status == 307
    good(follow_to(answer.headers["location"], "PUT", [b"value"]), 201)
    assert master.get(key).body == b"value"


@pytest.mark.parametrize("headers", [{}, {"Expect": "100-continue"}], ids=["sends", "waits"])
def test_beyond_the_limit_the_client_is_sent_to_a_node(small: Cluster, headers: dict[str, str]) -> None:
    key, value = unique(), payload(RELAY + 1)
    with Client(small.master_url) as master:
        answer = master.request("PUT", f"/add_key/{key}", value, headers)
        assert answer.status == 307
        assert answer.json["status"] == "ko"
        assert "nothing is stored yet" in answer.json["msg"]
        assert answer.json["data"] == {"node": answer.headers["location"]}
        refused(master.get(key), 404)
        good(follow_to(answer.headers["location"], "PUT", value, headers), 201)
        assert master.get(key).body == value


@pytest.mark.parametrize("agent", ["axios/1.21.1", "got (https://github.com/sindresorhus/got)"])
@pytest.mark.parametrize("route", ["add_key", "get_node"])
def test_a_client_that_would_store_something_else_is_never_sent_elsewhere(
    small: Cluster, agent: str, route: str
) -> None:
    key, value = unique(), payload(RELAY + 1)
    url = f"{small.master_url}/{route}/{key}"
    good(sent_first(url, "PUT", value, {"User-Agent": agent}), 201)
    with Client(small.master_url) as master:
        assert master.get(key).body == value


@pytest.mark.parametrize(
    ("key", "size", "status"), [("k", 3 * MIB, 201), ("k", RELAY + 1, 307), ("a//b", 10, 400), ("a//b", 3 * MIB, 400)]
)
def test_a_client_that_must_be_asked_for_its_body_is(small: Cluster, key: str, size: int, status: int) -> None:
    """Java's HttpClient waits for ever when another answer with a body comes first."""
    key = unique(key)
    for url in (small.master_url, small.nodes[0].url) if status == 400 else (small.master_url,):
        with Client(url) as client:
            agent = "Expect: 100-continue\r\nUser-Agent: Java-http-client/17.0.15"
            head = f"PUT /add_key/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n{agent}\r\n\r\n"
            assert client.raw(head.encode(), "PUT").status == 100
            assert client.raw(payload(size), "PUT").status == status


def test_what_waits_to_be_told_is_sent_to_a_node_above_the_inline_limit(master: Client) -> None:
    key = unique()
    answer = master.request("PUT", f"/add_key/{key}", payload(INLINE + 1), {"Expect": "100-continue"})
    assert answer.status == 307
    refused(master.get(key), 404)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("route", ["add_key", "get_node"])
def test_a_large_value_of_a_key_that_exists_is_refused_before_it_is_sent(
    master: Client, cluster: Cluster, route: str, waits: bool
) -> None:
    key = unique()
    good(master.put(key, b"first"), 201)
    head = f"PUT /{route}/{key} HTTP/1.1\r\nHost: {master.host}\r\nContent-Length: {50 * MIB}\r\n"
    with Client(cluster.master_url) as client:
        refused(client.raw(f"{head}{'Expect: 100-continue' if waits else 'X: y'}\r\n\r\n".encode(), "PUT"), 409)
    with Client(cluster.master_url) as client:
        refused(client.raw(f"{head}If-None-Match: *\r\n\r\n".encode(), "PUT"), 412)
    refused(master.request("GET", f"/get_node/{key}"), 409)
    refused(master.request("GET", f"/get_node/{key}", headers={"If-Match": '"0000"'}), 412)
    good(master.request("GET", f"/get_node/{key}?overwrite=1"))


def test_a_client_that_stops_halfway_leaves_nothing(cluster: Cluster, master: Client) -> None:
    for how in ("closes", "resets", "says the end"):
        key = unique()
        with Client(cluster.master_url) as client:
            head = f"PUT /add_key/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {5 * MIB}\r\n\r\n"
            client.send(head.encode() + payload(2 * MIB))
            wait_for(lambda: staged(cluster), what="the upload begun")
            {"closes": client.close, "resets": client.reset, "says the end": client.finish_sending}[how]()
            if how == "says the end":
                refused(client.receive("PUT"), 400)
        wait_for(lambda: not staged(cluster), what="the upload removed")
        refused(master.get(key), 404)


def test_a_node_that_dies_meanwhile_is_a_503_and_nothing_is_stored(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=1)
    key = unique()
    with Client(cluster.master_url) as client:
        client.send(
            f"PUT /add_key/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {5 * MIB}\r\n\r\n".encode()
            + payload(2 * MIB)
        )
        wait_for(lambda: staged(cluster), what="the upload begun")
        cluster.nodes[0].process.kill()
        client.send(payload(3 * MIB))
        answer = client.receive("PUT")
        refused(answer, 503)
        assert answer.headers["retry-after"]


def test_another_node_takes_what_one_can_not_be_reached_for(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=2)
    node = cluster.nodes[0]
    node.process.kill()  # for some seconds it counts as heard from
    wait_for(lambda: not answers(node.host, node.port), what="its data server to end")
    with Client(cluster.master_url) as client:
        for number in range(8):
            key, value = unique(), payload(2 * MIB, number)
            good(client.request("PUT", f"/add_key/{key}", value), 201)
            assert client.get(key).body == value


def test_a_node_that_stands_still_costs_one_request_its_time_and_others_nothing(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=2, env={"PULZAR_SERVER_PUT_TIMEOUT": "2"})
    frozen = max(
        (
            child
            for child in psutil.Process(cluster.nodes[0].process.pid).children()
            if "node.agent" not in child.cmdline()
        ),
        key=lambda child: child.memory_info().rss,
    )
    frozen.suspend()
    try:
        with Client(cluster.master_url) as client:
            statuses = []
            for number in range(10):
                since = time.monotonic()
                statuses.append(client.request("PUT", f"/add_key/{unique()}", payload(2 * MIB, number)).status)
                assert time.monotonic() - since < 20
    finally:
        frozen.resume()
    assert set(statuses) <= {201, 503}
    assert statuses.count(503) <= 1


def test_memory_stays_flat_while_a_value_of_unknown_length_is_passed_on(cluster: Cluster, master: Client) -> None:
    workers = psutil.Process(cluster.master.pid).children(recursive=True)
    before = sum(child.memory_info().rss for child in workers)
    block, key = payload(MIB), unique()
    highest = 0

    def blocks() -> object:
        nonlocal highest
        for _ in range(150):
            yield block
            highest = max(highest, sum(child.memory_info().rss for child in workers))

    good(master.request("PUT", f"/add_key/{key}", blocks()), 201)  # type: ignore[arg-type]
    assert highest - before < 30 * MIB


def test_many_slow_uploads_hold_nobody_up(cluster: Cluster, master: Client) -> None:
    """The clients' own fault: six of them, each past the inline limit, stopped every upload once."""
    slow = [Client(cluster.master_url) for _ in range(40)]
    try:
        for number, client in enumerate(slow):
            head = f"PUT /add_key/{unique()} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.send(head.encode() + b"%x\r\n" % (4 * MIB) + payload(INLINE + 100_000, number))
        wait_for(lambda: len(staged(cluster)) == len(slow), what="all uploads begun")
        for size in (1_000, 500_000, 3 * MIB):
            key, value = unique(), payload(size)
            since = time.monotonic()
            good(master.request("PUT", f"/add_key/{key}", value), 201)
            good(master.request("PUT", f"/add_key/{unique()}", [value]), 201)
            assert master.get(key).body == value
            good(master.request("GET", "/admin/network"))
            assert time.monotonic() - since < 40
    finally:
        for client in slow:
            client.close()
    wait_for(lambda: not staged(cluster), what="the uploads removed")
