"""Results become entries: order, duplicates, deletions, epochs, cursors."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker import keys
from broker.messages.store import Delete, Drop, Heartbeat, Kind, Result, Results, Status
from master.index import discards
from master.index.index import Cursor, Discard, Entry, Index
from master.index.projection import DISCARD_DELAY_MS, Changes, Projection, cursor_of

NOW = 1_000_000
A, B, C = (keys.encode(name) for name in "abc")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index", 64 << 20, write=True)
    yield index
    index.close()


class Feed:
    """Applies results to an index, as the controller does."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.projection = Projection()

    def apply(self, *messages: Results) -> Changes:
        with self.index.write() as tables:
            return self.projection.apply(tables, messages, NOW)

    def cursor(self, node: str = "n1") -> Cursor:
        with self.index.read() as tables:
            return cursor_of(tables, node)

    def prune(self, node: str = "n1") -> int:
        after: bytes | None = b""
        removed = 0
        while after is not None:
            with self.index.write() as tables:
                after, more = self.projection.prune(tables, node, after, 3)
            removed += more
        return removed

    def outbox(self) -> list[Discard]:
        with self.index.read() as tables:
            return [discard for _, discard in tables.due_discards(NOW + DISCARD_DELAY_MS + 100, 1000)]

    def bytes(self) -> int:
        with self.index.read() as tables:
            return tables.usage().size


@pytest.fixture
def feed(index: Index) -> Feed:
    return Feed(index)


def put(seq: int, version: int, key: bytes = b"key", ticket: int = 0, expires: int = 0, size: int = 3) -> Result:
    return Result(ticket, Status.DONE, "", seq, Kind.PUT, key, version, NOW, expires, "", b"d" * 32, size, b"abc")


def gone(seq: int, version: int, key: bytes = b"key", ticket: int = 0, purge: bool = False) -> Result:
    return Delete(ticket, key, version, purge).result(Status.DONE, seq=seq)


def epoch(chain: list[tuple[int, str]]) -> Result:
    return Result.of_epochs(chain)


def message(*items: Result, node: str = "n1", after: int, upto: int, request: str = "", last: bool = False) -> Results:
    return Results(node, "w", request, after, upto, 1_000, last, list(items))


def beat(node: str) -> Heartbeat:
    return Heartbeat(
        node=node,
        url="http://localhost:1",
        at=NOW,
        version="",
        epoch="e",
        epoch_seq=1,
        seq=1,
        disk_total=1,
        disk_free=1,
        full=False,
        load=0.0,
        memory=0.0,
        keys=0,
        slots=1,
        running=[],
        catalog="",
    )


def entry(index: Index, key: bytes = b"key") -> Entry:
    found = index.get(key)
    assert found is not None
    return found


def test_a_value_becomes_an_entry_and_whoever_waits_is_told(feed: Feed) -> None:
    applied = feed.apply(message(put(1, 10, ticket=7), after=0, upto=1))
    assert applied.outcomes == {"w": [(7, Status.DONE, "")]}
    assert entry(feed.index).version == 10
    assert entry(feed.index).value == b"abc"
    assert feed.cursor().seq == 1
    assert [event.type for event in applied.events] == ["key.added"]
    assert feed.bytes() == 3


def test_applying_twice_changes_nothing(feed: Feed) -> None:
    first = message(put(1, 10, ticket=7), after=0, upto=1)
    feed.apply(first)
    again = feed.apply(first)
    assert again.outcomes == {"w": [(7, Status.DONE, "")]}
    assert not again.events
    assert not again.gaps
    assert feed.bytes() == 3
    assert not feed.outbox()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_highest_version_wins_in_any_order_and_the_other_is_discarded(feed: Feed, order: tuple[int, int]) -> None:
    both = [message(put(1, 10), after=0, upto=1), message(put(1, 20), node="n2", after=0, upto=1)]
    feed.apply(both[order[0]])
    feed.apply(both[order[1]])
    assert (entry(feed.index).version, entry(feed.index).node) == (20, "n2")
    assert feed.outbox() == [Discard("n1", b"key", 10)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_deletion_wins_over_what_it_deleted_in_any_order(feed: Feed, order: tuple[int, int]) -> None:
    both = [message(put(1, 10), after=0, upto=1), message(gone(1, 20), node="n2", after=0, upto=1)]
    feed.apply(both[order[0]])
    feed.apply(both[order[1]])
    assert feed.index.get(b"key") is None
    with feed.index.read() as tables:
        assert tables.deletion(b"key") == (20, NOW, 0)
    assert [discard.node for discard in feed.outbox()] == ["n1"]


def test_a_deletion_beats_a_value_of_the_same_version_but_not_a_newer_one(feed: Feed) -> None:
    feed.apply(message(put(1, 10), gone(2, 10), put(3, 30), gone(4, 20), after=0, upto=4))
    assert entry(feed.index).version == 30


def test_a_late_value_is_told_to_be_stale(feed: Feed) -> None:
    feed.apply(message(put(1, 20), after=0, upto=1))
    late = feed.apply(message(put(1, 10, ticket=3), node="n2", after=0, upto=1))
    assert late.outcomes == {"w": [(3, Status.STALE, "")]}
    assert feed.outbox() == [Discard("n2", b"key", 10)]


def test_a_failed_command_changes_nothing_and_its_sender_is_told(feed: Feed) -> None:
    failed = put(0, 10, ticket=5)._replace(status=Status.FULL, reason="no room")
    applied = feed.apply(message(failed, after=0, upto=0))
    assert applied.outcomes == {"w": [(5, Status.FULL, "no room")]}
    assert feed.index.get(b"key") is None


def test_a_gap_holds_the_cursor_back_until_it_is_filled(feed: Feed) -> None:
    feed.apply(message(put(1, 1, A), after=0, upto=1))
    assert feed.apply(message(put(3, 3, C), after=2, upto=3)).gaps == {"n1"}
    assert feed.cursor().seq == 1
    assert feed.index.get(C) is not None
    assert not feed.apply(message(put(2, 2, B), after=1, upto=2)).gaps
    assert feed.cursor().seq == 3


def test_what_another_log_told_beyond_the_end_of_this_one_is_no_gap(feed: Feed) -> None:
    feed.apply(message(put(9, 9, b"late"), after=8, upto=9))
    assert not feed.apply(message(put(1, 1), after=0, upto=1)._replace(end=1)).gaps


def test_an_older_version_that_a_backup_brings_back_takes_the_place_of_the_lost_one(feed: Feed) -> None:
    feed.apply(message(epoch([(1, "e1")]), put(2, 10), put(3, 20), after=0, upto=3))
    feed.apply(message(epoch([(1, "e1"), (3, "e2")]), after=2, upto=3))
    feed.apply(message(put(2, 10), after=0, upto=3, request="r", last=True))
    assert feed.prune() == 0
    assert entry(feed.index).version == 10


def test_messages_in_any_order_lead_to_the_same_index(feed: Feed) -> None:
    random.seed(7)
    messages = [message(put(seq, seq, b"k%d" % (seq % 9)), after=seq - 1, upto=seq) for seq in range(1, 60)]
    shuffled = messages * 2
    random.shuffle(shuffled)
    feed.apply(*shuffled)
    assert feed.cursor().seq == 59
    assert {key: entry(feed.index, key).version for key in (b"k%d" % n for n in range(9))} == {
        b"k%d" % n: max(seq for seq in range(1, 60) if seq % 9 == n) for n in range(9)
    }


def test_lifetimes_are_listed_and_forgotten_with_their_value(feed: Feed) -> None:
    def listed() -> list[bytes]:
        with feed.index.read() as tables:
            return [lifetime.key for lifetime in tables.ended_lifetimes(NOW + 5, 10)]

    feed.apply(message(put(1, 10, expires=NOW + 5), after=0, upto=1))
    assert listed() == [b"key"]
    feed.apply(message(put(2, 20), after=1, upto=2))
    assert listed() == []


def test_a_node_that_was_only_started_again_goes_on(feed: Feed) -> None:
    feed.apply(message(epoch([(1, "e1")]), put(2, 10), after=0, upto=2))
    applied = feed.apply(message(epoch([(1, "e1"), (3, "e2")]), after=2, upto=3))
    assert not applied.gaps
    assert feed.cursor() == Cursor(3, 1, ((1, "e1"), (3, "e2")), False)


def test_a_node_started_twice_unseen_goes_on(feed: Feed) -> None:
    feed.apply(message(epoch([(1, "e1")]), put(2, 10), after=0, upto=2))
    feed.apply(message(epoch([(1, "e1"), (3, "e2"), (4, "e3")]), after=3, upto=4))
    assert feed.cursor().generation == 1
    assert feed.cursor().seq == 2


@pytest.mark.parametrize(
    "chain",
    [
        [(1, "other")],  # an empty disk
        [(1, "e1"), (2, "e9")],  # an older backup: it goes on before what was applied
    ],
)
def test_another_log_is_applied_from_its_beginning_and_what_it_lacks_is_removed(
    feed: Feed, chain: list[tuple[int, str]]
) -> None:
    feed.apply(message(epoch([(1, "e1")]), put(2, 10, A), put(3, 11, B), after=0, upto=3))
    feed.apply(message(put(1, 12, C), node="n2", after=0, upto=1))
    feed.apply(message(epoch(chain), after=chain[-1][0] - 1, upto=chain[-1][0]))
    assert feed.cursor().prune
    assert feed.cursor().generation == 2
    feed.apply(message(put(2, 10, A), after=0, upto=9, request="r", last=True))
    assert feed.prune() == 1
    assert feed.index.get(A) is not None
    assert feed.index.get(B) is None
    assert feed.index.get(C) is not None
    assert not feed.cursor().prune
    assert feed.bytes() == 6


def test_a_replay_is_no_news(feed: Feed) -> None:
    assert not feed.apply(message(put(1, 10), after=0, upto=1, request="r")).events


def test_a_restore_that_was_asked_for_lacks_no_key_meanwhile(feed: Feed) -> None:
    # Given a log of which all is applied
    feed.apply(message(epoch([(1, "e1")]), put(2, 10, A), put(3, 11, B), after=0, upto=3))
    # When it is applied again, and meanwhile something is stored
    with feed.index.write() as tables:
        cursor = feed.projection.reset_cursor(tables, "n1", same_log=True)
    assert (cursor.seq, cursor.complete_to, cursor.prune) == (0, 3, True)
    feed.apply(message(put(4, 12, C), after=3, upto=4))
    # Then the cursor says up to where the index knows every key, and these are there
    assert (feed.cursor().seq, feed.cursor().complete_to) == (0, 4)
    assert all(feed.index.get(key) for key in (A, B, C))
    feed.apply(message(epoch([(1, "e1")]), put(2, 10, A), put(3, 11, B), after=0, upto=4, request="r", last=True))
    assert feed.prune() == 0
    assert feed.cursor() == Cursor(4, 2, ((1, "e1"),), False, 0)


def test_a_log_that_breaks_off_during_a_restore_is_another_one(feed: Feed) -> None:
    feed.apply(message(epoch([(1, "e1")]), put(2, 10, A), put(3, 11, B), after=0, upto=3))
    with feed.index.write() as tables:
        feed.projection.reset_cursor(tables, "n1", same_log=True)
    feed.apply(message(epoch([(1, "e1"), (2, "e9")]), after=1, upto=2))
    assert (feed.cursor().complete_to, feed.cursor().generation) == (0, 3)


FUTURE = (1 << 63) - 1


@pytest.mark.parametrize("poison", [gone(1, FUTURE), put(1, FUTURE)])
def test_a_version_from_beyond_the_horizon_that_an_index_has_already_stands_in_nobodys_way(
    feed: Feed, poison: Result
) -> None:
    feed.apply(message(poison, node="n2", after=0, upto=1))
    assert feed.apply(message(put(1, 10, ticket=7), after=0, upto=1)).outcomes == {"w": [(7, Status.DONE, "")]}
    assert (entry(feed.index).version, entry(feed.index).node) == (10, "n1")
    feed.apply(message(put(2, FUTURE, keys.encode("other")), node="n2", after=1, upto=2))
    assert feed.apply(message(gone(2, 11, keys.encode("other"), ticket=8), after=1, upto=2)).outcomes == {
        "w": [(8, Status.DONE, "")]
    }
    assert feed.index.get(keys.encode("other")) is None


def test_the_bytes_of_an_index_are_exact_however_many_they_are(feed: Feed) -> None:
    for number in range(1, 5):
        feed.apply(message(put(number, number, b"k%d" % number, size=(1 << 63) - 1), after=number - 1, upto=number))
    assert feed.bytes() == 4 * ((1 << 63) - 1)
    feed.apply(message(*(gone(4 + number, 4 + number, b"k%d" % number) for number in (1, 2, 3)), after=4, upto=7))
    assert feed.bytes() == (1 << 63) - 1


def test_a_node_with_a_backup_from_before_a_purge_hears_of_the_purge(feed: Feed) -> None:
    feed.apply(message(put(1, 10), gone(2, 20, purge=True), after=0, upto=2))
    with feed.index.read() as tables:
        assert tables.deletion(b"key") == (20, NOW, 20)
    # A backup with the value comes back: the node forgets it for good
    feed.apply(message(put(1, 10), after=0, upto=1, request="r"))
    assert feed.outbox() == [Discard("n1", b"key", 10, True)]
    # And one with the value deleted, and held
    feed.apply(message(gone(2, 15), node="n2", after=0, upto=2, request="r"))
    assert Discard("n2", b"key", 20, True) in feed.outbox()
    # Both at once
    feed.apply(message(gone(2, 16), node="n3", after=0, upto=2, request="r"))
    assert {discard.node for discard in feed.outbox()} == {"n1", "n2", "n3"}
    # What they write then is no news
    before = feed.outbox()
    for node in ("n1", "n2", "n3"):
        feed.apply(message(gone(3, 20, purge=True), node=node, after=2, upto=3))
    assert feed.outbox() == before


def test_a_key_that_was_purged_and_stored_and_deleted_again_stays_purged_below(feed: Feed) -> None:
    feed.apply(message(gone(1, 20, purge=True), put(2, 30), gone(3, 40), after=0, upto=3))
    with feed.index.read() as tables:
        assert tables.deletion(b"key") == (40, NOW, 20)
    feed.apply(message(put(1, 10), node="n2", after=0, upto=1, request="r"))
    feed.apply(message(put(2, 30), node="n3", after=0, upto=2, request="r"))
    assert set(feed.outbox()) == {Discard("n2", b"key", 10, True), Discard("n3", b"key", 30, False)}


# Several holders.


def nodes(index: Index, key: bytes = b"key") -> list[str]:
    return entry(index, key).nodes


def test_the_same_version_from_another_node_adds_a_holder_and_is_no_news(feed: Feed) -> None:
    feed.apply(message(put(1, 10), after=0, upto=1))
    second = feed.apply(message(put(4, 10, ticket=5), node="n2", after=0, upto=4))
    assert (second.outcomes, second.events) == ({"w": [(5, Status.DONE, "")]}, [])
    again = feed.apply(message(put(4, 10), node="n2", after=0, upto=4), message(put(1, 10), after=0, upto=1))
    assert not again.events
    assert nodes(feed.index) == ["n1", "n2"]
    assert not feed.outbox()
    assert feed.bytes() == 3


def test_a_row_with_one_holder_is_as_it_was_before_there_were_copies(feed: Feed) -> None:
    feed.apply(message(put(1, 10), after=0, upto=1))
    with feed.index.read() as tables:
        row = tables._get("entries", b"key")
    assert row is not None
    assert msgpack.unpackb(row) == [10, "n1", 1, 1, NOW, 0, 3, "", b"d" * 32, b"abc"]
    feed.apply(message(put(1, 10), node="n2", after=0, upto=1))
    with feed.index.read() as tables:
        assert len(tables._get("entries", b"key") or b"") == len(row) + 6


def test_a_stale_result_adds_no_holder(feed: Feed) -> None:
    feed.apply(message(put(1, 10), after=0, upto=1))
    feed.apply(message(put(0, 10)._replace(status=Status.STALE), node="n2", after=0, upto=0))
    assert nodes(feed.index) == ["n1"]


def test_a_newer_version_is_discarded_at_the_holders_that_do_not_have_it(feed: Feed) -> None:
    for node in ("n1", "n2", "n3"):
        feed.apply(message(put(1, 10), node=node, after=0, upto=1))
    feed.apply(message(put(2, 20), node="n2", after=1, upto=2))
    assert nodes(feed.index) == ["n2"]
    assert feed.outbox() == [Discard("n1", b"key", 10, generation=1), Discard("n3", b"key", 10, generation=1)]


def test_a_deletion_reaches_every_holder_but_the_one_that_has_it(feed: Feed) -> None:
    for node in ("n1", "n2", "n3"):
        feed.apply(message(put(1, 10), node=node, after=0, upto=1))
    deleted = feed.apply(message(gone(2, 20), node="n2", after=1, upto=2))
    assert feed.index.get(b"key") is None
    assert feed.outbox() == [Discard("n1", b"key", 20), Discard("n3", b"key", 20)]
    assert [event.type for event in deleted.events] == ["key.deleted"]
    assert feed.bytes() == 0


def test_a_holder_that_lost_its_disk_leaves_the_entry_and_the_last_one_takes_it_along(feed: Feed) -> None:
    for node in ("n1", "n2"):
        feed.apply(message(epoch([(1, node)]), put(2, 10), node=node, after=0, upto=2))
    feed.apply(message(epoch([(1, "new")]), after=0, upto=1))
    assert feed.prune() == 1
    assert nodes(feed.index) == ["n2"]
    feed.apply(message(epoch([(1, "newer")]), node="n2", after=0, upto=1))
    assert feed.prune("n2") == 1
    assert feed.index.get(b"key") is None
    assert feed.bytes() == 0


def test_a_log_that_is_applied_again_keeps_both_holders(feed: Feed) -> None:
    for node in ("n1", "n2"):
        feed.apply(message(put(1, 10), node=node, after=0, upto=1))
    for node in ("n1", "n2"):
        with feed.index.write() as tables:
            feed.projection.reset_cursor(tables, node, same_log=True)
        feed.apply(message(put(1, 10), node=node, after=0, upto=1, request="r"))
        assert feed.prune(node) == 0
    assert entry(feed.index).holders == (("n1", 2), ("n2", 2))


def test_of_two_nodes_that_return_with_older_disks_the_newest_version_left_counts_and_none_is_discarded(
    feed: Feed,
) -> None:
    # Given a value on two nodes that both had an older version of it, too
    for node in ("n1", "n2"):
        feed.apply(message(epoch([(1, node)]), put(2, 10), node=node, after=0, upto=2))
    for node in ("n1", "n2"):
        feed.apply(message(put(3, 20), node=node, after=2, upto=3))
    with feed.index.write() as tables:
        for row, _ in discards.decide(tables, tables.due_discards(NOW * 2, 10), NOW * 2):
            tables.drop_discard(row)
    assert not feed.outbox()
    # When the first one returns with the older version
    feed.apply(message(epoch([(1, "a")]), put(2, 10), after=0, upto=2, request="r"))
    # Then the newer one counts, as long as the other node may have it
    assert (entry(feed.index).version, nodes(feed.index)) == (20, ["n2"])
    assert feed.outbox() == [Discard("n1", b"key", 10, generation=2)]
    # When the other one returns without it
    feed.apply(message(epoch([(1, "b")]), put(2, 10), node="n2", after=0, upto=2, request="r"))
    assert (entry(feed.index).version, nodes(feed.index)) == (10, ["n2"])
    # Then the discard of what is the newest again makes its node a holder
    with feed.index.write() as tables:
        due = tables.due_discards(NOW + DISCARD_DELAY_MS + 100, 10)
        assert discards.decide(tables, due, NOW + DISCARD_DELAY_MS) == []
    assert nodes(feed.index) == ["n2", "n1"]
    assert not feed.outbox()


def test_an_older_version_is_forgotten_only_when_a_holder_of_the_newer_one_is_there(feed: Feed) -> None:
    for node in ("n1", "n2"):
        feed.apply(message(put(1, 10), node=node, after=0, upto=1))
    feed.apply(message(put(2, 20), node="n2", after=1, upto=2))
    due = NOW + DISCARD_DELAY_MS
    with feed.index.write() as tables:
        assert discards.decide(tables, tables.due_discards(due, 10), due) == []
        assert tables.due_discards(due, 10) == []
        later = due + DISCARD_DELAY_MS
        ((row, discard),) = tables.due_discards(later, 10)
        tables.set_node(beat("n2"), later - 1)
        assert discards.decide(tables, [(row, discard)], later) == [(row, discard)]
        # While its log is applied from the beginning, nobody knows what it has
        feed.projection.reset_cursor(tables, "n2")
        assert discards.decide(tables, [(row, discard)], later) == []
    # A holder of the newer version needs no discard
    feed.apply(message(put(2, 20), after=1, upto=2))
    with feed.index.write() as tables:
        later += DISCARD_DELAY_MS
        assert discards.decide(tables, tables.due_discards(later, 10), later) == []
        assert tables.due_discards(later * 2, 10) == []


class Write(NamedTuple):
    """What a node has in its log of one key."""

    version: int
    deletes: bool


logs_of_nodes = st.lists(
    st.lists(st.builds(Write, st.integers(1, 4), st.booleans()), max_size=4).map(
        lambda writes: sorted({write.version * 2 + write.deletes: write for write in writes}.values())
    ),
    min_size=2,
    max_size=4,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(logs=logs_of_nodes, data=st.data())
def test_in_whatever_order_results_come_the_same_holders_are_found(
    feed: Feed, logs: list[list[Write]], data: st.DataObject
) -> None:
    """The newest version counts unless a deletion is as new; all who have it hold it, and all others must forget."""
    key, before = keys.encode(secrets.token_hex(8)), feed.bytes()
    results = [
        (f"n{number}", (gone if write.deletes else put)(seq, write.version, key))
        for number, writes in enumerate(logs)
        for seq, write in enumerate(writes, 1)
    ]
    order = data.draw(st.permutations(results))
    twice = data.draw(st.lists(st.sampled_from(results), max_size=3)) if results else []
    for node, item in (*order, *twice):
        feed.apply(message(item, node=node, after=item.seq - 1, upto=item.seq))
    values = [(item.version, node) for node, item in results if item.kind == Kind.PUT]
    newest = max(values, default=(0, ""))[0]
    deleted = max((item.version for _, item in results if item.kind == Kind.DELETE), default=0)
    found = feed.index.get(key)
    if newest <= deleted:
        assert found is None
    else:
        assert found is not None
        assert found.version == newest
        assert sorted(found.nodes) == sorted({node for version, node in values if version == newest})
    assert feed.bytes() - before == (3 if found else 0)
    outbox = feed.outbox()
    for number, writes in enumerate(logs):
        last = writes[-1] if writes else None
        if last and not last.deletes and (found is None or last.version < found.version):
            told = [discard.version for discard in outbox if (discard.node, discard.key) == (f"n{number}", key)]
            assert max(told, default=0) >= last.version
    with feed.index.write() as tables:
        for row, _ in tables.due_discards(NOW * 2, 1000):
            tables.drop_discard(row)


def test_a_node_that_has_dropped_a_version_is_no_holder_of_it_and_nothing_is_deleted(feed: Feed) -> None:
    feed.apply(message(put(1, 10), after=0, upto=1), message(put(1, 10), node="n2", after=0, upto=1))
    dropped = Drop(0, b"key", 10)
    # What was not done, or is about another version, changes nothing
    feed.apply(message(dropped.result(Status.STALE), after=1, upto=1))
    feed.apply(message(Drop(0, b"key", 9).result(Status.DONE, seq=2), after=1, upto=2))
    assert entry(feed.index).nodes == ["n1", "n2"]
    for _ in range(2):
        feed.apply(message(dropped.result(Status.DONE, seq=3), after=2, upto=3))
        assert entry(feed.index).nodes == ["n2"]
    assert (feed.outbox(), feed.cursor().seq) == ([], 3)
    # And if it was the last one after all, its log is the truth
    feed.apply(message(dropped.result(Status.DONE, seq=3), node="n2", after=1, upto=3))
    assert feed.index.get(b"key") is None
    with feed.index.read() as tables:
        assert tables.deletion(b"key") is None
