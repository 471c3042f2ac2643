"""Values on several nodes: written, read, overwritten, deleted; with a node that is away, damaged or empty."""

from __future__ import annotations

import hashlib
import http.client
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests

from broker import settings
from broker.http import internal_addresses
from ops.cluster import Cluster
from tests.faults.test_rot import flip
from tests.support import Answer, Clusters, delete, get, http_request, put, unique, wait_for

SMALL, FILE, LARGE = 1_000, 200_000, 3 << 20  # in the log, in a file of its own, too large for the master
ENV = {"PULZAR_GENERAL_REPLICAS": "1, two/: 2, three/: 3", "PULZAR_SERVER_CACHED": "0"}


@pytest.fixture(scope="module")
def cluster(make_shared_cluster: Clusters) -> Cluster:
    return make_shared_cluster(nodes=3, env=ENV)


def body(key: str, size: int) -> bytes:
    return hashlib.shake_128(key.encode()).digest(size)


def row(cluster: Cluster, key: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = http_request("GET", f"{cluster.master_url}/keys?prefix={quote(key)}").data["keys"]
    return next(row for row in rows if row["key"] == key)


def holders(cluster: Cluster, key: str) -> set[str]:
    return set(row(cluster, key)["nodes"])


def told(cluster: Cluster, node: str) -> dict[str, Any]:
    """What a node says of itself."""
    found: dict[str, Any] = http_request("GET", f"{cluster.master_url}/admin/network/{node}").data
    return found


def at_node(cluster: Cluster, node: str, key: str) -> Answer:
    url = next(each.url for each in cluster.nodes if each.id == node)
    return http_request("GET", f"{url}/get_key/{quote(key)}")


def having(cluster: Cluster, key: str) -> set[str]:
    """The nodes that have a value for the key, whatever the index says."""
    return {node.id for node in cluster.nodes if at_node(cluster, node.id, key).status == 200}


@pytest.mark.parametrize("size", [SMALL, FILE, LARGE])
def test_201_means_that_the_value_is_on_all_its_nodes(cluster: Cluster, size: int) -> None:
    for folder, number in (("two/", 2), ("three/", 3), ("", 1)):
        key = folder + unique()
        value = body(key, size)
        answer = put(cluster, key, value)
        assert answer.status == 201, answer.msg
        found = holders(cluster, key)
        assert len(found) == number
        assert having(cluster, key) == found
        for node in found:
            read = at_node(cluster, node, key)
            assert (read.body, read.headers["ETag"]) == (value, answer.headers["ETag"])
        assert get(cluster, key).body == value


def test_the_request_may_say_on_how_many_nodes(cluster: Cluster) -> None:
    for size in (SMALL, LARGE):
        key = unique()
        assert put(cluster, key, body(key, size), "replicas=2").status == 201
        assert len(holders(cluster, key)) == 2
    for wrong in ("0", "9", "x"):
        assert put(cluster, unique(), b"x", f"replicas={wrong}").status == 400
    refused = put(cluster, unique(), b"x", "replicas=4")
    assert (refused.status, "it takes 4 nodes, and 3 can take it" in refused.msg) == (503, True)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_overwrites_copies_moves_and_deletions_reach_every_node(cluster: Cluster, size: int) -> None:
    key, other, third = ("two/" + unique(name) for name in "abc")
    assert put(cluster, key, body(key, size)).status == 201
    before = holders(cluster, key)
    assert put(cluster, key, body(other, size), "overwrite=1").status == 201
    after = holders(cluster, key)
    # A large value may begin at any node; the others with the old one come first.
    assert after == before if size == SMALL else len(after) == 2 and after & before
    assert {at_node(cluster, node, key).body for node in after} == {body(other, size)}
    copied = http_request("POST", f"{cluster.master_url}/copy/{key}?to={other}")
    assert copied.status == 201, copied.msg
    assert len(holders(cluster, other)) == 2
    moved = http_request("POST", f"{cluster.master_url}/move/{other}?to={third}")
    assert moved.status == 201, moved.msg
    assert {at_node(cluster, node, third).body for node in holders(cluster, third)} == {body(other, size)}
    wait_for(lambda: not having(cluster, other), what="the source of the move is gone everywhere")
    assert delete(cluster, key).status == 200
    assert get(cluster, key).status == 404
    # A node with the value before that one hears a minute later: a client may have been on its way to it.
    wait_for(lambda: not having(cluster, key) & after, what="the key is gone from its nodes")
    undeleted = http_request("POST", f"{cluster.master_url}/undelete/{key}")
    assert undeleted.status == 201, undeleted.msg
    assert len(holders(cluster, key)) == 2


def test_the_archive_the_page_and_a_lifetime_know_values_on_several_nodes(cluster: Cluster) -> None:
    key = "two/" + unique()
    assert put(cluster, key, body(key, FILE)).status == 201
    archive = http_request("GET", f"{cluster.master_url}/archive/{key.rpartition('/')[0]}/?format=tar")
    assert body(key, FILE) in archive.body
    renewed = http_request("POST", f"{cluster.master_url}/lifetime/{key}?ttl=7d")
    assert renewed.status == 200, renewed.msg
    assert len(holders(cluster, key)) == 2
    shown = http_request("GET", f"{cluster.master_url}/ui/keys/show?key={quote(key)}")
    for node in holders(cluster, key):
        assert node.encode() in shown.body


@pytest.mark.parametrize(("size", "at"), [(SMALL, 500), (FILE, 70_000), (LARGE, 5)])
def test_a_damaged_copy_is_passed_over(cluster: Cluster, size: int, at: int) -> None:
    key = "two/" + unique()
    value = body(key, size)
    assert put(cluster, key, value).status == 201
    bad = next(node for node in cluster.nodes if node.id in holders(cluster, key))
    flip(bad.directory, value, at)
    healed = told(cluster, bad.id)["healed"]
    assert at_node(cluster, bad.id, key).status == 500
    for _ in range(12):
        read = get(cluster, key)
        assert (read.status, read.body == value) == (200, True)
    # And the reader's node gets a good copy, by itself
    wait_for(lambda: at_node(cluster, bad.id, key).body == value, what="a good copy")
    wait_for(lambda: told(cluster, bad.id)["healed"] > healed, what="the node to say so")
    assert told(cluster, bad.id)["damaged"] == 0


def test_a_value_file_that_was_cut_is_replaced_and_one_with_a_single_holder_stays_damaged(cluster: Cluster) -> None:
    two, one = "two/" + unique(), unique()
    for key in (two, one):
        assert put(cluster, key, body(key, LARGE)).status == 201
        bad = next(node for node in cluster.nodes if node.id in holders(cluster, key))
        file = flip(bad.directory, body(key, LARGE), 10)
        with file.open("r+b") as opened:
            opened.truncate(file.stat().st_size - 500)
        assert at_node(cluster, bad.id, key).status == 500
    (alone,) = holders(cluster, one)
    wait_for(lambda: all(at_node(cluster, node, two).body == body(two, LARGE) for node in holders(cluster, two)))
    wait_for(lambda: told(cluster, alone)["damaged"] == 1, what="its node to say so")
    assert get(cluster, one).status == 500
    # Until it is put again
    assert put(cluster, one, b"new", "overwrite=1").status == 201
    wait_for(lambda: told(cluster, alone)["damaged"] == 0, what="nothing to be damaged")


class Upload:
    """A PUT whose body comes slowly, straight to the node where the master sends it."""

    def __init__(self, cluster: Cluster, key: str, size: int) -> None:
        self.cluster = cluster
        self.value = body(key, size)
        url = urlsplit(http_request("GET", f"{cluster.master_url}/get_node/{key}").data["node"])
        self.node = next(node.id for node in cluster.nodes if urlsplit(node.url).netloc == url.netloc)
        self.also = [text.partition("@")[0] for text in parse_qs(url.query)["also"][0].split()]
        self.connection = http.client.HTTPConnection(url.netloc, timeout=60)
        self.connection.putrequest("PUT", f"{url.path}?{url.query}")
        self.connection.putheader("Content-Length", str(size))
        self.connection.endheaders()
        self.sent = 0

    def send(self, count: int | None = None) -> None:
        stop = len(self.value) if count is None else self.sent + count
        self.connection.send(self.value[self.sent : stop])
        self.sent = stop

    def answer(self) -> int:
        return self.connection.getresponse().status

    def wait_on(self, nodes: Iterable[str], size: int) -> None:
        wait_for(lambda: all(sum(staged(self.cluster, node)) >= size for node in nodes), what="bytes at each node")


def staged(cluster: Cluster, node: str) -> list[int]:
    """The sizes of the uploads at a node."""
    directory = next(each.directory for each in cluster.nodes if each.id == node)
    return [file.stat().st_size for file in (directory / "staging").iterdir()]


def nothing_staged(cluster: Cluster) -> bool:
    return not any(staged(cluster, node.id) for node in cluster.nodes)


class TestAnUploadIsSentOnWhileItComesIn:
    def test_all_its_nodes_have_what_has_come_and_at_its_end_all_of_it(self, cluster: Cluster) -> None:
        key = "three/" + unique()
        upload = Upload(cluster, key, LARGE)
        assert len(upload.also) == 2
        upload.send(LARGE * 2 // 3)
        upload.wait_on([upload.node, *upload.also], LARGE // 3)
        upload.send()
        assert upload.answer() == 201
        assert holders(cluster, key) == {upload.node, *upload.also} == having(cluster, key)
        assert {at_node(cluster, node, key).body for node in holders(cluster, key)} == {upload.value}
        assert nothing_staged(cluster)

    def test_a_body_of_unknown_length_goes_the_same_way(self, cluster: Cluster) -> None:
        key = "two/" + unique()
        value = body(key, LARGE)
        pieces = (value[start : start + 100_000] for start in range(0, LARGE, 100_000))
        assert requests.put(f"{cluster.master_url}/add_key/{key}", data=pieces, timeout=60).status_code == 201
        assert {at_node(cluster, node, key).body for node in holders(cluster, key)} == {value}
        assert len(holders(cluster, key)) == 2
        assert nothing_staged(cluster)

    def test_of_one_that_breaks_off_nothing_stays_anywhere(self, cluster: Cluster) -> None:
        key = "three/" + unique()
        upload = Upload(cluster, key, LARGE)
        upload.send(LARGE // 2)
        upload.wait_on([upload.node, *upload.also], LARGE // 4)
        upload.connection.close()
        wait_for(lambda: nothing_staged(cluster), what="no bytes of it anywhere")
        assert get(cluster, key).status == 404

    def test_of_one_that_is_refused_at_its_end_nothing_stays_anywhere(self, cluster: Cluster) -> None:
        key = "two/" + unique()
        upload = Upload(cluster, key, LARGE)
        upload.send(LARGE // 2)
        assert put(cluster, key, b"somebody was quicker").status == 201
        upload.send()
        assert upload.answer() == 409
        assert nothing_staged(cluster)
        assert get(cluster, key).body == b"somebody was quicker"

    def test_a_node_that_is_killed_meanwhile_is_replaced_by_another(self, cluster: Cluster) -> None:
        key = "two/" + unique()
        upload = Upload(cluster, key, LARGE)
        upload.send(LARGE // 2)
        upload.wait_on([upload.node, *upload.also], LARGE // 4)
        (killed,) = upload.also
        number = next(number for number, node in enumerate(cluster.nodes) if node.id == killed)
        cluster.kill_node(number)
        try:
            upload.send()
            assert upload.answer() == 201
            assert holders(cluster, key) == {node.id for node in cluster.nodes} - {killed}
            assert {at_node(cluster, node, key).body for node in holders(cluster, key)} == {upload.value}
        finally:
            cluster.start_node(number)
            cluster.wait_healthy()

    def test_nobody_else_stages_anything(self, cluster: Cluster) -> None:
        node = cluster.nodes[0]
        secret = settings.load(environ={"PULZAR_GENERAL_SECRET": cluster.secret}).secret()

        def ask(method: str, fields: dict[str, str], at: str = node.id, sent: str | None = None) -> int:
            target = internal_addresses.make(secret, internal_addresses.STAGED, fields, at, method=method)
            return http_request(sent or method, node.url + target, b"four").status

        token = "ab" * 16
        file = node.directory / "staging" / token
        assert http_request("POST", f"{node.url}{internal_addresses.STAGED}?token={token}", b"four").status == 403
        assert ask("POST", {"token": token, "size": "4"}, at="node-2") == 403
        assert ask("GET", {"token": token, "size": "4"}, sent="POST") == 403
        assert ask("POST", {"token": "../x", "size": "4"}) == 400
        assert ask("POST", {"token": token, "size": "5"}) == 400
        assert ask("POST", {"token": token, "size": "x"}) == 400
        assert not file.exists()
        assert ask("POST", {"token": token, "size": "4"}) == 201
        assert file.exists()
        assert [ask("DELETE", {"token": token}) for _ in range(2)] == [200, 200]
        assert not file.exists()


def _refuses(cluster: Cluster) -> bool:
    """Whether a value that is to be on three nodes is refused at once."""
    return "it takes 3 nodes, and 2 can take it" in put(cluster, "three/" + unique(), b"probe").msg


class TestWithANodeAway:
    """Each test has a cluster of its own."""

    @pytest.fixture
    def cluster(self, make_cluster: Clusters) -> Cluster:
        return make_cluster(nodes=3, env=ENV | {"PULZAR_GENERAL_MIN_REPLICAS": "0"})

    def test_values_are_read_and_written_while_a_holder_is_away_and_an_old_one_never_comes_back(
        self, cluster: Cluster
    ) -> None:
        kept, changed, deleted = ("two/" + unique(name) for name in ("kept", "changed", "deleted"))
        for key in (kept, changed, deleted):
            assert put(cluster, key, body(key, SMALL), "replicas=3").status == 201
        # When one holder is killed
        cluster.kill_node(0)
        wait_for(_out_of_synch(cluster, "node-1"), what="it is noticed")
        # Then all values can be read, changed and deleted
        for key in (kept, changed, deleted):
            for _ in range(6):
                assert get(cluster, key).body == body(key, SMALL)
        assert put(cluster, changed, b"new", "overwrite=1").status == 201
        assert delete(cluster, deleted).status == 200
        # When it is back with what it had
        cluster.start_node(0)
        cluster.wait_healthy()
        # Then the new value counts, and the deleted one stays away, also from that node
        assert holders(cluster, changed) == {"node-2", "node-3"}
        for _ in range(6):
            assert get(cluster, changed).body == b"new"
            assert get(cluster, deleted).status == 404
        wait_for(lambda: "node-1" not in having(cluster, deleted), what="it has heard of the deletion")
        # And when the index is lost and filled again from all logs
        cluster.kill_master()
        shutil.rmtree(Path(cluster.master_directory) / "index")
        cluster.start_master()
        cluster.wait_healthy()
        assert get(cluster, changed).body == b"new"
        assert get(cluster, deleted).status == 404
        assert holders(cluster, kept) == {"node-1", "node-2", "node-3"}
        assert get(cluster, kept).body == body(kept, SMALL)

    def test_with_too_few_nodes_a_put_is_503_and_stores_nothing(self, cluster: Cluster) -> None:
        cluster.kill_node(0)
        wait_for(_out_of_synch(cluster, "node-1"), what="it is noticed")
        # Web workers count it as away a little later, each by itself.
        wait_for(lambda: all(_refuses(cluster) for _ in range(5)), what="every web worker to notice")
        key = "three/" + unique()
        for size in (SMALL, LARGE):
            refused = put(cluster, key, body(key, size))
            assert refused.status == 503
            assert "it takes 3 nodes, and 2 can take it" in refused.msg
            assert get(cluster, key).status == 404
        assert put(cluster, "two/" + unique(), b"x").status == 201

    def test_a_wiped_node_leaves_its_values_to_the_other_holders(self, cluster: Cluster) -> None:
        keys = ["two/" + unique(str(number)) for number in range(30)]
        for key in keys:
            assert put(cluster, key, body(key, SMALL)).status == 201
        held = {key for key in keys if "node-1" in holders(cluster, key)}
        assert held
        cluster.kill_node(0)
        shutil.rmtree(cluster.nodes[0].directory)
        cluster.start_node(0)
        cluster.wait_healthy()
        wait_for(lambda: all("node-1" not in holders(cluster, key) for key in keys), what="it holds nothing")
        for key in keys:
            assert get(cluster, key).body == body(key, SMALL)


def _out_of_synch(cluster: Cluster, node: str) -> Callable[[], bool]:
    """Whether all web workers have noticed that a node is away, as far as many looks can tell."""

    def noticed() -> bool:
        rows = http_request("GET", f"{cluster.master_url}/admin/network").data
        return next(not row["synch"] for row in rows if row["node"] == node)

    return lambda: all(noticed() for _ in range(20))
