"""The pages of a node's verification, of a real storage."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from broker.errors import BadSignature
from broker.http import internal_addresses
from broker.messages.store import Delete, Store
from broker.messages.verification import NodeValue
from broker.refusals import BadRequest
from broker.server.request import Request
from node.storage.disk.damages import DamageReports
from node.storage.reader import Reader
from node.web import verification
from node.web.verification import Verification
from tests.unit.volume import Volume, delete, done, store, value_of

SECRET = b"s" * 32


class Server:
    """The handler of a volume. One process can't open an index twice, so all is written before the first question."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.seq = 0
        self.reader: Reader | None = None

    @functools.cached_property
    def handler(self) -> Verification:
        self.reader = Reader(self.volume.directory)
        return Verification(self.reader, SECRET, "node-1", DamageReports(self.volume.directory))

    def apply(self, *commands: Store | Delete) -> None:
        with closing(self.volume.open()) as storage:
            assert done(storage.apply(commands))
            self.seq = storage.totals.seq

    def ask(self, secret: bytes = SECRET, **query: object) -> Any:
        given = {name: str(value) for name, value in query.items()}
        address = internal_addresses.make(secret, internal_addresses.VERIFY, given, "node-1")
        path, _, text = address.partition("?")
        request = Request.__new__(Request)
        request.environ = {"PATH_INFO": path, "QUERY_STRING": text, "REQUEST_METHOD": "GET"}
        return json.loads(asyncio.run(self.handler(request)).body)["data"]

    def pages(self, **query: object) -> list[Any]:
        found = [self.ask(**query)]
        while found[-1]["more"]:
            query["after"] = found[-1]["next"] or query.get("after", "")
            found.append(self.ask(**query))
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(Volume(tmp_path / "data"))
    yield made
    if made.reader is not None:
        made.reader.close()


def rows(pages: list[Any]) -> dict[str, NodeValue]:
    return {row[0]: NodeValue(*row) for page in pages for row in page["keys"]}


def stored(server: Server, number: int = 40) -> list[str]:
    names = [f"k/{n:03d}" for n in range(number)]
    server.apply(*(store(name, n + 1) for n, name in enumerate(names)))
    return names


def test_pages_have_every_value_in_key_order_with_what_was_read(server: Server) -> None:
    names = stored(server)
    server.apply(delete(names[3], 100), store(names[5], 101), store("soon", 102, expires=1))
    pages = server.pages(limit=7, read=1)
    assert len(pages) == 6
    found = rows(pages)
    assert list(found) == [name for name in names if name != names[3]]
    for name, row in found.items():
        version = 101 if name == names[5] else names.index(name) + 1
        value = value_of(name, version)
        assert row[1:] == (version, row.seq, len(value), 0, hashlib.sha256(value).hexdigest(), "")
    assert [page["seq"] for page in pages] == [server.seq] * len(pages)
    assert all(row.digest == "" for row in rows(server.pages(limit=9, read=0)).values())


def test_a_page_ends_at_its_last_key(server: Server) -> None:
    names = stored(server)
    page = server.ask(after=names[2], upto=names[6], limit=100)
    assert [row[0] for row in page["keys"]] == names[3:7]
    assert not page["more"]


def test_damage_is_said_and_the_rest_is_read(server: Server) -> None:
    names = stored(server)
    small = next(name for n, name in enumerate(names) if 100 < len(value_of(name, n + 1)) < 4000)
    large = next(name for n, name in enumerate(names) if len(value_of(name, n + 1)) > 4096)
    gone = next(name for n, name in enumerate(names) if len(value_of(name, n + 1)) > 4096 and name != large)
    for name in (small, large, gone):
        value = value_of(name, names.index(name) + 1)
        for path in [*server.volume.segments(), *server.volume.value_files()]:
            at = path.read_bytes().find(value)
            if at >= 0 and name == gone:
                path.unlink()
            elif at >= 0:
                with path.open("r+b") as file:
                    file.seek(at + 50)
                    file.write(bytes([value[50] ^ 1]))
    found = rows(server.pages(limit=7, read=1))
    assert list(found) == names
    assert {name for name, row in found.items() if row.fault} == {small, large, gone}
    assert "missing" in found[gone].fault
    assert not any(row.fault for row in rows(server.pages(limit=7, read=0)).values())


def test_a_large_value_is_read_over_several_pages(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "PAGE_SECS", 0.0)
    value = os.urandom(5 << 20)
    server.apply(store("a", 1, b"x"))
    server.apply(store("big", 2, value, staged=server.volume.staged(value)))
    pages = server.pages(limit=10, read=1)
    told = [page["within"] for page in pages if page["within"]]
    assert len(told) == 4
    assert [part["done"] for part in told] == [(n + 1) << 20 for n in range(4)]
    assert {(part["key"], part["size"]) for part in told} == {("big", 5 << 20)}
    assert rows(pages)["big"].digest == hashlib.sha256(value).hexdigest()


def test_reading_takes_no_more_than_half_of_the_time(server: Server) -> None:
    value = os.urandom(16 << 20)
    server.apply(store("small", 1))
    server.apply(store("big", 2, value, staged=server.volume.staged(value)))
    began = time.monotonic()
    used = time.process_time()
    assert rows(server.pages(read=1))["big"].fault == ""
    assert time.process_time() - used < 0.75 * (time.monotonic() - began)


def test_the_file_of_the_index_is_audited(server: Server) -> None:
    stored(server)
    assert server.ask(files=1) == {"files": [{"file": "index", "faults": []}]}


def test_only_a_master_of_this_cluster_may_ask(server: Server) -> None:
    with pytest.raises(BadSignature):
        server.ask(secret=b"another", limit=1)


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"limit": 10_001}, {"after": "ä"}, {"upto": "ä"}])
def test_a_query_that_makes_no_sense_is_refused(server: Server, query: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        server.ask(**query)
