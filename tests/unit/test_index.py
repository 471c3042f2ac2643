"""The tables of the index: what is written is read, and what an older Pulzar wrote, too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from broker import keys, lmdb_files
from broker.messages.store import Heartbeat
from master.errors import IndexUnusable
from master.index.index import Cursor, Deletion, Discard, Entry, Index, Lifetime

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
        assert (tables.entry(b"a"), tables.deletion(b"a"), tables.cursor("n1")) == (None, None, None)
        assert (tables.incomplete(), tables.forgotten(), tables.stored_bytes()) == (None, [], 0)
        tables.put_entry(b"a", None, entry())
        tables.set_deletion(b"b", Deletion(9, 1000))
        tables.set_cursor("n1", cursor)
        tables.set_node(BEAT, 2000)
        tables.set_incomplete([])
        tables.set_forgotten(["n9"])
        tables.add_bytes(3)
        assert tables.entry(b"a") == entry()
        assert index.get(b"a") is None
    with index.read() as tables:
        assert (tables.entry(b"a"), tables.deletion(b"b"), tables.cursor("n1")) == (entry(), (9, 1000), cursor)
        assert (tables.incomplete(), tables.forgotten(), tables.stored_bytes()) == ([], ["n9"], 3)
        assert tables.nodes()["n1"].received == 2000
        assert tables.nodes()["n1"].heartbeat.seq == 5


def test_a_block_that_raises_leaves_the_index_as_it_was(index: Index) -> None:
    def write() -> None:
        with index.write() as tables:
            tables.put_entry(b"a", None, entry())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert index.get(b"a") is None


def test_rows_are_given_behind_a_key_and_the_oldest_first(index: Index) -> None:
    with index.write() as tables:
        for number, key in enumerate((b"a", b"b", b"c")):
            tables.put_entry(key, None, entry(10 + number, expires=100 - number))
            tables.add_discard(Discard("n1", key, 10 + number), due=50 - number)
            tables.set_deletion(key, Deletion(number, 1))
    with index.read() as tables:
        assert [key for key, _ in tables.entries(b"a")] == [key for key, _ in tables.deletions(b"a")] == [b"b", b"c"]
        assert [key for key, _ in tables.entries(b"aa")] == [b"b", b"c"]
        assert tables.ended_lifetimes(99, 10) == [Lifetime(98, 12, b"c"), Lifetime(99, 11, b"b")]
        assert tables.ended_lifetimes(99, 1) == [Lifetime(98, 12, b"c")]
        assert [discard.key for _, discard in tables.due_discards(49, 10)] == [b"c", b"b"]


def test_a_lifetime_goes_with_the_entry_that_had_it(index: Index) -> None:
    with index.write() as tables:
        tables.put_entry(b"a", None, entry(10, expires=5))
        tables.put_entry(b"a", entry(10, expires=5), entry(20, expires=6))
        assert tables.ended_lifetimes(100, 10) == [Lifetime(6, 20, b"a")]
        tables.drop_entry(b"a", entry(20, expires=6))
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
    assert [(key, found is None) for key, found in index.pages("", "", "/")] == [
        ("a", False),
        ("b/", True),
        ("d", False),
    ]
    assert [key for key, _ in index.pages("b/", "b/1", "/")] == ["b/2", "b/c/"]


def test_an_index_that_is_not_there_can_not_be_read_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match="it fills itself again from the nodes"):
        Index(tmp_path / "none", 1 << 24)
