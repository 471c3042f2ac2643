"""The data server of a node: what its errors become, with a storage that fails."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest

from broker import settings
from broker.http import signing
from broker.messages.store import Kind
from node.errors import Corrupt, StorageError, StorageUnavailable
from node.storage.log.records import Header
from node.storage.reader import Reader, StoredValue
from node.web.application import Application
from node.web.downloads import NEWER_SECS


class Server:
    """The application of a data server, and its storage."""

    def __init__(self, directory: Path) -> None:
        environ = {"PULZAR_VOLUME_DIR": str(directory), "PULZAR_VOLUME_NODE": "n1", "PULZAR_GENERAL_SECRET": "secret"}
        self.secret = settings.load(environ=environ).secret()
        self.reader = Mock(spec=Reader)
        self.application = Application(settings.load(environ=environ), self.reader, Mock())

    def ask(self, method: str, path: str, query: str = "") -> tuple[int, dict[bytes, bytes], bytes]:
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
            "query_string": query.encode(),
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


KEY = "key"
OTHER = "http://other:1/get_key/key?signature=1"


def read(server: Server, version: int, following: str = OTHER) -> tuple[int, dict[bytes, bytes], bytes]:
    """A read at an address that the master made for a value on several nodes, for this version."""
    fields = {signing.MASTER: "m:1", signing.NODE: "n1", signing.VERSION: str(version)}
    fields |= {signing.NEXT: following} if following else {}
    query = signing.sign(server.secret, "GET", KEY, fields, int(time.time()) + 60)
    return server.ask("GET", f"/get_key/{KEY}", query)


def has(server: Server, version: int | None) -> None:
    """The node has this version of the key, or none."""
    header = Header(Kind.PUT, b"", version or 0, 1, 1000, 0, "", b"d" * 32, 3, "")
    server.reader.get.side_effect = lambda _key: None if version is None else StoredValue(header, b"abc", None)


def test_the_version_that_the_master_knew_is_sent(server: Server) -> None:
    has(server, 5)
    assert read(server, 5)[::2] == (200, b"abc")


@pytest.mark.parametrize("there", [None, 4, 6])
def test_for_another_version_the_reader_is_sent_to_another_holder(server: Server, there: int | None) -> None:
    has(server, there)
    status, headers, _ = read(server, 5)
    assert (status, headers[b"location"]) == (307, OTHER.encode())


def test_for_a_damaged_copy_the_reader_is_sent_to_another_holder(server: Server) -> None:
    server.reader.get.side_effect = Corrupt("block 3")
    status, headers, _ = read(server, 5)
    assert (status, headers[b"location"]) == (307, OTHER.encode())
    assert read(server, 5, following="")[0] == 500


@pytest.mark.parametrize("there", [None, 4])
def test_the_last_holder_never_sends_an_older_version_and_never_says_that_there_is_none(
    server: Server, there: int | None
) -> None:
    has(server, there)
    status, _, body = read(server, 5, following="")
    assert (status, "does not have the version of key that it should have" in json.loads(body)["msg"]) == (503, True)


def test_the_last_holder_sends_a_newer_version_when_the_master_must_have_heard_of_it(server: Server) -> None:
    has(server, 6)
    begun = time.monotonic()
    assert read(server, 5, following="")[::2] == (200, b"abc")
    assert time.monotonic() - begun >= NEWER_SECS


def test_what_nobody_signed_is_not_followed(server: Server) -> None:
    has(server, 4)
    fields = f"version=5&next={quote(OTHER, safe='')}"
    assert server.ask("GET", f"/get_key/{KEY}", fields)[::2] == (200, b"abc")
    assert server.ask("GET", f"/get_key/{KEY}", f"{fields}&signature={'0' * 32}")[0] == 403
