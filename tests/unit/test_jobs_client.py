"""The store as a job sees it, with a server that misbehaves; the real one is in tests/integration."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs import client
from jobs.client import Client
from jobs.errors import BadOutput, KeyExists, KeyMissing, StoreError


class Server(ThreadingHTTPServer):
    """Answers requests in turn with `answers`: functions of the handler; the last one for all that follow."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Callable[[Handler], None]] = []
        self.seen: list[tuple[str, str, bytes]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Server

    def handle_one(self) -> None:
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    do_GET = do_PUT = do_POST = do_DELETE = handle_one

    def body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, body))
        return body

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def give(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def says(status: int, data: Any, msg: str = "") -> Callable[[Handler], None]:
    """An answer in the envelope, after the body was read."""

    def answer(handler: Handler) -> None:
        handler.body()
        handler.give(status, json.dumps({"data": data, "msg": msg, "status": "ok"}).encode())

    return answer


def breaks(handler: Handler) -> None:
    """No answer at all."""
    handler.body()
    handler.close_connection = True


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PAUSES_SECS", (0.02, 0.05))


def test_a_small_value_is_put_and_its_address_comes_back(server: Server) -> None:
    server.answers = [says(201, {"url": "http://n/get_key/a"})]
    assert Client(server.address).store(b"value", "a/b c%.txt", ttl="7d", overwrite=True) == "http://n/get_key/a"
    assert server.seen == [("PUT", "/add_key/a/b%20c%25.txt?ttl=7d&overwrite=1", b"value")]


def test_a_large_file_asks_for_a_node_first(server: Server, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 3_000_000)
    node = f"http://{server.address}/add_key/a?url=m&sign=s"
    server.answers = [says(200, {"node": node}), says(201, {"url": "u"})]
    Client(f"http://{server.address}").store(str(big), "a")
    assert [(method, path, len(body)) for method, path, body in server.seen] == [
        ("GET", "/get_node/a", 0),
        ("PUT", "/add_key/a?url=m&sign=s", 3_000_000),
    ]


def test_redirects_are_followed_with_the_body(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    here = f"http://{server.address}"

    def redirect(handler: Handler) -> None:
        handler.body()
        handler.give(307, b"", {"Location": f"{here}/elsewhere?x=1"})

    for value in (file, b"content"):
        server.answers = [redirect, redirect, says(201, {"url": "u"})]
        server.seen.clear()
        Client(here).store(value, "a")
        assert server.seen[-1] == ("PUT", "/elsewhere?x=1", b"content")
    server.answers = [redirect]
    with pytest.raises(StoreError, match="too many redirects"):
        Client(here, patience=0).store(b"", "a")


@pytest.mark.parametrize(
    ("status", "kind"), [(404, KeyMissing), (409, KeyExists), (400, StoreError), (507, StoreError)]
)
def test_refusals_are_told_in_the_words_of_the_store(server: Server, status: int, kind: type[StoreError]) -> None:
    server.answers = [says(status, None, "because")]
    with pytest.raises(StoreError, match=f"{status} because") as error:
        Client(server.address).store(b"x", "a")
    assert type(error.value) is kind
    assert error.value.status == status
    assert len(server.seen) == 1


def test_a_refusal_before_the_body_was_read_is_understood(server: Server, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 20_000_000)

    def refuse(handler: Handler) -> None:
        handler.give(409, b'{"msg": "taken"}', {"Connection": "close"})
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_WR)
        while handler.connection.recv(1 << 20):  # as servers do that want their answer to arrive
            continue

    server.answers = [says(200, {"node": f"http://{server.address}/x"}), refuse]
    with pytest.raises(KeyExists, match="taken"):
        Client(server.address).store(big, "a")


def test_a_store_that_is_busy_or_broken_is_asked_again(server: Server) -> None:
    def value(handler: Handler) -> None:
        handler.body()
        handler.give(200, b"value")

    server.answers = [says(503, None), breaks, says(503, None), value]
    assert Client(server.address).fetch("a") == b"value"
    assert len(server.seen) == 4
    # but not for ever
    server.answers = [says(503, None, "no")]
    began = time.monotonic()
    with pytest.raises(StoreError, match="503 no"):
        Client(server.address, patience=0.3).fetch("a")
    assert 0.1 < time.monotonic() - began < 40


@pytest.mark.parametrize("answer", [says(503, None), breaks])
def test_what_may_have_been_done_is_not_done_again(server: Server, answer: Callable[[Handler], None]) -> None:
    server.answers = [answer]
    for act in (lambda c: c.store(b"x", "a"), lambda c: c.delete("a")):
        server.seen.clear()
        with pytest.raises(StoreError):
            act(Client(server.address, patience=1))
        assert len(server.seen) == 1
    # What may be done twice is
    server.seen.clear()
    server.answers = [answer, says(201, {"url": "u"})]
    Client(server.address).store(b"x", "a", overwrite=True)
    assert len(server.seen) == 2


def test_a_master_that_is_not_there_yet_is_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(StoreError, match="Connection refused") as error:
            Client(address, patience=0.3).store(b"x", "a")
        assert error.value.status == 0
        assert 0.1 < time.monotonic() - began < 40


def test_an_answer_that_breaks_off_is_no_value(server: Server, tmp_path: Path) -> None:
    def short(handler: Handler) -> None:
        handler.give(200, b"only this", {"Content-Length": "1000"})
        handler.close_connection = True

    server.answers = [short]
    with pytest.raises(StoreError):
        Client(server.address, patience=0).fetch("a")
    (tmp_path / "old").write_text("old")
    with pytest.raises(StoreError):
        Client(server.address, patience=0).fetch_to("a", tmp_path / "old")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "old")]


def test_signatures_do_not_get_into_messages(server: Server) -> None:
    server.answers = [says(200, {"node": f"http://{server.address}/x?signature=secret"}), says(500, None, "broken")]
    with pytest.raises(StoreError) as error:
        Client(server.address).store(b"x" * 100_000, "a")
    assert "secret" not in str(error.value)


def test_keys_come_page_after_page(server: Server) -> None:
    server.answers = [
        says(200, {"keys": [{"key": "p/1"}, {"key": "p/2"}], "next": "p/2"}),
        says(200, {"keys": [{"key": "p/3"}], "next": None}),
    ]
    assert [entry["key"] for entry in Client(server.address).keys("p/")] == ["p/1", "p/2", "p/3"]
    assert [path for _, path, _ in server.seen] == [
        "/keys?prefix=p%2F&after=&limit=1000",
        "/keys?prefix=p%2F&after=p%2F2&limit=1000",
    ]


def test_a_launch_that_rabbitmq_has_not_confirmed_is_launched(server: Server) -> None:
    server.answers = [says(202, {"job_id": 7}, "Job 7 is in the ledger")]
    assert Client(server.address).launch("example/job", {"number": 5}) == 7
    assert [(method, path) for method, path, _ in server.seen] == [("POST", "/launch_job/example/job")]


def test_another_launch_with_a_known_token_is_told(server: Server) -> None:
    server.answers = [says(409, None, "the unique token 't' belongs to job 7")]
    with pytest.raises(StoreError, match="409 the unique token 't' belongs to job 7"):
        Client(server.address).launch("example/job", {}, {"unique": "t"})
    assert len(server.seen) == 1


def test_arguments_of_a_launch_are_written_as_outputs_are(server: Server) -> None:
    server.answers = [says(200, {"job_id": 7, "warnings": ["the argument b is missing"]})]
    given = {"when": date(2026, 1, 2), "gap": float("nan")}
    number, odd = Client(server.address).launch_told("example/job", given)
    assert (number, odd) == (7, ["arguments.gap: nan, written as null", "the argument b is missing"])
    assert json.loads(server.seen[0][2]) == {"when": "2026-01-02", "gap": None}
    with pytest.raises(BadOutput, match=r"the arguments can't be written as JSON: arguments\.a\[0\] is an object"):
        Client(server.address).launch("example/job", {"a": [object()]})
