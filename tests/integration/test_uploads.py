"""Uploads in all their forms: of unknown length, checked by a digest, sent straight to a node with a signed address."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
import requests

from broker import settings
from broker.http import signing
from ops.cluster import Cluster
from tests.integration.wire import (
    INLINE,
    Answer,
    Client,
    a_commit,
    curl,
    follow_to,
    good,
    payload,
    refused,
    sent_on,
    target_of,
)
from tests.support import Clusters, unique, wait_for

LARGE = INLINE + 1


def secret_of(cluster: Cluster) -> bytes:
    """What the cluster signs its addresses with."""
    return settings.load(environ={"PULZAR_GENERAL_SECRET": cluster.secret}).secret()


def staged(cluster: Cluster) -> list[Path]:
    """Uploads on their way, or left over."""
    return [path for node in cluster.nodes for path in (node.directory / "staging").iterdir()]


def chunks(value: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(value), size):
        yield value[start : start + size]


# Of unknown length


@pytest.mark.parametrize("size", [1, 5_000, 200_000, INLINE, INLINE + 1, 5_000_000])
@pytest.mark.parametrize("chunk", [777, 65536])
def test_a_chunked_body_of_unknown_length_is_stored_whatever_its_size(master: Client, size: int, chunk: int) -> None:
    if size // chunk > 3_000:
        chunk = 1 << 20
    key, value = unique(), payload(size)
    good(master.put(key, chunks(value, chunk)), 201, "key added")
    assert master.get(key).body == value
    # The connection goes on, and a second value is refused like any other.
    refused(master.put(key, chunks(b"other", 2)), 409)
    assert master.get(key).body == value


def test_an_empty_chunked_body_is_a_value_of_no_bytes(master: Client) -> None:
    key = unique()
    good(master.put(key, iter(())), 201)
    assert master.head(key).headers["content-length"] == "0"


@pytest.mark.parametrize("size", [5_000, 5_000_000])
def test_python_requests_puts_from_a_generator(cluster: Cluster, size: int) -> None:
    key, value = unique(), payload(size)
    answer = requests.put(f"{cluster.master_url}/add_key/{key}", data=chunks(value, 10_000), timeout=30)
    assert (answer.status_code, answer.json()["msg"]) == (201, "key added")
    assert requests.get(f"{cluster.master_url}/get_key/{key}", timeout=30).content == value


@pytest.mark.parametrize("size", [0, 5_000, 5_000_000])
@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"])
def test_curl_puts_from_standard_input(cluster: Cluster, size: int, expect: str) -> None:
    key, value = unique(), payload(size)
    url = f"{cluster.master_url}/add_key/{key}"
    done = curl("-X", "PUT", "-L", "-T", "-", "-H", expect, url, given=value)
    assert (done.status, json.loads(done.body)["msg"]) == (201, "key added")
    assert curl("-L", f"{cluster.master_url}/get_key/{key}").body == value


def test_what_a_chunked_body_says_of_itself_is_kept_when_it_turns_out_large(master: Client) -> None:
    key, value = unique("a.png"), payload(2_000_000)
    headers = {"Content-Type": "text/mine", "X-Checksum-Sha256": hashlib.sha256(value).hexdigest()}
    good(master.put(key, chunks(value, 65536), "?ttl=1h", headers), 201)
    answer = master.get(key)
    assert (answer.body, answer.headers["content-type"]) == (value, "text/mine")
    row = good(master.request("GET", f"/keys?prefix={key}"))["keys"][0]
    assert row["expires"] - row["created"] == pytest.approx(3600, abs=5)


def test_a_large_chunked_body_that_fails_its_checksum_is_not_stored(master: Client) -> None:
    key = unique()
    headers = {"X-Checksum-Sha256": "00" * 32}
    refused(master.put(key, chunks(payload(2_000_000), 65536), headers=headers), 400)
    refused(master.get(key), 404)


# Expect: 100-continue


class Counting(threading.Thread):
    """Stands in front of a server and counts the bytes that come for it."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.received = 0

    def __enter__(self) -> Counting:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def run(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._address)
            threading.Thread(target=self._pass_on, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, False), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        try:
            while data := source.recv(65536):
                self.received += len(data) if count else 0
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


def test_curl_sends_a_large_file_once_and_never_to_the_master(cluster: Cluster, tmp_path: Path) -> None:
    file, key = tmp_path / "file", unique()
    file.write_bytes(payload(20_000_000))
    with Counting(Client(cluster.master_url).address) as front:
        done = curl("-X", "PUT", "-L", "-T", str(file), f"{front.url}/add_key/{key}")
    assert (done.status, done.redirects) == (201, 1)
    assert front.received < 2_000, "the head of one request"
    assert curl("-L", f"{cluster.master_url}/get_key/{key}").body == payload(20_000_000)


def test_who_waits_to_be_told_is_asked_for_a_small_body(master: Client) -> None:
    key = unique()
    head = f"PUT /add_key/{key} HTTP/1.1\r\nHost: {master.host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    assert master.raw(head.encode(), "PUT").status == 100
    good(master.raw(b"value", "PUT"), 201)
    assert master.get(key).body == b"value"


def test_who_waits_to_be_told_sends_nothing_when_the_key_is_bad(master: Client) -> None:
    head = f"PUT /add_key/a//b HTTP/1.1\r\nHost: {master.host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    refused(master.raw(head.encode(), "PUT"), 400)


# Digests


def md5(value: bytes) -> str:
    return base64.b64encode(hashlib.md5(value).digest()).decode()


def sha256(value: bytes) -> str:
    return hashlib.sha256(value).hexdigest()


@pytest.mark.parametrize("size", [0, 1_000, LARGE])
def test_a_right_digest_is_accepted(master: Client, size: int) -> None:
    value = payload(size)
    for headers in (
        {"Content-MD5": md5(value)},
        {"X-Checksum-Sha256": sha256(value)},
        {"X-Checksum-Sha256": sha256(value).upper()},
        {"Content-MD5": md5(value), "X-Checksum-Sha256": sha256(value)},
    ):
        key = unique()
        good(master.put(key, value, headers=headers), 201)
        assert master.get(key).body == value


@pytest.mark.parametrize("size", [1_000, LARGE])
def test_a_wrong_digest_is_refused_and_nothing_is_stored(cluster: Cluster, master: Client, size: int) -> None:
    value, other = payload(size), payload(size, seed=2)
    for headers in (
        {"Content-MD5": md5(other)},
        {"X-Checksum-Sha256": sha256(other)},
        {"Content-MD5": md5(value), "X-Checksum-Sha256": sha256(other)},
        {"Content-MD5": md5(other), "X-Checksum-Sha256": sha256(value)},
    ):
        key = unique()
        refused(master.put(key, value, headers=headers), 400)
        refused(master.get(key), 404)
        good(master.put(key, value), 201)
    wait_for(lambda: not staged(cluster), what="refused uploads removed from the staging directories")


@pytest.mark.parametrize("size", [1_000, LARGE])
def test_a_wrong_digest_does_not_harm_the_value_that_is_there(master: Client, size: int) -> None:
    key = unique()
    good(master.put(key, b"first"), 201)
    refused(master.put(key, payload(size), "?overwrite=1", {"Content-MD5": md5(b"other")}), 400)
    assert master.get(key).body == b"first"


@pytest.mark.parametrize("size", [1_000, LARGE])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-MD5": ""},
        {"Content-MD5": "x"},
        {"Content-MD5": base64.b64encode(b"too short").decode()},
        {"Content-MD5": base64.b64encode(bytes(17)).decode()},
        {"Content-MD5": "!" * 24},
        {"X-Checksum-Sha256": ""},
        {"X-Checksum-Sha256": "0" * 63},
        {"X-Checksum-Sha256": "0" * 65},
        {"X-Checksum-Sha256": "g" * 64},
        {"X-Checksum-Sha256": "sha256:" + "0" * 64},
    ],
)
def test_a_digest_that_is_none_is_refused_and_nothing_is_stored(
    master: Client, size: int, headers: dict[str, str]
) -> None:
    key = unique()
    assert next(iter(headers)).lower() in refused(master.put(key, payload(size), headers=headers), 400).lower()
    refused(master.get(key), 404)


# Straight to a node


def address_for(cluster: Cluster, master: Client, key: str, query: str = "") -> str:
    """The node's address for an upload of the key, as the API says it must look."""
    data = good(master.request("GET", f"/get_node/{quote(key)}{query}"), 200, "ok")
    assert set(data) == {"node"}
    url: str = data["node"]
    own = urlsplit(cluster.master_url).netloc
    assert any(url.startswith(f"{node.url}/add_key/{quote(key)}?url={own}") for node in cluster.nodes), url
    return url


@pytest.mark.parametrize("size", [0, 1_000, 100_000, LARGE])
def test_a_client_that_asks_first_puts_straight_to_the_node(cluster: Cluster, master: Client, size: int) -> None:
    key, value = unique("folder/name.json"), payload(size)
    url = address_for(cluster, master, key)
    refused(master.get(key), 404)
    answer = follow_to(url, "PUT", value, {"Expect": "100-continue"} if size > INLINE else {})
    node = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    assert good(answer, 201, "key added") == {"url": f"{node}/get_key/{key}"}
    got = master.get(key)
    assert (got.body, got.headers["content-type"]) == (value, "application/json")
    assert got.headers["etag"] == answer.headers["etag"]


def test_a_put_on_get_node_is_sent_to_that_address(cluster: Cluster, master: Client) -> None:
    key = unique("a b/100%.txt")
    location = sent_on(master.request("PUT", f"/get_node/{quote(key)}", b"value"))
    own = urlsplit(cluster.master_url).netloc
    assert any(location.startswith(f"{node.url}/add_key/") for node in cluster.nodes)
    assert f"?url={own}" in location
    good(follow_to(location, "PUT", b"value"), 201)
    assert master.get(key).body == b"value"


def test_curl_follows_get_node(cluster: Cluster, tmp_path: Path) -> None:
    key, file = unique(), tmp_path / "file"
    file.write_bytes(payload(LARGE))
    assert curl("-X", "PUT", "-L", "-T", str(file), f"{cluster.master_url}/get_node/{key}").status == 201
    assert curl("-L", f"{cluster.master_url}/get_key/{key}").body == payload(LARGE)


def test_a_lifetime_given_to_get_node_counts_for_the_upload(cluster: Cluster, master: Client) -> None:
    for query, seconds in (("?temporal=3", 3 * 86400), ("?ttl=90s", 90)):
        key = unique()
        began = time.time()
        good(follow_to(address_for(cluster, master, key, query), "PUT", b"value"), 201)
        row = good(master.request("GET", f"/keys?prefix={key}"))["keys"][0]
        assert began + seconds - 0.1 <= row["expires"] <= time.time() + seconds + 0.1


@pytest.mark.parametrize("query", ["?temporal=0", "?ttl=soon", "?overwrite=perhaps"])
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_get_node_refuses_bad_parameters(master: Client, method: str, query: str) -> None:
    refused(master.request(method, f"/get_node/{unique()}{query}"), 400)


def test_get_node_refuses_bad_keys(master: Client) -> None:
    for path in ("a//b", "a/../b", "a%00b", "%C3%A9", "x" * 384):
        refused(master.request("GET", f"/get_node/{path}"), 400)


def test_a_direct_upload_replaces_only_when_that_was_asked_for(cluster: Cluster, master: Client) -> None:
    key = unique()
    good(master.put(key, b"first"), 201)
    refused(master.request("GET", f"/get_node/{key}"), 409)
    free = unique()
    address = address_for(cluster, master, free)
    good(master.put(free, b"first"), 201)
    refused(follow_to(address, "PUT", b"second"), 409)
    assert master.get(free).body == b"first"
    assert master.get(key).body == b"first"
    good(follow_to(address_for(cluster, master, key, "?overwrite=1"), "PUT", b"third"), 201)
    assert master.get(key).body == b"third"
    wait_for(lambda: not staged(cluster), what="the refused upload removed")


@pytest.mark.parametrize("kind", ["matches", "differs", "any", "absent", "new"])
def test_conditions_count_for_a_direct_upload(cluster: Cluster, master: Client, kind: str) -> None:
    key, value = unique(), payload(LARGE)
    exists = kind != "new"
    etag = master.put(key, b"first").headers["etag"] if exists else ""
    name, condition, status = {
        "matches": ("If-Match", etag, 201),
        "differs": ("If-Match", '"0000"', 412),
        "any": ("If-Match", "*", 201),
        "absent": ("If-None-Match", "*", 412),
        "new": ("If-None-Match", "*", 201),
    }[kind]
    answer = master.put(key, value, headers={name: condition})
    assert answer.status == status
    assert master.get(key).body == (value if status == 201 else b"first")


def test_a_header_at_the_node_does_not_widen_what_its_address_allows(cluster: Cluster, master: Client) -> None:
    key = unique()
    plain = address_for(cluster, master, key)
    etag = master.put(key, b"first").headers["etag"]
    for condition in ("*", etag):
        refused(follow_to(plain, "PUT", b"second", {"If-Match": condition}), 409)
    refused(follow_to(address_for(cluster, master, key, "?overwrite=1"), "PUT", b"x", {"If-Match": '"x"'}), 412)
    assert master.get(key).body == b"first"
    good(follow_to(address_for(cluster, master, key, "?overwrite=1"), "PUT", b"second", {"If-Match": etag}), 201)
    assert master.get(key).body == b"second"


@pytest.mark.parametrize("target", ["PUT /add_key", "PUT /get_node", "GET /get_node"])
def test_an_if_match_given_to_the_master_counts_at_the_node_whatever_is_said_there(master: Client, target: str) -> None:
    key, value = unique(), payload(LARGE)
    etag = master.put(key, b"first").headers["etag"]
    method, _, path = target.partition(" ")

    def asked(condition: str) -> Answer:
        headers = {"If-Match": condition} | ({"Expect": "100-continue"} if method == "PUT" else {})
        return master.request(method, f"{path}/{key}", value if method == "PUT" else b"", headers)

    def address(condition: str) -> str:
        answer = asked(condition)
        return sent_on(answer) if method == "PUT" else str(good(answer)["node"])

    assert '"x"' in refused(asked('"x"'), 412)
    first, stale = address(etag), address(etag)
    refused(follow_to(first, "PUT", value, {"If-Match": '"x"'}), 412)
    assert master.get(key).body == b"first"
    good(follow_to(first, "PUT", value), 201)
    assert master.get(key).body == value
    for headers in ({}, {"If-Match": "*"}):
        assert etag in refused(follow_to(stale, "PUT", value, headers), 412)
    good(follow_to(address("*"), "PUT", value, {"If-Match": "*"}), 201)


def test_an_if_match_that_is_too_long_for_an_address_is_refused(master: Client) -> None:
    key = unique()
    etag = master.put(key, b"first").headers["etag"]
    headers = {"If-Match": f"{etag}," * 100, "Expect": "100-continue"}
    refused(master.request("PUT", f"/add_key/{key}", payload(LARGE), headers), 400)


def test_an_address_is_for_a_body_of_the_length_that_was_told(cluster: Cluster, master: Client) -> None:
    key, value = unique(), payload(LARGE)
    for target in ("add_key", "get_node"):
        answer = master.request("PUT", f"/{target}/{key}", value, {"Expect": "100-continue"})
        location = answer.headers["location"]
        assert f"&size={LARGE}&" in location
        for other in (value[:-1], value + b"x", b"", iter([value[:-1]])):
            assert str(LARGE) in refused(follow_to(location, "PUT", other), 400)
        refused(follow_to(location.replace(f"size={LARGE}", "size=1"), "PUT", b"x"), 403)
    refused(master.get(key), 404)
    wait_for(lambda: not staged(cluster), what="refused uploads removed from the staging directories")
    good(follow_to(location, "PUT", iter([value])), 201)
    # Who did not say how long it is may send anything.
    for asked in ("GET", "PUT"):
        head = f"{asked} /get_node/{unique()} HTTP/1.1\r\nHost: {master.host}\r\n\r\n"
        answer = master.raw(head.encode(), asked)
        good(follow_to(answer.json["data"]["node"], "PUT", value), 201)


def test_a_node_accepts_no_upload_that_its_master_did_not_send(cluster: Cluster, master: Client) -> None:
    own = urlsplit(cluster.master_url).netloc
    for node in cluster.nodes:
        for query in ("", f"?url={own}", f"?url={own}&signature=0&expires=9999999999"):
            key = unique()
            refused(follow_to(f"{node.url}/add_key/{key}{query}", "PUT", b"value"), 403)
            refused(master.get(key), 404)


def forged(url: str) -> dict[str, str]:
    """The address, changed in every way that matters."""
    parts = urlsplit(url)
    fields = dict(parse_qsl(parts.query))

    def changed(path: str = parts.path, **given: str) -> str:
        kept = {name: value for name, value in {**fields, **given}.items() if value}
        # The signature stays the last, where it belongs.
        kept = {name: value for name, value in kept.items() if name != "signature"} | {
            "signature": kept.get("signature", "")
        }
        return parts._replace(path=path, query=urlencode(kept)).geturl()

    urls = {
        "key": changed(path=parts.path + "x"),
        "master": changed(url="127.0.0.1:9"),
        "lifetime added": changed(life="1000000"),
        "overwrite added": changed(overwrite="1"),
    }
    for name in set(fields) - {"url"}:
        urls[f"{name} removed"] = changed(**{name: ""})
        urls[f"{name} changed"] = changed(**{name: fields[name][:-1] + ("1" if fields[name][-1] == "0" else "0")})
    return urls


def test_a_changed_address_is_refused_by_the_node(cluster: Cluster, master: Client) -> None:
    key = unique()
    url = address_for(cluster, master, key)
    for what, changed in forged(url).items():
        assert changed != url
        answer = follow_to(changed, "PUT", b"value")
        assert answer.status == 403, what
        refused(answer, 403)
    refused(master.get(key), 404)
    refused(master.get(f"{key}x"), 404)
    good(follow_to(url, "PUT", b"value"), 201)


def test_a_changed_lifetime_or_overwrite_is_refused_by_the_node(cluster: Cluster, master: Client) -> None:
    key = unique()
    good(master.put(key, b"first"), 201)
    for what, changed in forged(address_for(cluster, master, key, "?overwrite=1&ttl=1h")).items():
        if what not in ("lifetime added", "overwrite added"):
            assert follow_to(changed, "PUT", b"value").status == 403, what
    assert master.get(key).body == b"first"


def test_an_address_that_is_too_old_is_refused_by_the_node(cluster: Cluster, master: Client) -> None:
    key = unique()
    own = urlsplit(cluster.master_url).netloc
    for age, status in ((-1, 403), (-3600, 403), (60, 201)):
        query = signing.sign(
            secret_of(cluster), "PUT", key, {"url": own, "node": cluster.nodes[0].id}, int(time.time()) + age
        )
        answer = follow_to(f"{cluster.nodes[0].url}/add_key/{key}?{query}", "PUT", b"value")
        assert answer.status == status, age
    assert master.get(key).body == b"value"


def test_an_address_signed_by_another_cluster_is_refused_by_the_node(cluster: Cluster) -> None:
    key = unique()
    own = urlsplit(cluster.master_url).netloc
    query = signing.sign(
        b"another secret", "PUT", key, {"url": own, "node": cluster.nodes[0].id}, int(time.time()) + 60
    )
    refused(follow_to(f"{cluster.nodes[0].url}/add_key/{key}?{query}", "PUT", b"value"), 403)


def test_an_address_of_one_node_is_refused_by_another_and_by_the_master(make_cluster: Clusters) -> None:
    cluster = make_cluster(nodes=2, env={"PULZAR_VOLUME_OPEN_READS": "False"})
    key, value = unique(), payload(2_000_000)
    with Client(cluster.master_url) as master:
        # An upload
        place = good(master.request("GET", f"/get_node/{key}"))["node"]
        by_url = {node.url: node for node in cluster.nodes}
        right, other = sorted(by_url, key=lambda url: not place.startswith(url))
        refused_at = place.replace(right, other, 1)
        assert "for the node" in refused(follow_to(refused_at, "PUT", value), 403)
        assert master.get(key).status == 404
        # A node that has it all the same does not get it committed
        commit = a_commit(by_url[other].id)
        signature = {"X-Pulzar-Signature": signing.sign_body(secret_of(cluster), commit)}
        path = f"/internal/commit/{key}?{urlsplit(place).query}"
        assert "took the body" in refused(master.request("POST", path, commit, signature), 403)
        assert master.get(key).status == 404
        good(follow_to(place, "PUT", value), 201)
        # A read
        location = master.get(key, follow=False).headers["location"]
        assert location.startswith(right)
        assert "for the node" in refused(follow_to(location.replace(right, other, 1)), 403)
        assert follow_to(location).body == value


def test_a_reader_who_comes_back_too_late_gets_on(make_cluster: Clusters) -> None:
    cluster, key, value = (
        make_cluster(nodes=1, env={"PULZAR_VOLUME_OPEN_READS": "False"}),
        unique("a b.txt"),
        payload(100_000),
    )
    with Client(cluster.master_url) as master:
        good(master.put(key, value), 201)
        location = master.get(key, follow=False).headers["location"]
        fields = dict(parse_qsl(urlsplit(location).query))
        assert fields["url"] == urlsplit(cluster.master_url).netloc
    query = signing.sign(
        secret_of(cluster), "GET", key, {"url": fields["url"], "node": fields["node"]}, int(time.time()) - 1
    )
    late = f"{cluster.nodes[0].url}/get_key/{quote(key)}?{query}"
    for headers, status, body in (({}, 200, value), ({"Range": "bytes=5-"}, 206, value[5:])):
        got = requests.get(late, headers=headers, timeout=30)
        assert ([answer.status_code for answer in got.history], got.status_code) == ([307, 307], status)
        assert got.content == body
    assert curl("-L", "-I", late).status == 200
    refused(follow_to(f"{cluster.nodes[0].url}/get_key/{quote(key)}"), 403)


def test_an_address_for_reading_can_not_be_used_for_writing(cluster: Cluster, master: Client) -> None:
    key = unique()
    good(master.put(key, payload(100_000)), 201)
    reading = master.get(key, follow=False).headers["location"]
    refused(follow_to(reading.replace("/get_key/", "/add_key/"), "PUT", b"value"), 403)


def test_the_commit_of_an_upload_is_for_nodes_alone(cluster: Cluster, master: Client) -> None:
    key = unique()
    query = urlsplit(address_for(cluster, master, key)).query
    body = a_commit(cluster.nodes[0].id)
    for headers in ({}, {"X-Pulzar-Signature": "0" * 64}):
        for target in (f"/internal/commit/{key}?{query}", f"/internal/commit/{key}"):
            refused(master.request("POST", target, body, headers), 403)
    refused(master.get(key), 404)


def test_an_upload_of_which_the_client_stops_halfway_leaves_nothing(cluster: Cluster, master: Client) -> None:
    for size, sent in ((1_000_000, 400_000), (3_000_000, 2_900_000)):
        key = unique()
        url = address_for(cluster, master, key)
        with Client(url) as node:
            head = f"PUT {target_of(url)} HTTP/1.1\r\nHost: {node.host}\r\nContent-Length: {size}\r\n\r\n"
            node.send(head.encode() + payload(sent))
            wait_for(lambda: staged(cluster), what="the upload begun")
        wait_for(lambda: not staged(cluster), what="the upload removed")
        refused(master.get(key), 404)
        good(follow_to(url, "PUT", b"again"), 201)
        assert master.get(key).body == b"again"


def test_a_chunked_upload_of_which_the_client_stops_halfway_leaves_nothing(cluster: Cluster, master: Client) -> None:
    key = unique()
    url = address_for(cluster, master, key)
    with Client(url) as node:
        head = f"PUT {target_of(url)} HTTP/1.1\r\nHost: {node.host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        node.send(head.encode() + b"%x\r\n%s\r\n" % (300_000, payload(300_000)))
        wait_for(lambda: staged(cluster), what="the upload begun")
    wait_for(lambda: not staged(cluster), what="the upload removed")
    refused(master.get(key), 404)


def test_many_large_uploads_at_once_all_arrive(cluster: Cluster) -> None:
    answers: dict[str, Answer] = {}
    keys = [unique() for _ in range(8)]

    def upload(number: int) -> None:
        with Client(cluster.master_url) as client:
            answers[keys[number]] = client.put(keys[number], payload(2_000_000, number))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Client(cluster.master_url) as client:
        for number, key in enumerate(keys):
            good(answers[key], 201)
            assert client.get(key).body == payload(2_000_000, number)


def test_curl_goes_on_with_a_download_where_it_stopped(cluster: Cluster, master: Client, tmp_path: Path) -> None:
    key, file = unique(), tmp_path / "file"
    good(master.put(key, payload(3_000_000)), 201)
    file.write_bytes(payload(3_000_000)[:1_234_567])
    subprocess.run(
        ["curl", "-sS", "-L", "-C", "-", "-o", str(file), f"{cluster.master_url}/get_key/{key}"], check=True, timeout=30
    )
    assert file.read_bytes() == payload(3_000_000)
