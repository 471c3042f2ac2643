"""Whether a client's connection is cut off, told from the sockets of the process that serves it."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from broker.connections import Connections


class Pair(NamedTuple):
    """A server of one connection."""

    connections: Connections
    client: socket.socket
    served: socket.socket
    environ: dict[str, Any]


@pytest.fixture(params=[("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)], ids=["IPv4", "IPv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    address, family = request.param
    # As a web server's main process does it for its workers: bound, and never listened on.
    with socket.socket(family) as reserved, socket.socket(family) as listener:
        for each in (reserved, listener):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            reserved.bind((address, 0))
        except OSError as error:
            pytest.skip(f"{address} can't be used here: {error}")
        port = reserved.getsockname()[1]
        connections = Connections()
        listener.bind((address, port))
        listener.listen()
        with socket.create_connection((address, port)) as client:
            served, _ = listener.accept()
            with served:
                yield Pair(connections, client, served, {"REMOTE_ADDR": address, "SERVER_PORT": str(port)})


def test_a_client_that_waits_for_its_answer_is_there(pair: Pair) -> None:
    assert not pair.connections.cut_off(pair.environ)
    pair.client.sendall(b"x")
    assert not pair.connections.cut_off(pair.environ)


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_ended_its_connection_is_cut_off(pair: Pair, how: str) -> None:
    if how == "half":
        pair.client.shutdown(socket.SHUT_WR)
    else:
        if how == "reset":
            pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.client.close()
    assert pair.connections.cut_off(pair.environ)
    # Looking at a socket leaves it as it was.
    if how != "reset":
        assert pair.served.recv(1) == b""


def test_another_port_or_client_does_not_matter(pair: Pair) -> None:
    pair.client.close()
    assert not pair.connections.cut_off({**pair.environ, "SERVER_PORT": "1"})
    assert not pair.connections.cut_off({**pair.environ, "REMOTE_ADDR": "192.0.2.1"})


def test_a_connection_that_is_just_being_closed_by_the_server_is_waited_for(pair: Pair) -> None:
    pair.client.close()
    closing = threading.Timer(0.05, pair.served.close)
    closing.start()
    assert not pair.connections.cut_off(pair.environ)
    closing.join()
