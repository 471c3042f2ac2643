"""The write path: attempts, versions, and what is forgotten when nothing came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from broker import keys
from broker.clock import now_ms
from broker.messages.store import Delete, Status, Store
from broker.refusals import Conflict, NoRoom, NotFound, Unavailable
from master.index.index import Deletion, Entry, Index
from master.store.dispatcher import Failure, Ticket
from master.store.key_locks import KeyLocks
from master.store.versions import Versions
from master.store.writer import Put, StoredValue, Writer

KEY = keys.encode("key")


class FakeNetwork:
    def __init__(self) -> None:
        self.nodes = ["a", "b"]
        self.lacking: list[str] = []

    def may_lack_keys(self) -> bool:
        return bool(self.lacking)

    def awaited(self) -> list[str]:
        return self.lacking

    def alive(self, node: str) -> bool:
        return node in self.nodes

    def any_alive(self, exclude: Collection[str] = ()) -> str | None:
        return next((node for node in self.nodes if node not in exclude), None)


class FakeDispatcher:
    """Settles commands as its script says: with a status, or None for no outcome."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.script: list[Status | Failure | None] = []
        self.sent: list[tuple[str, Store | Delete]] = []
        self.forgotten: list[tuple[str, int]] = []
        self.reason = ""

    def send(
        self, make: Callable[[int], Store | Delete], node: str | None = None, exclude: Collection[str] = ()
    ) -> Ticket:
        node = node or self.network.any_alive(exclude)
        ticket = Ticket(1, node)
        if node is None:
            ticket.settle(Failure.NO_NODE, Failure.NO_NODE.value)
            return ticket
        self.sent.append((node, make(1)))
        status = self.script.pop(0) if self.script else Status.DONE
        if status is not None:
            ticket.settle(status, self.reason)
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        assert ticket.number == 1

    def forget(self, node: str, _key: bytes, version: int) -> None:
        self.forgotten.append((node, version))


class Bench:
    def __init__(self, directory: Path) -> None:
        self.index = Index(directory / "index", 64 << 20, write=True)
        self.network = FakeNetwork()
        self.dispatcher = FakeDispatcher(self.network)
        versions = Versions(directory)
        locks = KeyLocks(directory)
        self.writer = Writer(self.index, self.network, self.dispatcher, locks, versions, timeout=0.5)  # type: ignore[arg-type]

    def put(self, overwrite: bool = False) -> StoredValue:
        put = Put(KEY, 3, b"d" * 32, "", 0, overwrite, lambda entry: None, b"abc")
        return asyncio.run(self.writer.put(put))

    def delete(self) -> None:
        asyncio.run(self.writer.delete(KEY, lambda entry: None))

    def known(self, node: str = "b", version: int = 5, expires: int = 0) -> None:
        entry = Entry(version, node, 1, 1, 1, expires, 3, "", b"d" * 32, None)
        with self.index.write() as tables:
            tables.put_entry(KEY, None, entry)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.index.close()


def test_a_value_is_stored_at_the_first_attempt(bench: Bench) -> None:
    assert bench.put().node == "a"
    assert len(bench.dispatcher.sent) == 1


def test_a_node_that_does_not_answer_is_left_for_another_with_a_higher_version(bench: Bench) -> None:
    bench.dispatcher.script = [None, Status.DONE]
    stored = bench.put()
    (first, one), (second, two) = bench.dispatcher.sent
    assert (first, second, stored.node) == ("a", "b", "b")
    assert two.version > one.version
    assert bench.dispatcher.forgotten == []  # the controller sees that the older version is not wanted


def test_what_came_to_nothing_is_forgotten_on_every_node_it_was_sent_to(bench: Bench) -> None:
    bench.dispatcher.script = [None, None]
    with pytest.raises(Unavailable):
        bench.put()
    assert bench.dispatcher.forgotten == [(node, command.version) for node, command in bench.dispatcher.sent]
    assert len(bench.dispatcher.forgotten) == 2


def test_a_failed_replacement_never_makes_a_node_forget_the_value_there_was(bench: Bench) -> None:
    bench.known()
    bench.dispatcher.script = [None, None]
    with pytest.raises(Unavailable):
        bench.put(overwrite=True)
    assert bench.dispatcher.sent
    assert not bench.dispatcher.forgotten


def test_a_replacement_goes_where_the_value_is(bench: Bench) -> None:
    bench.known("b")
    assert bench.put(overwrite=True).node == "b"


def test_full_nodes_are_passed_over_and_when_all_are_full_it_is_said(bench: Bench) -> None:
    bench.dispatcher.script = [Status.FULL, Status.DONE]
    assert bench.put().node == "b"
    bench.dispatcher.script = [Status.FULL, Status.FULL]
    with pytest.raises(NoRoom):
        bench.put()
    bench.dispatcher.script = [Failure.NO_NODE]
    with pytest.raises(NoRoom):
        bench.put()
    bench.network.nodes = []
    with pytest.raises(Unavailable, match="no node that has room was heard from lately"):
        bench.put()


def test_a_key_that_exists_is_not_touched(bench: Bench) -> None:
    bench.known()
    with pytest.raises(Conflict):
        bench.put()
    assert not bench.dispatcher.sent


def test_a_key_whose_lifetime_has_ended_is_free_and_gets_a_higher_version(bench: Bench) -> None:
    far = 1 << 61
    bench.known(version=far, expires=now_ms() - 1)
    assert bench.put().version > far


def test_a_deletion_from_a_clock_that_was_ahead_is_overcome(bench: Bench) -> None:
    far = 1 << 61
    with bench.index.write() as tables:
        tables.set_deletion(KEY, Deletion(far, now_ms()))
    bench.dispatcher.script = [Status.STALE, Status.DONE]
    assert bench.put().version > far


def test_nothing_is_new_and_nothing_unknown_while_the_index_is_filled(bench: Bench) -> None:
    bench.network.lacking = ["a"]
    with pytest.raises(Unavailable, match="being filled"):
        bench.put()
    with pytest.raises(Unavailable, match="being filled"):
        bench.delete()
    bench.known()
    assert bench.put(overwrite=True)


def test_a_deletion_goes_to_the_node_with_the_value_and_else_to_another(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.delete()
    bench.known("b")
    bench.dispatcher.script = [None, Status.DONE]
    bench.delete()
    assert [node for node, _ in bench.dispatcher.sent] == ["b", "a"]
    bench.network.nodes = ["a"]
    bench.delete()
    assert bench.dispatcher.sent[-1][0] == "a"
