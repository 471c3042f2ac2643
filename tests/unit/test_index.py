"""The tables of the index: what is written is read, and what an older Pulzar wrote, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from broker import keys, lmdb_files
from broker.messages.store import Heartbeat
from master.errors import IndexUnusable
from master.index.folders import Usage
from master.index.index import Cursor, Deletion, Discard, Entry, Index, Lifetime

A, B, C = (keys.encode(name) for name in "abc")
BEAT = Heartbeat("n1", "http://n1:1", 1, "", "e1", 1, 5, 1, 1, False, 0.0, 0.0, 0, 2, [("r", 1, 1)], "")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    yield index
    index.close()


def entry(version: int = 10, expires: int = 0, node: str = "n1") -> Entry:
    return Entry(version, node, 1, 1, 1, expires, 3, "text/plain", b"d" * 32, b"abc")


def test_what_is_written_is_read_in_the_same_transaction_and_by_others_after_it(index: Index) -> None:
    cursor = Cursor(7, 2, ((1, "e1"), (5, "e2")), True, 9)
    with index.write() as tables:
        assert (tables.entry(A), tables.deletion(A), tables.cursor("n1")) == (None, None, None)
        assert (tables.incomplete(), tables.forgotten(), tables.usage()) == (None, [], (0, 0))
        tables.put_entry(A, None, entry())
        tables.set_deletion(B, Deletion(9, 1000))
        tables.set_cursor("n1", cursor)
        tables.set_node(BEAT, 2000)
        tables.set_incomplete([])
        tables.set_forgotten(["n9"])
        assert tables.entry(A) == entry()
        assert index.get(A) is None
    with index.read() as tables:
        assert (tables.entry(A), tables.deletion(B), tables.cursor("n1")) == (entry(), (9, 1000, 0), cursor)
        assert (tables.incomplete(), tables.forgotten(), tables.usage()) == ([], ["n9"], (1, 3))
        assert tables.nodes()["n1"].received == 2000
        assert tables.nodes()["n1"].heartbeat.seq == 5


def test_a_node_of_an_index_of_the_version_before_is_read(index: Index) -> None:
    with index.write() as tables:
        tables.set_node(BEAT._replace(node="new", held_keys=3), 2000)
        tables._put("nodes", b"n1", msgpack.packb((tuple(BEAT)[:16], 1000)))
    with index.read() as tables:
        nodes = tables.nodes()
    assert (nodes["n1"].received, nodes["n1"].heartbeat.held_keys, nodes["n1"].heartbeat.catalog) == (1000, 0, "")
    assert nodes["new"].heartbeat.held_keys == 3


def test_a_block_that_raises_leaves_the_index_as_it_was(index: Index) -> None:
    def write() -> None:
        with index.write() as tables:
            tables.put_entry(A, None, entry())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert index.get(A) is None


def test_rows_are_given_behind_a_key_and_the_oldest_first(index: Index) -> None:
    with index.write() as tables:
        for number, key in enumerate((A, B, C)):
            tables.put_entry(key, None, entry(10 + number, expires=100 - number))
            tables.add_discard(Discard("n1", key, 10 + number), due=50 - number)
            tables.set_deletion(key, Deletion(number, 1))
    with index.read() as tables:
        assert [key for key, _ in tables.entries(A)] == [key for key, _ in tables.deletions(A)] == [B, C]
        assert [key for key, _ in tables.entries(keys.encode("aa"))] == [B, C]
        assert tables.ended_lifetimes(99, 10) == [Lifetime(98, 12, C), Lifetime(99, 11, B)]
        assert tables.ended_lifetimes(99, 1) == [Lifetime(98, 12, C)]
        assert [discard.key for _, discard in tables.due_discards(49, 10)] == [C, B]


def test_a_lifetime_goes_with_the_entry_that_had_it(index: Index) -> None:
    with index.write() as tables:
        tables.put_entry(A, None, entry(10, expires=5))
        tables.put_entry(A, entry(10, expires=5), entry(20, expires=6))
        assert tables.ended_lifetimes(100, 10) == [Lifetime(6, 20, A)]
        tables.drop_entry(A, entry(20, expires=6))
        assert tables.ended_lifetimes(100, 10) == []


def test_a_cursor_that_an_older_pulzar_wrote_is_read(tmp_path: Path) -> None:
    Index(tmp_path, 1 << 24, write=True).close()
    env = lmdb_files.open_map(tmp_path, 1 << 24, max_dbs=6)
    with env.begin(write=True, db=env.open_db(b"meta")) as transaction:
        transaction.put(b"cursor:n1", msgpack.packb((5, 2, [(1, "e1")], True)))
    env.close()
    index = Index(tmp_path, 1 << 24)
    with index.read() as tables:
        assert tables.cursor("n1") == Cursor(5, 2, ((1, "e1"),), True, 0)
    index.close()


def test_folders_are_folded_and_jumped_over(index: Index) -> None:
    with index.write() as tables:
        for name in ("a", "b/1", "b/2", "b/c/3", "d"):
            tables.put_entry(keys.encode(name), None, entry())
    assert [key for key, _ in index.scan("", "")] == ["a", "b/1", "b/2", "b/c/3", "d"]
    assert [key for key, _ in index.scan("b/", "b/1")] == ["b/2", "b/c/3"]
    assert list(index.pages("", "", "/")) == [("a", entry()), ("b/", Usage(3, 9)), ("d", entry())]
    assert list(index.pages("b", "", "c/")) == [("b/1", entry()), ("b/2", entry()), ("b/c/", None)]
    assert [key for key, _ in index.pages("b/", "b/1", "/")] == ["b/2", "b/c/"]


def test_an_index_that_is_not_there_can_not_be_read_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="it fills itself again from the nodes"):
        Index(tmp_path / "none", 1 << 24)


def test_text_that_no_key_can_have_is_a_prefix_of_nothing_and_still_has_a_place_in_the_order(index: Index) -> None:
    with index.write() as tables:
        for name in ("a", "b", "b~"):
            tables.put_entry(keys.encode(name), None, entry())

    def found(prefix: str = "", after: str = "") -> list[str]:
        return [key for key, _ in index.scan(prefix, after)]

    for prefix in ("ü", "bü", "\udc80", "b\x00", "k" * 400, "b" * 383 + "ü"):
        assert found(prefix) == []
    assert found(after="aü") == ["b", "b~"]
    assert found(after="bü") == found(after="ü") == found(after="z" * 400) == []
    assert found(after="b" + "a" * 400) == ["b~"]
    assert list(index.pages("", "", "ü")) == [(name, entry()) for name in ("a", "b", "b~")]
