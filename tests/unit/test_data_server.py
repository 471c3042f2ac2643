"""The data server of a node: what its errors become, with a storage that fails."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from broker import settings
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.storage.reader import Reader
from node.web.application import Application


class Server:
    """The application of a data server, and its storage."""

    def __init__(self, directory: Path) -> None:
        environ = {"PULZAR_VOLUME_DIR": str(directory)}
        self.reader = Mock(spec=Reader)
        self.application = Application(settings.load(environ=environ), self.reader, Mock())

    def ask(self, method: str, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            raise AssertionError("there is no body")

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        addresses = {"client": ("127.0.0.1", 5), "server": ("127.0.0.1", 6)}
        head = {
            "http_version": "1.1",
            "scheme": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [],
        }
        asyncio.run(self.application(head | addresses, receive, send))  # type: ignore[arg-type]
        start, *rest = sent
        return start["status"], dict(start["headers"]), b"".join(message["body"] for message in rest)


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


@pytest.mark.parametrize(
    ("error", "status", "message", "logged"),
    [
        (StorageUnavailable("the index is being made anew"), 503, "the index is being made anew; try again", ""),
        (Corrupt("block 3"), 500, "value damaged; the node's log says more", "value damaged"),
        (StorageError("the disk"), 500, "storage failed; the node's log says more", "storage failed"),
        (ValueError("secret"), 500, "something went wrong in the node; its log says what", "ValueError: secret"),
    ],
)
def test_an_error_of_the_storage_becomes_a_response_in_the_envelope(
    server: Server, error: Exception, status: int, message: str, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.reader.get.side_effect = error
    found, headers, body = server.ask("GET", "/health")
    assert (found, json.loads(body)) == (status, {"data": None, "msg": message, "status": "ko"})
    assert headers.get(b"retry-after") == (b"1" if status == 503 else None)
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert logged in caplog.text
    assert bool(caplog.records) == bool(logged)


def test_an_error_of_a_head_has_no_body(server: Server) -> None:
    server.reader.get.side_effect = StorageError("the disk")
    status, headers, body = server.ask("HEAD", "/health")
    assert (status, body) == (500, b"")
    assert int(headers[b"content-length"]) > 0


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed", "message"),
    [
        ("GET", "/nothing", 404, None, "a node has no path /nothing"),
        ("GET", "/health/x", 404, None, "a node has no path /health/x"),
        ("GET", "/add_keys", 404, None, "a node has no path /add_keys"),
        ("PUT", "/health", 405, b"GET, HEAD, OPTIONS", "PUT is not possible on /health; GET, HEAD, OPTIONS is"),
        ("GET", "/add_key/a", 405, b"OPTIONS, PUT", "GET is not possible on /add_key/…; OPTIONS, PUT is"),
    ],
)
def test_a_path_or_a_method_that_is_not_there_is_refused(
    server: Server, method: str, path: str, status: int, allowed: bytes | None, message: str
) -> None:
    found, headers, body = server.ask(method, path)
    assert (found, headers.get(b"allow"), json.loads(body)["msg"]) == (status, allowed, message)
    assert not server.reader.get.called


def test_who_this_is(server: Server) -> None:
    server.reader.get.return_value = None
    for path in ("/health", "/autodiscovery"):
        status, _, body = server.ask("GET", path)
        assert (status, json.loads(body)["status"]) == (200, "ok")
    assert server.reader.get.call_count == 1  # a node that can't read a value is not healthy
