"""The connections of a process, found below the web server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from broker.server import connections
from broker.server.client_socket import ClientSocket
from tests.support import wait_for


class Pair(NamedTuple):
    """A server of one connection."""

    listener: socket.socket
    client: socket.socket
    served: socket.socket

    @property
    def name(self) -> str:
        """The client, as a web server tells it."""
        address, port, *_ = self.client.getsockname()
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    address, family = request.param
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError as error:
            pytest.skip(f"{address} can't be used here: {error}")
        listener.listen()
        with socket.create_connection(listener.getsockname()[:2]) as client:
            served, _ = listener.accept()
            with served:
                yield Pair(listener, client, served)


def test_a_connection_is_found_by_its_client(pair: Pair) -> None:
    found = connections.find(pair.name)
    assert found is not None
    with found:
        assert found.getpeername() == pair.client.getsockname()
        assert found.fileno() != pair.served.fileno()
    pair.client.sendall(b"x")
    assert pair.served.recv(1) == b"x", "looking at a socket leaves it as it was"


def test_a_client_that_is_not_there_is_not_found(pair: Pair) -> None:
    address, _, port = pair.name.rpartition(":")
    assert connections.find(f"{address}:{int(port) ^ 1}") is None


def test_a_connection_can_be_cut(pair: Pair) -> None:
    found = connections.find(pair.name)
    assert found is not None
    connections.cut(found)
    assert pair.client.recv(1) == b""
    assert found.fileno() == -1


def test_what_a_client_has_received_is_told_by_the_kernel(pair: Pair) -> None:
    pair.served.sendall(b"before")
    assert pair.client.recv(6) == b"before"
    with ClientSocket(pair.name) as connection:
        wait_for(lambda: connection.received() is not None, what="a socket found")
        pair.served.sendall(b"x" * 1000)
        assert len(pair.client.recv(1000, socket.MSG_WAITALL)) == 1000
        wait_for(lambda: connection.received() >= 1000, what="1000 bytes acknowledged")  # type: ignore[operator]


def test_what_comes_in_at_a_guarded_port_is_watched_by_the_kernel(pair: Pair) -> None:
    address, port = pair.listener.getsockname()[:2]
    connections.guard(port, 7.5, 1)
    wait_for(lambda: pair.listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), what="the listener guarded")
    with contextlib.closing(socket.create_connection((address, port))):
        accepted, _ = pair.listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7500
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_new_connections_go_to_the_worker_that_comes_on_top(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listeners: list[socket.socket] = []

    def listen(port: int) -> int:
        made = socket.socket(family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        made.listen(64)
        made.setblocking(False)
        listeners.append(made)
        return int(made.getsockname()[1])

    def accepted(count: int) -> list[int]:
        """How many of some new connections each listener has."""
        clients = [socket.create_connection((host, port), 5) for _ in range(count)]
        found = [0] * len(listeners)
        for number, listener in enumerate(listeners):
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()
                    found[number] += 1
        for client in clients:
            client.close()
        return found

    port = listen(0)
    try:
        # Given two workers, which both get connections
        listen(port)
        for listener in listeners:
            connections._prefer(listener, 2)
        assert min(accepted(64)) > 0
        # When a third one comes, it alone gets new ones
        listen(port)
        assert accepted(64) == [0, 0, 64]
        # And when an old one is gone, the other two share them again
        listeners.pop(0).close()
        assert min(accepted(64)) > 0
    finally:
        for listener in listeners:
            listener.close()
