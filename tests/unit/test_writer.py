"""The write path: attempts, versions, and what is forgotten when nothing came of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from broker import keys
from broker.clock import now_ms
from broker.messages.store import Delete, Fetch, Source, Status, Store
from broker.refusals import ConditionFailed, Conflict, NoRoom, NotFound, Unavailable
from master.cluster.replicas import Replicas
from master.index.index import Deletion, Entry, Holder, Index
from master.store.dispatcher import Failure, Ticket
from master.store.key_locks import KeyLocks
from master.store.quotas import Quotas
from master.store.versions import Versions
from master.store.writer import Check, Copy, Put, StoredValue, Writer

KEY = keys.encode("key")
OTHER = keys.encode("other")
COPY = Copy(KEY, OTHER, lambda entry: None, overwrite=False, expires=None)


def impossible(_entry: Entry | None) -> None:
    """A condition that never holds."""
    raise ConditionFailed("it does not hold")


class FakeNetwork:
    def __init__(self) -> None:
        self.nodes = ["a", "b"]
        self.lacking_nodes: list[str] = []
        self.full: set[str] = set()
        self.draining: set[str] = set()
        self.doubted: list[str] = []

    def may_lack_keys(self) -> bool:
        return bool(self.lacking_nodes)

    def awaited(self) -> list[str]:
        return self.lacking_nodes

    def names(self) -> list[str]:
        return self.nodes

    def alive(self, node: str) -> bool:
        return node in self.nodes

    def by_load(self, nodes: Sequence[str]) -> list[str]:
        return list(nodes)

    def count_alive(self) -> int:
        return len(self.nodes)

    def choose_several(self, size: int, number: int, exclude: Collection[str], beside: Collection[str]) -> list[str]:
        return [node for node in self.nodes if node not in {*exclude, *beside, *self.full}][:number]

    def doubt(self, node: str) -> None:
        self.doubted.append(node)

    def url(self, node: str) -> str:
        return f"http://{node}"

    def lacking(self) -> int | None:
        return len(self.lacking_nodes)

    def takes(self, node: str) -> bool:
        return self.alive(node) and node not in self.draining

    def any_alive(self, exclude: Collection[str] = ()) -> str | None:
        return next((node for node in self.nodes if node not in exclude), None)


class FakeDispatcher:
    """Settles commands as its script says: with a status, or None for no outcome."""

    def __init__(self, network: FakeNetwork) -> None:
        self.network = network
        self.script: list[Status | Failure | None] = []
        self.sent: list[tuple[str, Store | Delete]] = []
        self.forgotten: list[tuple[str, int]] = []
        self.fetched: list[tuple[str, Fetch]] = []
        self.purged: list[bool] = []  # for each of these
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

    def fetch(self, make: Callable[[int, str], Fetch], node: str) -> Ticket:
        fetch = make(1, "w")
        self.fetched.append((node, fetch))
        ticket = Ticket(1, node)
        ticket.settle(Status.DONE, "")
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        assert ticket.number == 1

    def forget(self, node: str, _key: bytes, version: int, *, purge: bool) -> None:
        self.forgotten.append((node, version))
        self.purged.append(purge)


class Bench:
    def __init__(
        self, directory: Path, limits: dict[str, int] | None = None, least: int = 0, timeout: float = 0.5
    ) -> None:
        self.index = Index(directory / "index", 64 << 20, write=True)
        self.network = FakeNetwork()
        self.dispatcher = FakeDispatcher(self.network)
        versions = Versions(directory)
        locks = KeyLocks(directory)
        self.quotas = Quotas(self.index, limits or {})
        parts = self.index, self.network, self.dispatcher, locks, versions
        replicas = Replicas([("", 1), ("two/", 2), ("three/", 3)], least)
        self.writer = Writer(*parts, quotas=self.quotas, timeout=timeout, replicas=replicas, secret=b"s")  # type: ignore[arg-type]

    def put(self, overwrite: bool = False, key: bytes = KEY, check: Check = lambda entry: None) -> StoredValue:
        put = Put(key, 3, b"d" * 32, "", 0, overwrite, check, b"abc")
        return asyncio.run(self.writer.put(put))

    def delete(self, purge: bool = False, key: bytes = KEY, check: Check = lambda entry: None) -> None:
        asyncio.run(self.writer.delete(key, check, purge=purge))

    def renew(self, key: bytes = KEY, check: Check = lambda entry: None) -> StoredValue:
        return asyncio.run(self.writer.renew(key, check, 0))

    def copy(self, **changes: Any) -> tuple[StoredValue, Entry]:
        return asyncio.run(self.writer.copy(COPY._replace(**changes)))

    def move(self, **changes: Any) -> tuple[StoredValue, Entry]:
        return asyncio.run(self.writer.move(COPY._replace(**changes)))

    def known(self, node: str = "b", version: int = 5, expires: int = 0, *, key: bytes = KEY, **changes: Any) -> None:
        entry = Entry(version, node, 1, 1, 1, expires, 3, "", b"d" * 32, None)._replace(**changes)
        with self.index.write() as tables:
            tables.put_entry(key, None, entry)


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
    bench.network.lacking_nodes = ["a"]
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


def test_a_copy_is_made_on_the_node_of_the_value_and_lives_as_long(bench: Bench) -> None:
    far = now_ms() + 60_000
    bench.known("b", version=5, expires=far)
    stored, source = bench.copy()
    ((node, command),) = bench.dispatcher.sent
    assert isinstance(command, Store)
    assert (node, stored.node, source.version) == ("b", "b", 5)
    assert command.key == OTHER
    assert Source.read(command.staged) == Source(KEY, 5)
    assert (command.value, command.size, command.digest, command.expires) == (None, 3, b"d" * 32, far)
    assert command.created >= now_ms() - 5_000
    bench.copy(expires=0)
    assert bench.dispatcher.sent[-1][1].expires == 0  # type: ignore[union-attr]


def test_a_copy_of_what_is_not_there_or_onto_what_is_there_is_refused(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.copy()
    bench.known(expires=1)
    with pytest.raises(NotFound):
        bench.copy()
    bench.known()
    bench.known(key=OTHER, version=7)
    with pytest.raises(Conflict):
        bench.copy()
    with pytest.raises(ConditionFailed):
        bench.copy(check=_refuse, overwrite=True)
    assert not bench.dispatcher.sent
    bench.copy(overwrite=True)
    assert bench.dispatcher.sent[0][1].version > 7


def test_a_source_that_its_node_does_not_have_is_404(bench: Bench) -> None:
    bench.known()
    bench.dispatcher.script = [Status.MISSING]
    with pytest.raises(NotFound, match="version 5 of key is gone"):
        bench.copy()
    assert not bench.dispatcher.forgotten


def test_a_value_in_the_index_is_copied_without_its_node(bench: Bench) -> None:
    bench.network.nodes = ["a"]
    bench.known("b")
    with pytest.raises(Unavailable, match="node b, which has this value"):
        bench.copy()
    bench.known("b", value=b"abc")
    assert bench.copy()[0].node == "a"
    assert bench.dispatcher.sent[-1][1].value == b"abc"  # type: ignore[union-attr]


def test_a_move_deletes_the_source_for_good_when_the_copy_is_stored(bench: Bench) -> None:
    bench.known("b")
    bench.move()
    (_, copied), (node, deleted) = bench.dispatcher.sent
    assert copied.key == OTHER
    assert isinstance(deleted, Delete)
    assert (node, deleted.key, deleted.purge) == ("b", KEY, True)
    assert deleted.version > 5


def test_a_move_that_was_interrupted_goes_on_where_it_was(bench: Bench) -> None:
    bench.known("b")
    # Given that the copy is there, and the source could not be deleted
    bench.dispatcher.script = [Status.DONE, None, None]
    with pytest.raises(Unavailable, match=r"under other, and still under key.*repeat"):
        bench.move()
    bench.dispatcher.sent.clear()
    bench.known("b", key=OTHER, version=9, created=2)
    # When it is called again, then nothing is copied once more
    assert bench.move()[0].version == 9
    assert [type(command) for _, command in bench.dispatcher.sent] == [Delete]


@pytest.mark.parametrize("other", [{"digest": b"e" * 32}, {"content_type": "text/css"}, {"expires": 1 << 50}])
def test_a_move_onto_another_value_is_refused(bench: Bench, other: dict[str, Any]) -> None:
    bench.known("b")
    bench.known("b", key=OTHER, version=9, created=2, **other)
    with pytest.raises(Conflict):
        bench.move()
    assert not bench.dispatcher.sent


def test_what_nobody_was_told_of_is_purged_unless_that_would_purge_what_was_deleted_before(bench: Bench) -> None:
    bench.dispatcher.script = [None, None]
    with pytest.raises(Unavailable):
        bench.put()
    assert bench.dispatcher.purged == [True, True]
    with bench.index.write() as tables:
        tables.set_deletion(KEY, Deletion(5, now_ms()))
    bench.dispatcher.script = [None, None]
    with pytest.raises(Unavailable):
        bench.put()
    assert bench.dispatcher.purged == [True, True, False, False]
    # So it is for older versions of a key whose lifetime has ended
    bench.known(key=OTHER, expires=1)
    bench.dispatcher.script = [None, None]
    with pytest.raises(Unavailable):
        bench.put(key=OTHER)
    assert bench.dispatcher.purged[4:] == [False, False]


def test_a_purge_goes_to_every_node_and_to_a_key_that_is_deleted_already(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.delete(purge=True)
    bench.known("b")
    bench.delete(purge=True)
    ((node, command),) = bench.dispatcher.sent
    assert isinstance(command, Delete)
    assert (node, command.purge) == ("b", True)
    assert bench.dispatcher.forgotten == [("a", command.version), ("b", command.version)]
    assert bench.dispatcher.purged == [True, True]
    with bench.index.write() as tables:
        tables.drop_entry(KEY, bench.index.get(KEY))  # type: ignore[arg-type]
        tables.set_deletion(KEY, Deletion(command.version, now_ms()))
    with pytest.raises(NotFound):
        bench.delete()
    bench.delete(purge=True)
    assert bench.dispatcher.sent[-1][1].version > command.version


def _refuse(_entry: Entry | None) -> None:
    raise ConditionFailed("no")


# Several nodes.

TWO = keys.encode("two/key")
THREE = keys.encode("three/key")


def sent(bench: Bench) -> list[str]:
    return [node for node, _ in bench.dispatcher.sent]


def test_a_value_goes_to_as_many_nodes_as_its_folder_says_with_one_version(bench: Bench) -> None:
    bench.network.nodes = ["a", "b", "c"]
    stored = bench.put(key=TWO)
    assert (sent(bench), stored.node) == (["a", "b"], "a")
    assert {command.version for _, command in bench.dispatcher.sent} == {stored.version}
    bench.dispatcher.sent.clear()
    bench.put(key=THREE)
    assert sent(bench) == ["a", "b", "c"]


def test_a_request_may_ask_for_another_number(bench: Bench) -> None:
    put = Put(KEY, 3, b"d" * 32, "", 0, False, lambda entry: None, b"abc")
    asyncio.run(bench.writer.put(put._replace(replicas=2)))
    assert sent(bench) == ["a", "b"]
    asyncio.run(bench.writer.put(put._replace(replicas=1, key=TWO)))
    assert sent(bench) == ["a", "b", "a"]


def test_with_fewer_nodes_than_it_takes_nothing_is_sent(bench: Bench) -> None:
    with pytest.raises(Unavailable, match="it takes 3 nodes, and 2 can take it"):
        bench.put(key=THREE)
    bench.network.full = {"b"}
    with pytest.raises(NoRoom):
        bench.put(key=TWO)
    assert not bench.dispatcher.sent


def test_with_min_replicas_fewer_nodes_are_enough(tmp_path: Path) -> None:
    bench = Bench(tmp_path, least=2)
    try:
        bench.put(key=THREE)
        assert sent(bench) == ["a", "b"]
        bench.network.nodes = ["a"]
        with pytest.raises(Unavailable, match="it takes 2 nodes, and 1 can take it"):
            bench.put(key=THREE, overwrite=True)
    finally:
        bench.index.close()


def test_a_node_that_fails_is_replaced_and_gets_the_same_version(tmp_path: Path) -> None:
    bench = Bench(tmp_path, timeout=3.0)  # on a busy machine, too
    bench.network.nodes = ["a", "b", "c"]
    bench.dispatcher.script = [Status.DONE, None, Status.DONE]
    stored = bench.put(key=TWO)
    assert sent(bench) == ["a", "b", "c"]
    assert {command.version for _, command in bench.dispatcher.sent} == {stored.version}
    assert bench.network.doubted == ["b"]
    assert not bench.dispatcher.forgotten
    bench.index.close()


def test_what_is_on_too_few_nodes_stays_and_what_is_on_none_is_forgotten(bench: Bench) -> None:
    bench.dispatcher.script = [Status.DONE, Status.FULL]
    with pytest.raises(Unavailable, match="on 1 of the 2 nodes that it takes, and may be read"):
        bench.put(key=TWO)
    assert not bench.dispatcher.forgotten
    bench.dispatcher.script = [None, Status.FAILED]
    with pytest.raises(Unavailable):
        bench.put(key=keys.encode("two/other"))
    assert [node for node, _ in bench.dispatcher.forgotten] == ["b", "a"] or [
        node for node, _ in bench.dispatcher.forgotten
    ] == ["a", "b"]


def test_a_replacement_goes_to_the_holders_first(bench: Bench) -> None:
    bench.network.nodes = ["a", "b", "c", "d"]
    bench.known("d", key=TWO, copies=(Holder("c", 1),))
    bench.put(key=TWO, overwrite=True)
    assert sent(bench) == ["d", "c"]
    bench.network.nodes = ["a", "b", "c"]
    bench.dispatcher.sent.clear()
    bench.put(key=TWO, overwrite=True)
    assert sent(bench) == ["c", "a"]


def test_an_upload_is_fetched_by_the_other_nodes(bench: Bench) -> None:
    bench.network.nodes = ["a", "b", "c"]
    put = Put(TWO, 3, b"d" * 32, "", 0, False, lambda entry: None, node="b", staged="5" * 32)
    stored = asyncio.run(bench.writer.put(put))
    assert (sent(bench), stored.node) == (["b"], "b")
    ((node, fetch),) = bench.dispatcher.fetched
    assert (node, fetch.origin, fetch.store.version) == ("a", "w", stored.version)
    assert (fetch.store.staged, fetch.store.value, fetch.store.digest) == ("", None, b"d" * 32)
    assert [source.partition("?")[0] for source in fetch.sources] == ["http://b/get_key/two/key"]


def test_an_upload_that_can_not_be_on_enough_nodes_is_refused_before_it_is_stored(bench: Bench) -> None:
    put = Put(THREE, 3, b"d" * 32, "", 0, False, lambda entry: None, node="b", staged="5" * 32)
    with pytest.raises(Unavailable, match="it takes 3 nodes, and 2 can take it"):
        asyncio.run(bench.writer.put(put))
    assert not bench.dispatcher.sent


def test_a_copy_is_made_where_the_source_is_and_fetched_elsewhere(bench: Bench) -> None:
    bench.network.nodes = ["a", "b", "c"]
    bench.known("b", copies=(Holder("c", 1),))
    bench.copy(target=THREE)
    assert sent(bench) == ["b", "c"]
    assert [node for node, _ in bench.dispatcher.fetched] == ["a"]


def test_a_deletion_goes_to_all_holders_and_one_tombstone_is_enough(bench: Bench) -> None:
    bench.network.nodes = ["a", "b", "c"]
    bench.known("b", copies=(Holder("d", 1),))
    bench.dispatcher.script = [Status.DONE, None]
    bench.delete()
    # In place of the holder that is away, another node keeps the tombstone
    assert sent(bench) == ["b", "a", "c"]
    assert len({command.version for _, command in bench.dispatcher.sent}) == 1
    bench.network.nodes = []
    with pytest.raises(Unavailable):
        bench.delete()


def test_while_a_newer_value_may_be_on_nodes_that_the_index_has_not_read_nothing_is_replaced(bench: Bench) -> None:
    bench.known("a", key=TWO)
    bench.network.lacking_nodes = ["b", "c"]
    with pytest.raises(Unavailable, match="may not know the newest value"):
        bench.put(key=TWO, overwrite=True)
    # And no condition is judged by the value that it knows
    for write in (bench.put, bench.delete, bench.renew):
        with pytest.raises(Unavailable, match="may not know the newest value"):
            write(key=TWO, check=impossible)
    # With one of them away, each value on two nodes was seen at the other one
    bench.network.lacking_nodes = ["b"]
    bench.put(key=TWO, overwrite=True)
    for write in (bench.put, bench.delete, bench.renew):
        with pytest.raises(ConditionFailed):
            write(key=TWO, check=impossible)


def test_no_condition_is_judged_while_the_index_may_lack_the_key(bench: Bench) -> None:
    bench.network.lacking_nodes = ["a"]
    for write in (bench.put, bench.delete, bench.renew):
        with pytest.raises(Unavailable, match="being filled"):
            write(check=impossible)


def test_a_node_that_is_drained_gets_no_new_version(bench: Bench) -> None:
    bench.known("b")
    bench.network.draining = {"b"}
    assert bench.put(overwrite=True).node == "a"
    bench.network.nodes = ["a", "b", "c"]
    bench.known("b", key=TWO, copies=(Holder("c", 1),))
    bench.dispatcher.sent.clear()
    bench.network.full = {"b"}  # it is no candidate
    bench.put(key=TWO, overwrite=True)
    assert sent(bench) == ["c", "a"]


def test_a_client_hears_before_its_upload_that_too_few_nodes_are_there(bench: Bench) -> None:
    bench.writer.check_nodes(TWO, 0)
    bench.writer.check_nodes(THREE, 2)
    for key, replicas in ((THREE, 0), (KEY, 3)):
        with pytest.raises(Unavailable, match="it takes 3 nodes, and 2 can take it"):
            bench.writer.check_nodes(key, replicas)
    bench.network.nodes = []
    bench.writer.check_nodes(KEY, 0)


def test_a_number_that_the_folder_does_not_have_stays_with_the_value(bench: Bench) -> None:
    def kept(key: bytes, replicas: int) -> str:
        bench.dispatcher.sent.clear()
        put = Put(key, 3, b"d" * 32, "text/plain\ngzip\n7", 0, True, lambda entry: None, b"abc", replicas=replicas)
        asyncio.run(bench.writer.put(put))
        (text,) = {command.content_type for _, command in bench.dispatcher.sent if isinstance(command, Store)}
        return text

    assert kept(KEY, 2) == "text/plain\ngzip\n2"
    assert kept(TWO, 1) == "text/plain\ngzip\n1"
    # A number that is the folder's own is not kept, so that the folder's counts later
    assert [kept(KEY, 1), kept(TWO, 2), kept(TWO, 0)] == ["text/plain\ngzip"] * 3
    # A new lifetime and a move keep it; a copy goes by the settings of its folder
    bench.known("a", content_type="text/plain\n\n2", copies=(Holder("b", 1),))
    bench.dispatcher.sent.clear()
    asyncio.run(bench.writer.renew(KEY, lambda entry: None, 0))
    bench.move()
    bench.copy(target=keys.encode("third"))
    stores = [command for _, command in bench.dispatcher.sent if isinstance(command, Store)]
    assert [store.content_type for store in stores] == ["text/plain\n\n2"] * 4 + ["text/plain"]
