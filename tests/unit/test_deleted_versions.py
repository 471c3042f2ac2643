"""`GET /internal/deleted` on a node: what can be brought back, in pages, for processes of this cluster only."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from broker import keys, settings
from broker.http import internal_addresses, signing, values
from broker.messages.store import Delete, Store
from node import identity
from node.storage.reader import Reader
from node.web.application import Application
from tests.unit.volume import DAY_MS, Volume, delete, done, store


def now() -> int:
    return time.time_ns() // 1_000_000


class Server:
    """The application of a data server, with a real reader of a directory that nobody writes."""

    def __init__(self, volume: Volume) -> None:
        config = settings.load(environ=volume.environ | {"PULZAR_GENERAL_SECRET": "secret"})
        self.secret = config.secret()
        self.node = identity.load(config)
        self.reader = Reader(volume.directory, undelete_ms=7 * DAY_MS)
        self.application = Application(config, self.reader, Mock())

    def ask(self, path: str, query: str, method: str = "GET") -> tuple[int, Any, str]:
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
        body = json.loads(b"".join(message["body"] for message in sent[1:]))
        return sent[0]["status"], body["data"], body["msg"]

    def deleted(self, **parameters: str) -> tuple[int, Any, str]:
        made = internal_addresses.make(self.secret, internal_addresses.DELETED, parameters, self.node)
        path, _, query = made.partition("?")
        return self.ask(path, query)

    def pages(self, **parameters: str) -> list[dict[str, Any]]:
        """All rows, page by page."""
        rows: list[dict[str, Any]] = []
        after = ""
        while True:
            status, data, message = self.deleted(**parameters, after=after)
            assert status == 200, message
            rows += data["keys"]
            if data["next"] is None:
                return rows
            after = data["next"]


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data", undelete_days=7)


@pytest.fixture
def server(volume: Volume) -> Iterator[Server]:
    """With values that were deleted or overwritten, some of them in files, some long ago, some with a lifetime."""
    storage = volume.open()
    start = now()
    commands: list[Store | Delete] = []
    for number in range(1, 21):
        key = f"a/{number:02d}"
        commands.append(store(key, number, b"x" * 300 * number)._replace(created=start, content_type="text/css\ngzip"))
    commands += [delete(f"a/{number:02d}", 100 + number) for number in range(1, 21)]
    for version in range(200, 210):
        commands.append(store("b", version, b"%d" % version)._replace(created=start + version, content_type=""))
    commands += [store("old", 300)._replace(created=1), store("old", 301)._replace(created=2), delete("purged", 303)]
    commands += [store("purged", 304), delete("purged", 305)._replace(purge=True), store("purged", 306)]
    commands += [store("soon", 310, b"soon", expires=start + DAY_MS), delete("soon", 311)]
    commands += [store("ended", 320, expires=start + 1), store("here", 330)]
    assert done(storage.apply(commands))
    while now() <= start + 1:
        time.sleep(0.001)
    assert done(storage.apply([delete("ended", 321)]))
    storage.close()
    made = Server(volume)
    yield made
    made.reader.close()


def test_all_that_can_be_brought_back_is_listed_in_order(server: Server) -> None:
    rows = server.pages()
    expected = [(f"a/{number:02d}", number) for number in range(1, 21)] + [("b", v) for v in range(200, 209)]
    assert [(row["key"], row["version"]) for row in rows] == [*expected, ("soon", 310)]


def test_a_row_has_what_bringing_back_needs(server: Server) -> None:
    (row,) = server.pages(prefix="a/07")
    value = b"x" * 2100
    digest = store("any", 1, value).digest
    assert abs(row["deleted"] - time.time()) < 60
    assert row["until"] == pytest.approx(row["deleted"] + 7 * 86400)
    assert row == {
        "key": "a/07",
        "version": 7,
        "size": len(value),
        "etag": values.etag(digest),
        "content_type": "text/css",
        "content_encoding": "gzip",
        "stored_type": "text/css\ngzip",
        "created": row["created"],
        "expires": None,
        "deleted": row["deleted"],
        "until": row["until"],
    }
    first, second, *_ = server.pages(prefix="b")
    assert first["deleted"] == pytest.approx(second["created"])
    assert (first["content_type"], first["stored_type"]) == ("application/octet-stream", "")
    (soon,) = server.pages(prefix="soon")
    assert soon["until"] == soon["expires"] < time.time() + 86400


@pytest.mark.parametrize("limit", ["1", "2", "7", "29", "30", "31"])
def test_pages_follow_each_other_without_gap_and_without_repetition(server: Server, limit: str) -> None:
    assert server.pages(limit=limit) == server.pages()
    assert [row["version"] for row in server.pages(prefix="b", limit=limit)] == list(range(200, 209))


def test_a_page_goes_on_behind_a_version_that_is_gone(server: Server) -> None:
    _, data, _ = server.deleted(after="a/19zzz:5", limit="2")
    assert [(row["key"], row["version"]) for row in data["keys"]] == [("a/20", 20), ("b", 200)]
    _, data, _ = server.deleted(after="b:203", limit="2")
    assert [row["version"] for row in data["keys"]] == [204, 205]
    _, data, _ = server.deleted(prefix="b", after="a/01:1", limit="1")
    assert [row["version"] for row in data["keys"]] == [200]
    assert data["next"] == "b:200"
    _, data, _ = server.deleted(prefix="nothing")
    assert data == {"keys": [], "next": None}


BAD = [
    ({"limit": "0"}, "give a number from 1 to 1000"),
    ({"limit": "1001"}, "'1001'"),
    ({"limit": "many"}, "'many'"),
    ({"after": "b"}, "give KEY:VERSION"),
    ({"after": "b:x"}, "'b:x'"),
    ({"after": "/:5"}, "give KEY:VERSION"),
    ({"frm": "b"}, "'frm'"),
]


def test_bad_parameters_are_400_with_what_was_received(server: Server) -> None:
    for parameters, said in BAD:
        status, data, message = server.deleted(**parameters)
        assert (status, data) == (400, None), parameters
        assert said in message


def test_only_who_has_the_secret_may_ask(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = internal_addresses.DELETED
    assert server.ask(path, "")[0] == 403
    assert server.ask(path, "prefix=b")[0] == 403
    good = internal_addresses.make(server.secret, path, {"prefix": "b"}, server.node).partition("?")[2]
    assert server.ask(path, good)[0] == 200
    assert server.ask(path, good.replace("prefix=b", "prefix=a"))[0] == 403
    assert server.ask(path, internal_addresses.make(b"another", path, {}, server.node).partition("?")[2])[0] == 403
    for other, node in (("/internal/other", server.node), (path, "another")):
        assert server.ask(path, internal_addresses.make(server.secret, other, {}, node).partition("?")[2])[0] == 403
    # An address to read the value of a key of that name is none of these
    read = {"prefix": "b", signing.NODE: server.node}
    until = int(time.time()) + internal_addresses.GOOD_SECS
    assert server.ask(path, signing.sign(server.secret, "GET", path.removeprefix("/"), read, until))[0] == 403
    assert server.ask(path, good, "POST")[0] == 405
    later = time.time() + internal_addresses.GOOD_SECS + 2
    monkeypatch.setattr(internal_addresses.time, "time", lambda: later)
    assert server.ask(path, good)[0] == 403


def test_a_damaged_record_is_left_out(server: Server, volume: Volume) -> None:
    log = volume.segments()[0]
    data = log.read_bytes()
    at = data.index(keys.encode("a/07"))
    with log.open("r+b") as file:
        file.seek(at)
        file.write(b"?")
    assert [row["key"] for row in server.pages(prefix="a/0")] == [f"a/{n:02d}" for n in (1, 2, 3, 4, 5, 6, 8, 9)]


def test_a_page_ends_after_many_rows_that_are_nothing_to_bring_back(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.storage.reader._ROWS", 3)
    assert len(server.pages()) == 30
    _, data, _ = server.deleted()
    assert len(data["keys"]) <= 3
    assert data["next"] is not None


def test_before_the_index_is_there_it_is_503(tmp_path: Path) -> None:
    server = Server(Volume(tmp_path / "none"))
    status, _, message = server.deleted()
    assert (status, message) == (503, "the index is not there yet; try again")
    server.reader.close()


def test_the_list_is_whole_while_the_log_is_compacted(volume: Volume) -> None:
    # Given many deleted values in segments of garbage
    storage = volume.open()
    for number in range(60):
        version = 10 * number + 1
        assert done(storage.apply([store(f"stay/{number}", version), delete(f"stay/{number}", version + 1)]))
    # When another process lists them, and the segments are written anew meanwhile
    process = volume.start("list", 60, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    version = 10_000
    end = time.monotonic() + 2
    while time.monotonic() < end:
        for number in range(20):
            version += 2
            purge = delete(f"hot/{number}", version + 1)._replace(purge=True)
            assert done(storage.apply([store(f"hot/{number}", version, bytes(3000)), purge]))
        storage.compact()
    # Then it finds all of them each time
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert int(output) > 0
    storage.close()
