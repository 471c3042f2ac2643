"""The HTTP client of ops, against a server that redirects and one that responds too early."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ops import http_client


class Handler(BaseHTTPRequestHandler):
    """`/N` redirects N times; the end tells how the body came."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        chunked = self.headers["Transfer-Encoding"] == "chunked"
        body = b"".join(self._chunks()) if chunked else self.rfile.read(int(self.headers["Content-Length"] or 0))
        number = int(self.path[1:])
        self.send_response(307 if number else 200)
        if number:
            self.send_header("Location", f"/{number - 1}")
        text = json.dumps({"data": {"bytes": len(body), "chunked": chunked, "host": self.headers["Host"]}}).encode()
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_follows_every_redirect(server: str, chunked: bool) -> None:
    reply = http_client.ask("PUT", f"http://{server}/2", b"x" * 600_000, redirects=2, chunked=chunked)
    assert (reply.status, reply.data) == (200, {"bytes": 600_000, "chunked": chunked, "host": server})
    assert reply.hosts == (server,) * 3


def test_without_redirects_the_redirect_itself_is_the_reply(server: str) -> None:
    reply = http_client.ask("PUT", f"http://{server}/1", b"x")
    assert (reply.status, reply.headers["Location"]) == (307, "/0")


def test_more_redirects_than_it_may_follow_are_an_error(server: str) -> None:
    with pytest.raises(http_client.TooManyRedirects, match="more than 2 redirects"):
        http_client.ask("PUT", f"http://{server}/3", b"x", redirects=2)


def test_a_connection_goes_where_it_is_told_to(server: str) -> None:
    reply = http_client.ask("PUT", "http://a.example/0", connect=lambda netloc: http.client.HTTPConnection(server))
    assert reply.data["host"] == "a.example"


def test_a_response_before_the_body_was_read_is_the_reply() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def respond() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 413 Too large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nnever")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(1 << 16):
                    pass

        thread = threading.Thread(target=respond)
        thread.start()
        reply = http_client.ask("PUT", f"http://127.0.0.1:{listening.getsockname()[1]}/0", b"x" * (8 << 20), timeout=20)
        thread.join()
    assert (reply.status, reply.body) == (413, b"never")


class Elsewhere(BaseHTTPRequestHandler):
    """Tells the Authorization that it got; `/to/HOST` redirects there."""

    def do_GET(self) -> None:
        onward = self.path.removeprefix("/to/") if self.path.startswith("/to/") else ""
        text = json.dumps({"data": self.headers["Authorization"]}).encode()
        self.send_response(307 if onward else 200)
        if onward:
            self.send_header("Location", f"http://{onward}/")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_token_of_the_environment_goes_to_the_first_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            there = f"127.0.0.1:{server.server_port}"
            assert http_client.ask("GET", f"http://{there}/").data is None
            monkeypatch.setenv("PULZAR_TOKEN", "pz_x_y")
            own = {"Authorization": "Basic x"}
            assert http_client.ask("GET", f"http://{there}/").data == "Bearer pz_x_y"
            assert http_client.ask("GET", f"http://{there}/", headers=own).data == "Basic x"
            assert http_client.ask("GET", f"http://{there}/to/{there}", redirects=1).data == "Bearer pz_x_y"
            other = f"localhost:{server.server_port}"
            assert http_client.ask("GET", f"http://{there}/to/{other}", redirects=1).data is None
        finally:
            server.shutdown()
            thread.join()
