"""What broker/server assumes of Granian, asked of a real server. A release that breaks one of these fails here."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support import wait_for
from tests.unit.granian_app import PIECES, SILENCE_SECS

ROOT = Path(__file__).parents[2]
CHUNKED = "Transfer-Encoding: chunked"


class Served:
    """A web server with one worker, in a process of its own."""

    def __init__(self, interface: str, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as free:
            free.bind((host, 0))
            self.address: tuple[str, int] = free.getsockname()[:2]
        self.interface = interface
        environ = os.environ | {"GRANIAN_TEST_PORT": str(self.address[1]), "GRANIAN_TEST_HOST": host}
        command = [sys.executable, "-m", "tests.unit.granian_app", interface, str(self.address[1])]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True)
        wait_for(self.answers, 30, "the first response")

    def answers(self) -> bool:
        assert self.process.poll() is None
        try:
            return bool(self.ask("/")["pid"])
        except (OSError, http.client.HTTPException):
            return False  # not yet

    def ask(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> Any:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        try:
            connection.request(method, path, headers=headers or {})
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def send(self, path: str, *headers: str, body: bytes = b"") -> socket.socket:
        """The connection on which the beginning of a PUT was sent."""
        connection = socket.create_connection(self.address, 10)
        connection.sendall("\r\n".join([f"PUT {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode("latin-1") + body)
        return connection

    def end_of(self, path: str, *headers: str, body: bytes) -> str:
        """What became of the body when its client went away after this much of it."""
        before = len(self.ask("/")["ends"])
        with self.send(path, *headers, body=body):
            wait_for(lambda: len(self.ask("/")["ends"]) > before, what="a request begun")
        return str(wait_for(lambda: self.ask("/")["ends"][before], what="the end of the body"))

    def stop(self) -> str:
        self.process.terminate()
        return self.process.communicate(timeout=20)[0]


@pytest.fixture(scope="module", params=["rsgi", "asgi"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    server = Served(request.param)
    yield server
    assert server.stop() == "stopped by a signal\n"


WHOLE = [
    pytest.param([CHUNKED], b"3\r\nabc\r\n0\r\n\r\n", id="chunked"),
    pytest.param(["Content-Length: 3"], b"abc", id="of a length"),
]
CUT_OFF = [
    pytest.param([CHUNKED], b"3\r\nab", id="in a chunk"),
    pytest.param([CHUNKED], b"3\r\nabc\r\n", id="between chunks"),
    pytest.param([CHUNKED], b"3\r\nabc\r\n0\r\n", id="in the last chunk"),
    pytest.param([CHUNKED], b"3\r\nabc\r\nzz\r\n", id="malformed"),
    pytest.param(["Content-Length: 5"], b"abc", id="short"),
]


@pytest.mark.parametrize(("headers", "body"), WHOLE)
def test_a_whole_body_ends_in_order(served: Served, headers: list[str], body: bytes) -> None:
    assert served.end_of("/read", *headers, body=body) == "3 bytes"


@pytest.mark.parametrize(("headers", "body"), CUT_OFF)
def test_a_body_that_is_cut_off_is_seen_to_be(served: Served, headers: list[str], body: bytes) -> None:
    assert served.end_of("/read", *headers, body=body) == "broken"


def test_a_body_asked_for_as_a_whole_is_whole_or_broken(served: Served) -> None:
    assert served.end_of("/whole", "Content-Length: 3", body=b"abc") == "3 bytes"
    assert served.end_of("/whole", "Content-Length: 5", body=b"abc") == "broken"


def test_a_body_with_trailers_is_refused_by_rsgi_and_whole_in_asgi(served: Served) -> None:
    end = served.end_of("/read", CHUNKED, body=b"3\r\nabc\r\n0\r\nA: b\r\n\r\n")
    assert end == ("broken" if served.interface == "rsgi" else "3 bytes")


def test_a_header_that_is_no_visible_ascii_is_seen_or_told_as_hidden(served: Served) -> None:
    with served.send("/hidden", "If-Match: \xe9", "Content-Length: 0") as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert json.loads(answer.read())["hidden"] == ("if-match" if served.interface == "rsgi" else "")


@pytest.mark.parametrize("lengths", [["Content-Length: 3", "Content-Length: 4"], ["Content-Length: +3"]])
def test_a_length_that_can_mean_two_things_does_not_arrive(served: Served, lengths: list[str]) -> None:
    with served.send("/", *lengths, body=b"abcd") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_response_comes_before_the_body_and_the_connection_ends_with_it(served: Served) -> None:
    with served.send("/", "Content-Length: 1000000", body=b"begun") as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.headers["connection"] == "close"
        assert json.loads(answer.read())["length"] == "1000000"
        assert connection.recv(1) == b""


def test_the_path_has_no_percent_encoding_any_more(served: Served) -> None:
    assert served.ask("/a%20b%2Fc")["path"] == "/a b/c"


def test_the_connection_of_a_client_is_found_by_what_the_server_calls_it(served: Served) -> None:
    found = wait_for(lambda: (facts := served.ask("/connection"))["timeout"] and facts, what="a guarded port")
    assert found["found"]
    assert found["timeout"] == SILENCE_SECS * 1000


@pytest.mark.parametrize("interface", ["rsgi", "asgi"])
def test_so_is_that_of_a_client_that_came_by_ipv6(interface: str) -> None:
    try:
        server = Served(interface, "::1")
    except OSError as error:
        pytest.skip(f"::1 can't be used here: {error}")
    assert server.ask("/connection")["found"]
    server.stop()


def test_rsgi_takes_all_of_a_response_and_asgi_waits_for_the_client(served: Served) -> None:
    before = served.ask("/")["sent"]
    with socket.create_connection(served.address, 10) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        if served.interface == "rsgi":
            wait_for(lambda: served.ask("/")["sent"] == before + PIECES, what="a response taken whole")
            return
        wait_for(lambda: served.ask("/")["sent"] > before, what="a response begun")
        assert max(served.ask("/")["sent"] for _ in range(50)) < before + PIECES
        while served.ask("/")["sent"] < before + PIECES:
            connection.recv(1 << 20)


def test_a_worker_that_is_to_stop_can_end_what_waits_and_then_stops() -> None:
    server = Served("rsgi")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.ask, "/until-stopped")
        wait_for(lambda: server.ask("/")["ends"] == ["waits"], what="the request")
        assert server.stop() == "stopped by a signal\n"
        assert answer.result(30)["path"] == "/until-stopped"


def test_a_worker_that_is_killed_twice_comes_back_and_the_server_stays() -> None:
    server = Served("rsgi")
    for _ in range(3):
        pid = server.ask("/")["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: server.answers() and server.ask("/")["pid"] != pid, what="another worker")  # type: ignore[misc]
    assert server.stop() == "stopped by a signal\n"
