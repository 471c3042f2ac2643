"""Commands of a node: applied as one group, answered to whoever sent them, and never acknowledged before."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import keys
from broker.messages.store import Commands, Confirm, Confirmed, Delete, Drop, Kind, Status, Store
from node.command_executor import CommandExecutor
from node.errors import Broken
from node.storage.storage import Storage
from tests.unit.node_link import NodeLink, delivery
from tests.unit.volume import Volume, delete, store


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    storage = Volume(tmp_path / "data").open()
    yield storage
    storage.close()


@pytest.fixture
def link() -> NodeLink:
    return NodeLink()


@pytest.fixture
def executor(storage: Storage, link: NodeLink) -> CommandExecutor:
    return CommandExecutor("n1", storage, link)  # type: ignore[arg-type]


def commands(origin: str, *items: Store | Delete) -> Commands:
    return Commands(origin, list(items))


def test_each_sender_gets_the_results_of_its_commands(
    executor: CommandExecutor, link: NodeLink, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given messages of two processes, and a value of the node's own
    groups: list[int] = []
    apply = storage.apply
    monkeypatch.setattr(storage, "apply", lambda items: groups.append(len(items)) or apply(items))
    first, second = delivery(commands("a", store("k1", 1), store("k2", 2))), delivery(commands("b", delete("k3", 3)), 2)
    executor.add(first, commands("a", store("k1", 1), store("k2", 2)))
    executor.add(second, commands("b", delete("k3", 3)))
    stored: list[list[str]] = []
    executor.store_values([store("own", 4)], lambda results: stored.append([keys.decode(r.key) for r in results]))
    assert link.acked == []
    begin = storage.seq
    # When they are carried out
    executor.work()
    # Then one group was applied, and each sender has its results
    assert groups == [4]
    assert [(sent.origin, [r.ticket for r in sent.items]) for sent in link.results()] == [
        ("a", [1, 2]),
        ("b", [3]),
        ("", [4]),
    ]
    assert stored == [["own"]]
    assert link.acked == [first, second]
    # And their ranges cover the log without a gap
    ranges = [(sent.after, sent.upto) for sent in link.results()]
    assert ranges == [(begin, begin + 2), (begin + 2, begin + 3), (begin + 3, begin + 4)]
    # And the own value's results have a confirm, as the reports of runs have
    assert [options["done"] is not None for options in link.options] == [False, False, True]


def test_commands_from_the_future_are_buried_one_by_one(executor: CommandExecutor, link: NodeLink) -> None:
    future = (time.time_ns() // 1_000_000 + 2 * 86_400_000) * 4_096_000
    bad = store("bad", future)._replace(ticket=7)
    silent = delete("silent", future)._replace(ticket=0)
    message = commands("a", store("good", 1), bad, silent)
    executor.add(delivery(message), message)
    executor.work()
    (sent,) = link.results()
    assert [(keys.decode(r.key), r.status, r.kind, r.version) for r in sent.items] == [
        ("good", Status.DONE, Kind.PUT, 1),
        ("bad", Status.FAILED, Kind.PUT, 0),
    ]
    assert "days ahead of this machine's clock" in sent.items[1].reason
    assert [buried.items for buried, _ in link.buried] == [[bad], [silent]]
    assert len(link.acked) == 1


def test_messages_of_a_lost_connection_are_dropped(executor: CommandExecutor, link: NodeLink, storage: Storage) -> None:
    executor.add(delivery(commands("a", store("k", 1))), commands("a", store("k", 1)))
    executor.forget()
    executor.work()
    assert (storage.totals.keys, link.sent, link.acked) == (0, [], [])


def test_lost_results_leave_a_gap_that_a_replay_fills(
    executor: CommandExecutor, link: NodeLink, storage: Storage
) -> None:
    # Given results that can't be sent
    link.ready = False
    executor.add(delivery(commands("a", store("k1", 1))), commands("a", store("k1", 1)))
    executor.work()
    assert len(link.acked) == 1, "the value is durable"
    # When more commands are carried out
    link.ready = True
    executor.add(delivery(commands("a", store("k2", 2))), commands("a", store("k2", 2)))
    executor.work()
    # Then their range begins after the gap
    (sent,) = link.results()
    assert (sent.after, sent.upto, sent.end) == (storage.seq - 1, storage.seq, storage.seq)


def test_nothing_is_acknowledged_or_applied_once_the_storage_is_broken(
    executor: CommandExecutor, link: NodeLink, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise Broken("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "apply", fail)
        executor.add(delivery(commands("a", store("k", 1))), commands("a", store("k", 1)))
        with pytest.raises(Broken):
            executor.work()
    executor.add(delivery(commands("a", store("k", 1))), commands("a", store("k", 1)))
    executor.work()
    assert (executor.closed, storage.totals.keys, link.sent, link.acked) == (True, 0, [], [])


def test_a_closed_executor_applies_nothing(executor: CommandExecutor, link: NodeLink, storage: Storage) -> None:
    executor.store_values([store("own", 1)], lambda _: None)
    executor.closed = True
    executor.work()
    assert (storage.totals.keys, link.sent) == (0, [])


def test_a_question_is_answered_by_what_is_here_after_all_commands_before_it(
    executor: CommandExecutor, link: NodeLink, storage: Storage
) -> None:
    kept, gone, bad = store("kept", 1), store("gone", 2), store("bad", 3)
    assert storage.apply([kept, gone, bad])
    message = Commands("", [Drop(0, gone.key, 2)])
    executor.add(delivery(message), message)
    for name, command, reason in (("1", kept, ""), ("2", gone, ""), ("3", bad, "the node has other bytes")):
        executor.answer(Confirm(name, command._replace(value=None), "http://n1"), reason)
    executor.work()
    (answers,) = [sent for _, sent in link.sent if isinstance(sent, Confirmed)]
    missing = "the node has another version of it, or none"
    assert answers == Confirmed("n1", [("1", ""), ("2", missing), ("3", "the node has other bytes")])
    # Without RabbitMQ nobody is told, and asked again later
    link.ready = False
    executor.answer(Confirm("4", kept._replace(value=None), "http://n1"), "")
    executor.work()
    assert len(link.sent) == 2
