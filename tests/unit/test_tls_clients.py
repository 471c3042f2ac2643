"""One GET to a master, a node or RabbitMQ's console."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from broker import tls


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that gives one answer, and what it was asked."""
    asked: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(65536))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        thread.join(30)


def test_status_and_body_come_back_and_a_login_goes_out() -> None:
    with answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nabcdef") as (url, asked):
        assert tls.get(url, "/a?b=c", 30, tls.trust(""), login="Basic eA==", most=4) == (403, b"abcd")
    assert asked[0].startswith(b"GET /a?b=c HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Basic eA==\r\n" in asked[0]


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", b"HTTP/1.1 200 OK\r\n" * 200],
)
def test_what_is_no_whole_response_is_a_broken_connection(answer: bytes) -> None:
    with answering(answer) as (url, _), pytest.raises(ConnectionError):
        tls.get(url, "/", 30, tls.trust(""))


def test_nobody_and_no_address_are_told_apart() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(ConnectionRefusedError):
        tls.get(url, "/", 30, tls.trust(""))
    with pytest.raises(ValueError, match="no http or https address"):
        tls.get("ftp://127.0.0.1", "/", 30, tls.trust(""))
