"""Clients that stall, drip or say nothing: each costs itself, nobody else."""

from __future__ import annotations

import contextlib
import resource
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ops.cluster import Cluster
from tests.integration.wire import INLINE, Client, follow_to, good, payload, refused, target_of
from tests.support import Clusters, unique, wait_for

MIB = 1 << 20
IDLE = 1.5  # seconds
RATE = 20_000  # bytes per second
LENGTH = "Content-Length: 300000"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def hasty(make_shared_cluster: Clusters) -> Cluster:
    """A cluster that gives clients little time, with few threads of each kind."""
    settings = {
        "PULZAR_SERVER_CLIENT_TIMEOUT": str(IDLE),
        "PULZAR_SERVER_CLIENT_RATE": str(RATE),
        "PULZAR_SERVER_THREADS": "2",
        "PULZAR_VOLUME_THREADS": "2",
    }
    return make_shared_cluster(nodes=1, env=settings)


@pytest.fixture(scope="module")
def narrow(make_shared_cluster: Clusters) -> Cluster:
    """A cluster with few threads of each kind, and the usual patience."""
    return make_shared_cluster(nodes=1, env={"PULZAR_SERVER_THREADS": "2", "PULZAR_VOLUME_THREADS": "2"})


def node_url(cluster: Cluster, key: str) -> str:
    """Where to PUT a key directly."""
    with Client(cluster.master_url) as master:
        url: str = good(master.request("GET", f"/get_node/{key}"))["node"]
    return url


ROUTES = [
    "PUT /add_key/{}",
    "POST /launch_job/example/factorial",
    "PUT /extension/example/x",
    "POST /internal/restore",
    "node",
]


def begun(cluster: Cluster, route: str, framing: str = LENGTH, body: bytes = b"") -> Client:
    """A client that has sent this much of a request."""
    url = cluster.master_url
    if route == "node":
        url = node_url(cluster, unique())
        route = "PUT " + target_of(url)
    client = Client(url)
    client.send(f"{route.format(unique())} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode() + body)
    return client


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (LENGTH, b""),
        (LENGTH, b"some"),
        ("Content-Length: 9", b"some"),
        (CHUNKED, b"4\r\nsome\r\n"),
        (CHUNKED, b"4\r\nso"),
    ],
)
def test_who_stalls_in_the_body_is_told_so(hasty: Cluster, route: str, framing: str, body: bytes) -> None:
    with begun(hasty, route, framing, body) as client:
        since = time.monotonic()
        answer = client.receive("PUT")
        assert "too long" in refused(answer, 408)
        assert answer.headers["connection"] == "close"
        assert IDLE * 0.8 < time.monotonic() - since < IDLE * 20


@pytest.mark.parametrize("route", ["PUT /add_key/{}", "node"])
def test_who_sends_too_slowly_is_told_so(hasty: Cluster, route: str) -> None:
    with begun(hasty, route, "Content-Length: 30000000") as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.receive, "PUT")
        since = time.monotonic()
        while not answer.done() and time.monotonic() - since < 30:
            client.send(bytes(100))  # never idle for long
            time.sleep(0.1)
        refused(answer.result(), 408)
        assert time.monotonic() - since < 30
    wait_for(lambda: not list((hasty.nodes[0].directory / "staging").iterdir()), what="the upload removed")


def test_who_is_slow_but_not_too_slow_is_waited_for(hasty: Cluster) -> None:
    key, value = unique(), payload(200_000)
    with Client(hasty.master_url) as client:

        def pieces() -> Iterator[bytes]:
            for at in range(0, len(value), 4_000):
                yield value[at : at + 4_000]
                time.sleep(0.08)

        since = time.monotonic()
        good(client.request("PUT", f"/add_key/{key}", pieces()), 201)
        assert time.monotonic() - since > 2 * IDLE
        assert client.get(key).body == value


def test_the_time_counts_in_which_the_client_is_waited_for(hasty: Cluster) -> None:
    """An upload that a node's disk or a master keeps waiting is not the client's fault."""
    with Client(hasty.master_url) as client:
        value = payload(20 * MIB)
        good(client.request("PUT", f"/add_key/{unique()}", value), 201)


def test_who_takes_an_answer_too_slowly_is_cut_off(hasty: Cluster) -> None:
    key, value = unique(), payload(40 * MIB)
    with Client(hasty.master_url) as client:
        good(client.put(key, value), 201)
        address = client.get(key, follow=False).headers["location"]
    for pause, count in ((0.0, 0), (0.1, 500)):  # one that takes nothing, one that drips
        with Client(address) as slow, socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(20)
            connection.connect(slow.address)
            connection.sendall(f"GET {target_of(address)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            since, taken = time.monotonic(), 0
            with contextlib.suppress(ConnectionResetError):
                while time.monotonic() - since < IDLE * 5:
                    if count and not (piece := connection.recv(count)):
                        break
                    taken += len(piece) if count else 0
                    time.sleep(pause or 0.1)
                connection.settimeout(5)
                while piece := connection.recv(MIB):
                    taken += len(piece)
            assert taken < len(value) - 10 * MIB, "the rest never came"


def idle(cluster: Cluster, kind: str) -> Client:
    """A client that does nothing more."""
    if kind == "reader":
        client = Client(cluster.nodes[0].url)
        client.send(f"GET /get_key/{LARGE_KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        return client
    if kind == "silent":
        client = Client(cluster.master_url)
        client.send(b"GET /health HTT")
        return client
    return begun(cluster, kind, CHUNKED if kind != "PUT /add_key/{}" else "Content-Length: 5000000", b"")


LARGE_KEY = "tests/slow/large"
KINDS = [*ROUTES, "reader", "silent"]


@pytest.mark.parametrize("kind", KINDS)
def test_clients_that_do_nothing_hold_nobody_up(narrow: Cluster, kind: str) -> None:
    """More of them than there are threads, and than there were once."""
    with Client(narrow.master_url) as master:
        if kind == "reader" and master.get(LARGE_KEY, follow=False).status == 404:
            good(master.put(LARGE_KEY, payload(30 * MIB)), 201)
    with contextlib.ExitStack() as stack:
        for _ in range(80):
            stack.enter_context(idle(narrow, kind))
        everything_works(narrow)


def everything_works(cluster: Cluster) -> None:
    with Client(cluster.master_url, timeout=30) as master, Client(cluster.nodes[0].url, timeout=30) as node:
        for size in (10, 300_000, INLINE + 1):
            key, value = unique(), payload(size)
            address = good(master.put(key, value), 201)["url"]
            good(master.put(unique(), [value]), 201)
            assert master.get(key).body == value
            assert follow_to(address).body == value
            good(master.delete(key))
        for path in ("/health", "/keys", "/admin/network", "/admin/jobs", "/extension/example/x"):
            good(master.request("GET", path))
        good(node.request("GET", "/health"))
        good(master.request("POST", "/launch_job/example/factorial", b'{"number": 3}'))


@pytest.mark.timeout(300)
def test_thousands_of_idle_connections_hold_nobody_up(cluster: Cluster) -> None:
    """With the settings that everybody has: 1,024 stopped a master or a node once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with contextlib.ExitStack() as stack:
            for url in (cluster.master_url, cluster.nodes[0].url):
                client = Client(url)
                for number in range(3_000):
                    connection = stack.enter_context(socket.create_connection(client.address, 10))
                    if number % 2:
                        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            everything_works(cluster)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
