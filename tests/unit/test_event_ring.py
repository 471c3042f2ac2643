"""The ring of events: numbers, what is kept, streams, and what changes of keys tell."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from broker import keys
from broker.clock import now_ms
from broker.messages.store import Delete, Kind, Result, Results, Status
from master.index import checkpoint_file
from master.index import events as ring
from master.index.events import Event, Position
from master.index.housekeeping import Housekeeping
from master.index.index import Index
from master.index.projection import Projection

KEY = keys.encode("a/b.txt")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    yield index
    index.close()


def tell(index: Index, *names: str) -> None:
    with index.write() as tables:
        tables.tell(*(Event("node.back", 5, name, {"node": name}) for name in names))


def newest(index: Index) -> Position:
    with index.read() as tables:
        return tables.newest_event()


def behind(index: Index, after: Position | int) -> list[tuple[int, str]] | None:
    """Numbers and subjects of the events behind one."""
    with index.read() as tables:
        position = after if isinstance(after, Position) else Position(tables.newest_event().stream, after)
        found = tables.events(position)
        return None if found is None else [(number, str(event.subject)) for number, event in found]


def told(index: Index, after: int = 0) -> list[tuple[str, Any]]:
    """Types and subjects of the events, keys as they are."""
    with index.read() as tables:
        found = tables.events(Position(tables.newest_event().stream, after))
        assert found is not None
        return [
            (event.type, keys.decode(event.subject) if isinstance(event.subject, bytes) else event.subject)
            for _, event in found
        ]


def put(seq: int, version: int, key: bytes = KEY, expires: int = 0) -> Result:
    return Result(0, Status.DONE, "", seq, Kind.PUT, key, version, 1000, expires, "", bytes([version]) * 32, 3, b"abc")


def message(*items: Result, after: int, request: str = "") -> Results:
    return Results("n1", "w", request, after, after + len(items), 1_000, False, list(items))


def test_events_have_numbers_without_gaps_however_they_came(index: Index) -> None:
    tell(index, "a")
    tell(index, *map(str, range(40)))
    tell(index, "z")
    found = behind(index, 0)
    assert found is not None
    assert [number for number, _ in found] == list(range(1, 43))
    assert [name for _, name in found] == ["a", *map(str, range(40)), "z"]
    # And whoever has one gets those behind it, wherever in its row that is
    for after in range(43):
        assert behind(index, after) == found[after:]


def test_a_transaction_that_comes_to_nothing_has_no_events(index: Index) -> None:
    def fail() -> None:
        with index.write() as tables:
            tables.tell(Event("node.back", 5, "n1", {}))
            raise OSError("no")

    with pytest.raises(OSError, match="no"):
        fail()
    assert behind(index, 0) == []
    tell(index, "a")
    assert behind(index, 0) == [(1, "a")]


def test_what_is_not_known_is_told_from_what_has_no_event_behind_it(index: Index) -> None:
    tell(index, "a", "b")
    stream = newest(index).stream
    assert behind(index, Position(stream, 2)) == []
    assert behind(index, Position(stream, 3)) is None
    assert behind(index, Position(stream - 1, 1)) is None
    assert behind(index, Position(stream + 1, 1)) is None


def test_a_small_file_is_not_filled_by_events() -> None:
    assert ring.kept(256 << 30) == ring.KEPT == 100_000
    assert ring.kept(16 << 20) * 600 < (16 << 20) // 2  # an event of the longest key has some 600 bytes


def test_the_last_ones_are_kept_and_older_ones_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "KEPT", 1000)
    index = Index(tmp_path / "index", 64 << 20, write=True)
    for _ in range(150):
        tell(index, *map(str, range(20)))
    last = newest(index).number
    assert last == 3000
    first = min(number for number in range(last) if behind(index, number) is not None)
    assert 1000 <= last - first <= 1000 + 256 + 16 + 20
    rows = behind(index, first)
    assert rows is not None
    assert [number for number, _ in rows] == list(range(first + 1, last + 1))
    assert behind(index, first - 1) is None
    index.close()


def test_a_stream_goes_on_in_the_same_file(tmp_path: Path) -> None:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    tell(index, "a")
    before = newest(index)
    index.close()
    index = Index(tmp_path / "index", 64 << 20, write=True)
    assert newest(index) == before
    tell(index, "b")
    assert behind(index, before) == [(2, "b")]
    index.close()


@pytest.mark.parametrize("nodes", [(), ("n1",)])
def test_a_stream_ends_when_commits_are_lost_and_no_id_comes_again(tmp_path: Path, nodes: tuple[str, ...]) -> None:
    # Given an index with events, whose note says that newer commits were lost
    directory = tmp_path / "index"
    index = Index(directory, 64 << 20, write=True)
    tell(index, "a", "b")
    before = newest(index)
    index.close()
    note = checkpoint_file.read(directory)
    assert note is not None
    checkpoint_file.write(directory, note._replace(unsure=True, nodes=nodes))
    # When it is opened
    index = Index(directory, 64 << 20, write=True)
    # Then a later stream has begun, whose numbers go on, and the old ids are not known
    after = newest(index)
    assert after.stream > before.stream
    assert after.number == before.number
    assert behind(index, before) is None
    tell(index, "c")
    assert behind(index, after) == [(before.number + 1, "c")]
    index.close()
    # And once only
    index = Index(directory, 64 << 20, write=True)
    assert newest(index).stream == after.stream
    index.close()


def test_ids_are_read_as_they_are_written() -> None:
    assert Position.parse(str(Position(1795538292411, 57))) == (1795538292411, 57)
    for text in ("", "57", "1-", "-1", "1-2-3", "a-1", "1-٣", "1 - 2", f"1-{'9' * 19}"):
        assert Position.parse(text) is None, text


# What changes of keys tell.


def test_a_key_is_added_overwritten_and_deleted(index: Index) -> None:
    projection = Projection()
    gone = Delete(0, KEY, 30).result(Status.DONE, seq=3)
    for after, item in enumerate((put(1, 10), put(2, 20), gone, put(4, 40))):
        with index.write() as tables:
            projection.apply(tables, [message(item, after=after)], 1000)
    types = ["key.added", "key.overwritten", "key.deleted", "key.added"]
    assert told(index) == [(kind, "a/b.txt") for kind in types]
    with index.read() as tables:
        rows = [event for _, event in tables.events(Position(newest(index).stream, 0)) or ()]
    assert [row.data.version for row in rows] == [10, 20, 30, 40]
    assert [row.data.digest[0] for row in rows] == [10, 20, 20, 40]  # of the value that is gone, for a deletion


def test_what_changes_nothing_tells_nothing(index: Index) -> None:
    projection = Projection()
    for _ in range(2):  # the same twice, and an older one
        with index.write() as tables:
            projection.apply(tables, [message(put(1, 20), after=0), message(put(1, 10), after=0)], 1000)
    assert told(index) == [("key.added", "a/b.txt")]


def test_a_replay_is_told_when_the_index_is_whole_and_not_when_it_is_being_filled(index: Index) -> None:
    projection = Projection()
    for known, incomplete in ((False, None), (False, ["n1"]), (True, ["n2"]), (True, [])):
        key = keys.encode(f"{known}/{incomplete}")
        with index.write() as tables:
            if incomplete is not None:
                tables.set_incomplete(incomplete)
            before = tables.newest_event().number
            projection.apply(tables, [message(put(1, 10, key), after=0, request="r")], 1000)
        assert bool(told(index, before)) == known, incomplete


def test_a_lifetime_that_ends_is_told_by_housekeeping_or_by_the_next_value(index: Index) -> None:
    projection = Projection()
    now = now_ms()
    for seq, name in enumerate(("a", "b"), 1):
        with index.write() as tables:
            item = put(seq, 10 + seq, keys.encode(name), expires=now - 10)
            projection.apply(tables, [message(item, after=seq - 1)], now - 1000)
    with index.write() as tables:
        projection.apply(tables, [message(put(3, 20, keys.encode("b")), after=2)], now)

    class Away:
        ready = False

        def expire_dead(self, *_: object) -> None:
            pass

    Housekeeping(index, Away(), tombstone_days=1, retention_days=1).tick(now)  # type: ignore[arg-type]
    assert told(index, 2) == [("key.expired", "b"), ("key.added", "b"), ("key.expired", "a")]


def test_a_value_that_is_gone_from_its_node_is_told(index: Index) -> None:
    projection = Projection()
    with index.write() as tables:
        projection.apply(tables, [message(put(1, 10), after=0)], 1000)
    with index.write() as tables:
        projection.reset_cursor(tables, "n1")
    with index.write() as tables:
        projection.prune(tables, "n1", b"", 100)
    assert told(index) == [("key.added", "a/b.txt"), ("key.lost", "a/b.txt")]


def test_events_of_a_batch_are_in_the_order_of_its_changes(index: Index) -> None:
    projection = Projection()
    items = [put(seq, 10 + seq, keys.encode(f"k{seq % 7}")) for seq in range(1, 101)]
    with index.write() as tables:
        projection.apply(tables, [message(*items, after=0)], 1000)
    with index.read() as tables:
        rows = [event for _, event in tables.events(Position(newest(index).stream, 0)) or ()]
    assert [row.data.version for row in rows] == [10 + seq for seq in range(1, 101)]
    assert all(one.time <= two.time for one, two in pairwise(rows))
