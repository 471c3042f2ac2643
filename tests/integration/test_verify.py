"""`ops/manage.py verify` and `status`, on a real cluster that is damaged in every way."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from broker import keys, topology
from broker.clock import now_us
from broker.messages.codec import encode
from broker.messages.horizon import NUMBERS
from broker.messages.store import Kind, Result, Results, Status
from ops.cluster import Cluster, Rabbit
from tests.faults.tools import settle
from tests.integration.test_manage import Managed, fill, manage
from tests.integration.wire import Client, good, payload, refused
from tests.support import Clusters, unique, wait_for


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    # Every read goes to a node
    return make_shared_cluster(env={"PULZAR_SERVER_CACHED": "0"})


@pytest.fixture
def master(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.master_url) as client:
        yield client


def run(cluster: Cluster, *arguments: str) -> Managed:
    return manage("--data", str(cluster.directory), *arguments)


def faults(cluster: Cluster, *arguments: str) -> dict[str, tuple[str, str]]:
    """What `verify` finds: by key, the kind of fault and the node."""
    done = run(cluster, "verify", "--json", *arguments)
    result = json.loads(done.output)
    found = {fault["key"]: (fault["kind"], row["node"]) for row in result["nodes"] for fault in row["faults"]}
    assert done.status == (1 if found else 0), done
    assert result["good"] is (not found)
    return found


def tell(cluster: Cluster, rabbit: Rabbit, node: str, result: Result) -> None:
    """Have the controller apply a result that no node has sent."""
    body = encode(Results(node, "", "", 0, 1, 1, False, [result]))
    rabbit.api(
        "POST",
        f"exchanges/{quote(cluster.vhost, safe='')}/amq.default/publish",
        {
            "properties": {},
            "routing_key": topology.RESULTS,
            "payload": base64.b64encode(body).decode(),
            "payload_encoding": "base64",
        },
    )


def node_of(master: Client, key: str) -> str:
    rows = good(master.request("GET", f"/keys?prefix={quote(key)}"))["keys"]
    return str(rows[0]["nodes"][0])


def directory_of(cluster: Cluster, node: str) -> Path:
    return next(known.directory for known in cluster.nodes if known.id == node)


def flip(cluster: Cluster, node: str, content: bytes) -> None:
    """Change one byte of the value with this content, on the disk of its node."""
    for path in sorted(directory_of(cluster, node).rglob("*")):
        if path.is_file() and path.parent.name != "index" and (at := path.read_bytes().find(content)) >= 0:
            with path.open("r+b") as file:
                file.seek(at + len(content) // 2)
                file.write(bytes([content[len(content) // 2] ^ 0x40]))
            return
    raise AssertionError("no file of the node has this value")


def phantom(cluster: Cluster, rabbit: Rabbit, master: Client) -> str:
    """A key that only the index has."""
    key, node = unique("phantom"), cluster.nodes[0].id
    result = Result(0, Status.DONE, "", 1, Kind.PUT, keys.encode(key), 1 << 50, 1, 0, "", b"\0" * 32, 1, None)
    tell(cluster, rabbit, node, result)
    wait_for(lambda: good(master.request("GET", f"/keys?prefix={key}"))["keys"], what="an entry without a value")
    return key


def orphan(cluster: Cluster, rabbit: Rabbit, master: Client) -> tuple[str, str]:
    """A key that only its node has, and the node: the index was told that it is deleted."""
    key = unique("orphan")
    good(master.put(key, payload(5_000)), 201)
    node = node_of(master, key)
    deletion = Result(0, Status.DONE, "", 1, Kind.DELETE, keys.encode(key), now_us() * NUMBERS, 1, 0, "", b"", 0, None)
    tell(cluster, rabbit, node, deletion)
    wait_for(lambda: master.get(key).status == 404, what="an index that does not know a value")
    return key, node


def test_a_cluster_that_is_whole_is_good(cluster: Cluster, master: Client) -> None:
    there, _ = fill(master)
    good(master.put(f"{unique()}", payload(9_000_000)), 201)
    done = run(cluster, "verify")
    assert (done.status, done.errors) == (0, "")
    for node in cluster.nodes:
        assert f"{node.id}: index is sound" in done.output
    assert "master: index is sound" in done.output
    assert "master: ledger is sound" in done.output
    assert "everything is good" in done.output
    result = json.loads(run(cluster, "verify", "--json").output)
    assert result["good"] is True
    assert sum(row["keys"] for row in result["nodes"]) == good(master.request("GET", "/admin/status"))["keys"]
    assert sum(row["bytes"] for row in result["nodes"]) == good(master.request("GET", "/admin/status"))["bytes"]
    assert len(there) <= sum(row["keys"] for row in result["nodes"])


def test_each_kind_of_fault_is_found_and_what_can_be_repaired_is(
    cluster: Cluster, rabbit: Rabbit, master: Client
) -> None:
    there, gone = fill(master)
    small, large = unique("small"), unique("large")
    bodies = {small: payload(6_000, 1), large: payload(700_000, 2)}
    for key, body in bodies.items():
        good(master.put(key, body), 201)
        flip(cluster, node_of(master, key), body)
    missing = phantom(cluster, rabbit, master)
    orphaned, owner = orphan(cluster, rabbit, master)
    wanted = {
        small: ("corrupt", node_of(master, small)),
        large: ("corrupt", node_of(master, large)),
        missing: ("missing", cluster.nodes[0].id),
        orphaned: ("orphaned", owner),
    }

    # All are found, those of one node with --node
    assert faults(cluster) == wanted
    for node in cluster.nodes:
        assert faults(cluster, "--node", node.id) == {key: of for key, of in wanted.items() if of[1] == node.id}
    done = run(cluster, "verify")
    assert done.status == 1
    assert "4 things are wrong" in done.output
    for key in wanted:
        assert key in done.output

    # What the log decides is repaired; damaged values are named
    done = run(cluster, "verify", "--repair")
    assert done.status == 1, done
    assert "2 things are wrong" in done.output
    assert "?overwrite=1" in done.output
    assert faults(cluster) == {key: wanted[key] for key in bodies}
    refused(master.get(missing), 404)
    refused(master.get(orphaned), 404)
    for key in there:
        assert master.request("GET", f"/get_key/{quote(key)}", follow=True).status == 200
    for key in gone:
        refused(master.get(key), 404)

    # And a value that is put again is good
    for key, body in bodies.items():
        good(master.put(key, body, "?overwrite=1"), 201)
    assert faults(cluster) == {}


def test_what_clients_write_and_delete_meanwhile_is_no_fault(cluster: Cluster) -> None:
    folder = unique("busy")
    over = threading.Event()
    wrong: list[Any] = []
    rounds = [0, 0]

    def use(number: int) -> None:
        with Client(cluster.master_url) as client:
            while not over.is_set():
                rounds[number] += 1
                key = f"{folder}/{number}/{rounds[number] % 40}"
                answer = client.put(key, payload(3_000 + rounds[number] % 3 * 60_000), "?overwrite=1")
                if rounds[number] % 3 == 0:
                    answer = client.delete(key)
                if answer.status not in (200, 201):
                    wrong.append(answer)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: min(rounds) > 60)
        for _ in range(3):
            assert faults(cluster) == {}
        assert min(rounds) > 100
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert faults(cluster) == {}


def test_the_route_of_the_master_says_what_it_needs(cluster: Cluster, master: Client) -> None:
    def ask(**query: object) -> str:
        return f"/internal/verify?{urlencode(query)}"

    node = cluster.nodes[0].id
    assert "node= is missing" in refused(master.request("GET", ask()), 400)
    assert "no node is called" in refused(master.request("GET", ask(node="other")), 404)
    assert "no node is called" in refused(master.request("GET", ask(node="other", files=1)), 404)
    assert "limit" in refused(master.request("GET", ask(node=node, limit=0)), 400)
    assert "after" in refused(master.request("GET", ask(node=node, after="ä")), 400)
    assert "read" in refused(master.request("GET", ask(node=node, read="yes")), 400)
    with Client(cluster.nodes[0].url) as direct:
        assert "not signed" in refused(direct.request("GET", "/internal/verify?limit=1"), 403)


def test_pages_cover_every_key_once(cluster: Cluster, master: Client) -> None:
    fill(master)
    for node in cluster.nodes:
        found, after, pages = 0, "", 0
        while after is not None:
            query = urlencode({"node": node.id, "after": after, "limit": 7, "read": 0})
            page = good(master.request("GET", f"/internal/verify?{query}"))
            assert page["keys"] <= 7
            assert page["faults"] == []
            found, after, pages = found + page["keys"], page["next"], pages + 1
        whole = good(master.request("GET", f"/internal/verify?{urlencode({'node': node.id, 'read': 0})}"))
        assert found == whole["keys"]
        assert pages > found // 7


def test_verify_of_a_node_that_is_not_there_says_which_there_are(cluster: Cluster) -> None:
    done = run(cluster, "verify", "--node", "other")
    assert (done.status, done.output) == (1, "")
    for node in cluster.nodes:
        assert node.id in done.errors


def test_status_shows_the_cluster_on_one_screen(cluster: Cluster, master: Client) -> None:
    key = unique()
    good(master.put(key, b"x"), 201)
    good(master.request("POST", "/launch_job/example/factorial", b'{"number": 3}'))
    slots = {row["node"]: row["slots"] for row in good(master.request("GET", "/admin/network"))}
    done = run(cluster, "status")
    assert (done.status, done.errors) == (0, "")
    assert done.output.startswith("all is well\n")
    figures = good(master.request("GET", "/admin/status"))
    assert f"{figures['keys']:,}" in done.output
    assert figures["version"] in done.output
    for node in cluster.nodes:
        assert re.search(rf"^{node.id} .* \d+ of {slots[node.id]} ", done.output, re.MULTILINE)
    assert len(done.output.splitlines()) < 25
    assert max(map(len, done.output.splitlines())) < 120
    state = json.loads(run(cluster, "status", "--json").output)
    assert state["warnings"] == []
    assert {row["node"] for row in state["nodes"]} == {node.id for node in cluster.nodes}
    assert sum(state["jobs"].values()) == 1


def test_status_warns_first(cluster: Cluster, master: Client) -> None:
    stopped = cluster.nodes[1]
    cluster.stop_node(1)
    try:
        wait_for(lambda: good(master.request("GET", f"/admin/network/{stopped.id}"))["synch"] is False)
        done = run(cluster, "status")
        assert done.status == 0
        assert done.output.splitlines()[0] == "warnings"
        assert f"node {stopped.id} was last heard" in done.output.splitlines()[1]
        done = run(cluster, "verify")
        assert (done.status, done.output) == (1, "")
        assert f"not heard from lately: {stopped.id}" in done.errors
    finally:
        cluster.start_node(1)
        settle(cluster)
