"""A node gets a value from another one: whole and unchanged, or not at all."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from broker import keys
from broker.messages.store import Confirm, Fetch, Result, Status, Store
from broker.settings import Settings
from node.command_executor import OnResult
from node.fetcher import Fetcher
from node.storage.staging import Staging
from tests.support import wait_for

SMALL, LARGE = 1_000, 300_000


class Peer(BaseHTTPRequestHandler):
    """Another node, which says of each value what its path asks for."""

    protocol_version = "HTTP/1.1"
    values: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        name, _, manner = self.path[1:].partition("?")
        value = self.values.get(name)
        self.send_response(200 if value is not None else 404)
        value = b"nothing here" if value is None else value
        self.send_header("Content-Length", str(len(value)))
        self.end_headers()
        self.wfile.write(value[:-1] if manner == "cut" else value)
        if manner == "cut":
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Executor:
    """Takes what was fetched, and reports."""

    def __init__(self) -> None:
        self.stored: list[tuple[str, Store]] = []
        self.reports: list[tuple[str, Result]] = []
        self.status = Status.DONE
        self.answers: list[tuple[Confirm, str]] = []

    def store_fetched(self, origin: str, store: Store, done: OnResult) -> None:
        self.stored.append((origin, store))
        done(store.result(self.status))

    def answer(self, question: Confirm, reason: str) -> None:
        self.answers.append((question, reason))

    def report(self, origin: str, result: Result) -> None:
        self.reports.append((origin, result))


class Bench:
    def __init__(self, directory: Path, url: str) -> None:
        self.url = url
        self.directory = directory
        self.executor = Executor()
        self.fetcher = Fetcher(Settings(), Staging(directory), self.executor)  # type: ignore[arg-type]
        self.fetcher.start()

    def fetch(self, value: bytes, *paths: str, ticket: int = 7) -> None:
        digest = hashlib.sha256(value).digest()
        store = Store(ticket, keys.encode("key"), 5, 1, 0, "", digest, len(value), None, "")
        self.fetcher.take(Fetch("w", store, [f"{self.url}/{path}" for path in paths]))

    def confirm(self, value: bytes, path: str) -> None:
        digest = hashlib.sha256(value).digest()
        store = Store(0, keys.encode("key"), 5, 1, 0, "", digest, len(value), None, "")
        self.fetcher.take(Confirm("r", store, f"{self.url}/{path}"))

    def staged(self) -> list[str]:
        return [file.name for file in (self.directory / "staging").iterdir()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    Peer.values = {"small": b"s" * SMALL, "large": b"l" * LARGE, "other": b"x" * SMALL, "empty": b""}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Peer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    bench = Bench(tmp_path, f"http://127.0.0.1:{server.server_port}")
    yield bench
    bench.fetcher.stop()
    server.shutdown()
    server.server_close()


def test_a_small_value_travels_in_the_command_and_a_large_one_as_an_upload(bench: Bench) -> None:
    bench.fetch(b"s" * SMALL, "small")
    wait_for(lambda: len(bench.executor.stored) == 1)
    bench.fetch(b"l" * LARGE, "large")
    wait_for(lambda: len(bench.executor.stored) == 2)
    (origin, small), (_, large) = bench.executor.stored
    assert (origin, small.value, small.staged, small.ticket, small.version) == ("w", b"s" * SMALL, "", 7, 5)
    assert (large.value, [large.staged]) == (None, bench.staged())
    bench.fetch(b"", "empty")
    wait_for(lambda: len(bench.executor.stored) == 3)
    assert bench.executor.stored[2][1].value == b""


@pytest.mark.parametrize("bad", ["other", "gone", "small?cut", "large"])
def test_a_holder_that_has_not_the_value_is_passed_over(bench: Bench, bad: str) -> None:
    bench.fetch(b"s" * SMALL, bad, "small")
    wait_for(lambda: bench.executor.stored)
    assert bench.executor.stored[0][1].value == b"s" * SMALL
    # And when no holder has it, whoever waits is told
    bench.fetch(b"s" * SMALL, bad)
    wait_for(lambda: bench.executor.reports)
    ((origin, result),) = bench.executor.reports
    assert (origin, result.ticket, result.status) == ("w", 7, Status.MISSING)


@pytest.mark.parametrize("bad", ["large?cut", "gone"])
def test_of_a_large_value_that_is_not_whole_nothing_stays(bench: Bench, bad: str) -> None:
    bench.fetch(b"l" * LARGE, bad)
    wait_for(lambda: bench.executor.reports)
    bench.fetch(b"m" * LARGE, "large")
    wait_for(lambda: len(bench.executor.reports) == 2)
    assert not bench.executor.stored
    assert not bench.staged()


def test_an_upload_that_is_not_stored_is_removed(bench: Bench) -> None:
    bench.executor.status = Status.FULL
    bench.fetch(b"l" * LARGE, "large")
    wait_for(lambda: bench.executor.stored)
    wait_for(lambda: not bench.staged())


@pytest.mark.parametrize(
    ("path", "reason"), [("large", ""), ("other", "length"), ("gone", "status 404"), ("large?cut", "broke off")]
)
def test_a_value_is_confirmed_when_its_bytes_are_what_was_put(bench: Bench, path: str, reason: str) -> None:
    bench.confirm(b"l" * LARGE, path)
    wait_for(lambda: bench.executor.answers)
    ((question, told),) = bench.executor.answers
    assert (question.request, bool(told)) == ("r", bool(reason))
    assert reason in told
    bench.confirm(b"m" * LARGE, "large")
    wait_for(lambda: len(bench.executor.answers) == 2)
    assert bench.executor.answers[1][1] == "the node has other bytes"
