"""Once a second: lifetimes end, nodes hear what they must forget, old deletions are forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import keys
from broker.clock import DAY_MS
from broker.messages.store import Command, Commands, Drop
from master.index import housekeeping
from master.index.housekeeping import DELETIONS_SECS, Housekeeping
from master.index.index import Deletion, Discard, Entry, Holder, Index
from tests.support import decode

NOW = 1_700_000_000_000
A, B, C, D = (keys.encode(name) for name in "abcd")


class Link:
    """Takes durable messages; the broker confirms them when the test says so."""

    def __init__(self) -> None:
        self.ready = True
        self.sent: list[tuple[str, list[bytes]]] = []
        self.items: list[Command] = []
        self.waiting: list[Callable[[bool], None]] = []
        self.expired: list[tuple[float, int]] = []

    def publish(self, queue: str, body: bytes, *, durable: bool, done: Callable[[bool], None]) -> None:
        assert durable
        items = decode(body, Commands).items
        self.items += items
        self.sent.append((queue.removeprefix("pulzar.node."), [item.key for item in items]))
        self.waiting.append(done)

    def expire_dead(self, before: float, most: int) -> None:
        self.expired.append((before, most))

    def confirm(self, confirmed: bool) -> None:
        while self.waiting:
            self.waiting.pop()(confirmed)


class House:
    """An index and its housekeeping, with a clock of its own."""

    def __init__(self, directory: Path) -> None:
        self.index = Index(directory / "index", 64 << 20, write=True)
        self.link = Link()
        self.clock = 1_000.0
        self.keeping = Housekeeping(self.index, self.link, tombstone_days=2, retention_days=90)  # type: ignore[arg-type]

    def store(self, key: bytes, expires: int = 0, version: int = 10, node: str = "n1") -> None:
        with self.index.write() as tables:
            tables.put_entry(key, None, Entry(version, node, 1, 1, NOW, expires, 3, "", D * 32, None))

    def delete(self, key: bytes, noted: int) -> None:
        with self.index.write() as tables:
            tables.set_deletion(key, Deletion(10, noted))

    def deletions(self) -> list[bytes]:
        with self.index.read() as tables:
            return [key for key, _ in tables.deletions()]

    def outbox(self) -> int:
        with self.index.read() as tables:
            return len(tables.due_discards(NOW * 2, 1000))

    def bytes(self) -> int:
        with self.index.read() as tables:
            return tables.usage().size


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    house = House(tmp_path)
    monkeypatch.setattr(housekeeping.time, "monotonic", lambda: house.clock)
    yield house
    house.index.close()


def test_values_whose_lifetime_has_ended_leave_the_index_and_their_nodes_are_told(house: House) -> None:
    house.store(A, expires=NOW - 1)
    house.store(B, expires=NOW, version=11, node="n2")
    house.store(C, expires=NOW + 1, version=12)
    house.store(D, version=13)
    house.keeping.tick(NOW)
    assert [house.index.get(key) is not None for key in (A, B, C, D)] == [False, False, True, True]
    assert house.deletions() == [A, B]
    assert house.bytes() == 6
    assert sorted(house.link.sent) == [("n1", [A]), ("n2", [B])]
    house.keeping.tick(NOW + 1)
    assert house.index.get(C) is None


def test_the_lifetime_of_a_version_that_was_replaced_ends_nothing(house: House) -> None:
    house.store(A, expires=NOW - 1, version=10)
    house.store(A, version=20)  # as an index of an older Pulzar may have it: the lifetime is still listed
    house.keeping.tick(NOW)
    assert house.index.get(A) is not None
    assert house.outbox() == 0
    with house.index.read() as tables:
        assert tables.ended_lifetimes(NOW, 10) == []


def test_many_lifetimes_end_a_batch_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 3)
    for number in range(4):
        house.store(keys.encode(f"k{number}"), expires=NOW - 1, version=10 + number)
    house.keeping.tick(NOW)
    assert house.bytes() == 3
    house.keeping.tick(NOW)
    assert house.bytes() == 0


def test_a_discard_stays_until_the_broker_has_its_message_and_is_sent_again_if_not(house: House) -> None:
    with house.index.write() as tables:
        tables.add_discard(Discard("n1", A, 10), NOW)
        tables.add_discard(Discard("n1", C, 11), NOW + 60_000)
    # While RabbitMQ is away nothing is sent
    house.link.ready = False
    house.keeping.tick(NOW)
    assert house.link.sent == []
    # Then it is sent once, and not again while it is on its way
    house.link.ready = True
    house.keeping.tick(NOW)
    house.keeping.tick(NOW)
    assert house.link.sent == [("n1", [A])]
    # What the broker did not take goes again
    house.link.confirm(False)
    house.keeping.tick(NOW)
    assert house.link.sent == [("n1", [A])] * 2
    assert house.outbox() == 2
    house.link.confirm(True)
    house.keeping.tick(NOW + 20)
    assert house.outbox() == 1
    assert len(house.link.sent) == 2
    house.keeping.tick(NOW + 60_000)
    assert house.link.sent[-1] == ("n1", [C])


def test_deletions_are_forgotten_after_their_days_and_looked_for_once_an_hour(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    for number in range(5):
        house.delete(keys.encode(f"old{number}"), NOW - 2 * DAY_MS - 1)
    house.delete(D, NOW - 2 * DAY_MS)
    house.keeping.tick(NOW)
    assert house.deletions() == [D]
    house.keeping.tick(NOW + 1)
    assert house.deletions() == [D]
    house.clock += DELETIONS_SECS
    house.keeping.tick(NOW + 1)
    assert house.deletions() == []


def test_dead_messages_are_looked_at_once_a_minute(house: House) -> None:
    for _ in range(3):
        house.keeping.tick(NOW)
    assert house.link.expired == [(NOW / 1000 - 90 * 86_400, housekeeping.DEAD_BATCH)]
    house.clock += housekeeping.DEAD_SECS
    house.keeping.tick(NOW)
    assert len(house.link.expired) == 2


def test_every_holder_hears_that_a_lifetime_has_ended(house: House) -> None:
    with house.index.write() as tables:
        entry = Entry(10, "n1", 1, 1, NOW, NOW - 1, 3, "", D * 32, None, (Holder("n2", 1), Holder("n3", 1)))
        tables.put_entry(A, None, entry)
    house.keeping.tick(NOW)
    house.keeping.tick(NOW + 10)
    assert sorted(house.link.sent) == [("n1", [A]), ("n2", [A]), ("n3", [A])]


def test_a_superseded_copy_is_forgotten_only_when_the_newer_version_is_sure(house: House) -> None:
    house.store(A, version=20, node="n2")
    with house.index.write() as tables:
        tables.add_discard(Discard("n1", A, 10, generation=1), NOW)
        tables.add_discard(Discard("n3", A, 10), NOW)
    house.keeping.tick(NOW + 10)
    assert house.link.sent == [("n3", [A])]  # as ever where values have one holder
    house.link.confirm(True)
    house.keeping.tick(NOW + 20)
    assert house.outbox() == 1


def test_a_copy_that_is_too_many_is_dropped_unless_it_counts_again(house: House) -> None:
    house.store(A, version=10, node="n2")
    house.store(B, version=10, node="n1")
    with house.index.write() as tables:
        for node, key in (("n1", A), ("n1", B), ("n3", C)):
            tables.add_discard(Discard(node, key, 10, drop=True), NOW)
    house.keeping.tick(NOW + 10)
    house.link.confirm(True)
    house.keeping.tick(NOW + 20)
    assert sorted(house.link.sent) == [("n1", [A]), ("n3", [C])]
    assert {type(item) for item in house.link.items} == {Drop}
    assert house.outbox() == 0
