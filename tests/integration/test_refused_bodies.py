"""Clients that send everything before they look for an answer: they see the refusal, not a broken connection."""

from __future__ import annotations

import socket
import time

import pytest

from ops.cluster import Cluster
from tests.integration.wire import Client, good, payload, refused, sent_first
from tests.support import Clusters, quickest, unique

MIB = 1 << 20
BODY = payload(24 * MIB)


@pytest.fixture(scope="module")
def small(make_shared_cluster: Clusters) -> Cluster:
    """A cluster with low limits."""
    return make_shared_cluster(nodes=1, env={"PULZAR_SERVER_RELAY": "2M", "PULZAR_EXTENSIONS_MAX_BODY": "1M"})


def test_a_redirect_is_seen(small: Cluster) -> None:
    for _ in range(5):
        answer = sent_first(f"{small.master_url}/add_key/{unique()}", "PUT", BODY)
        assert (answer.status, answer.headers["connection"]) == (307, "close")
        answer = sent_first(f"{small.master_url}/get_node/{unique()}", "PUT", BODY)
        assert answer.status == 307


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "add_key/a//b", 400),
        ("PUT", "add_key/k?ttl=soon", 400),
        ("POST", "launch_job/example/factorial", 400),
        ("PUT", "nothing/at/all", 404),
        ("PUT", "extension/nobody/x", 404),
        ("PUT", "get_key/k", 405),
        ("POST", "add_key/k", 405),
        ("PUT", "extension/example/x", 413),
        ("POST", "internal/restore", 413),
        ("DELETE", "delete_key/none", 404),
        ("GET", "get_key/none", 404),
        ("PUT", "admin/status", 405),
    ],
)
@pytest.mark.parametrize("size", [100_000, 24 * MIB])
def test_every_refusal_of_the_master_is_seen(small: Cluster, method: str, path: str, status: int, size: int) -> None:
    if status == 413 and size < MIB:
        pytest.skip("not too large")
    refused(sent_first(f"{small.master_url}/{path}", method, BODY[:size]), status)


def test_a_key_that_exists_and_a_condition_that_fails_are_seen(small: Cluster) -> None:
    key = unique()
    with Client(small.master_url) as master:
        good(master.put(key, b"first"), 201)
        url = f"{small.master_url}/add_key/{key}"
        for size in (100_000, 2 * MIB, 24 * MIB):
            refused(sent_first(url, "PUT", BODY[:size]), 409)
            refused(sent_first(url, "PUT", BODY[:size], {"If-None-Match": "*"}), 412)
        assert master.get(key).body == b"first"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "add_key/unsigned", 403),
        ("PUT", "add_key/a//b", 400),
        ("PUT", "nothing", 404),
        ("PUT", "health", 405),
        ("GET", "get_key/none", 404),
    ],
)
@pytest.mark.parametrize("size", [100_000, 24 * MIB])
def test_every_refusal_of_a_node_is_seen(small: Cluster, method: str, path: str, status: int, size: int) -> None:
    refused(sent_first(f"{small.nodes[0].url}/{path}", method, BODY[:size]), status)


def test_a_short_body_that_is_refused_leaves_the_connection_of_use(small: Cluster) -> None:
    with Client(small.master_url) as master:
        for _ in range(3):
            refused(master.request("PUT", "/nothing", BODY[:200_000]), 404)
        connection = master._socket
        good(master.request("GET", "/admin/network"))
        assert master._socket is connection


def test_a_refusal_does_not_wait_for_the_body(small: Cluster) -> None:
    for url, path in ((small.master_url, "/add_key/a//b"), (small.nodes[0].url, "/add_key/a//b")):
        for length in (1_000, 100_000, 10 * MIB):
            head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"

            def took(url: str = url, head: str = head) -> float:
                with Client(url) as client:
                    since = time.monotonic()
                    refused(client.raw(head.encode() + b"some", "PUT"), 400)
                    return time.monotonic() - since

            assert quickest(took, 3) < 3


def test_the_connection_is_closed_when_nothing_more_comes(small: Cluster) -> None:
    for url in (small.master_url, small.nodes[0].url):

        def took(url: str = url) -> float:
            with Client(url) as client, socket.create_connection(client.address, 20) as connection:
                client.use(connection)
                client.send(b"PUT /add_key/a//b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n\r\nsome")
                since = time.monotonic()
                head = connection.recv(65536)
                assert head.startswith(b"HTTP/1.1 400 ")
                assert b"connection: close" in head.lower()
                while connection.recv(65536):
                    continue
                seconds = time.monotonic() - since
                # It may go on for a while, and then it may not.
                assert 4 < broken_after(connection, b"more", 6.0) < 40
                return seconds

        assert quickest(took, 4) < 4, "the client is told at once that no more will be said"


def test_who_sends_for_ever_is_cut_off(small: Cluster) -> None:
    with Client(small.master_url) as client, socket.create_connection(client.address, 20) as connection:
        connection.sendall(b"PUT /add_key/a//b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000000\r\n\r\n")
        assert 25 < broken_after(connection, bytes(1000), 0.05) < 60


def broken_after(connection: socket.socket, piece: bytes, pause: float) -> float:
    """For how many seconds this piece can be sent again and again; a minute at most."""
    since = time.monotonic()
    while time.monotonic() - since < 60:
        try:
            connection.sendall(piece)
        except OSError:
            break
        time.sleep(pause)
    return time.monotonic() - since
