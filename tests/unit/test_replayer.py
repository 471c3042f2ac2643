"""Replays of a node's log: in stretches of messages, the epochs first, the end marked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from broker import topology
from broker.messages.codec import decode_any, encode
from broker.messages.store import Epoch, Kind, Replay, Result, Results
from node import replayer as replayer_module
from node.replayer import Replayer
from node.storage import log_replay
from node.storage.storage import Storage
from tests.support import wait_for
from tests.unit.node_link import NodeLink
from tests.unit.volume import Volume, store


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Storage]:
    monkeypatch.setattr(replayer_module, "MESSAGES", 2)
    monkeypatch.setattr(log_replay, "_ITEMS", 3)
    storage = Volume(tmp_path / "data").open()
    storage.apply([store(f"k{number}", number) for number in range(1, 9)])
    yield storage
    storage.close()


@pytest.fixture
def link() -> NodeLink:
    return NodeLink()


@pytest.fixture
def replayer(storage: Storage, link: NodeLink) -> Iterator[Replayer]:
    replayer = Replayer("n1", storage, link)  # type: ignore[arg-type]
    replayer.start()
    yield replayer
    replayer.stop()


def seqs(message: Results) -> list[int]:
    return [item.seq for item in message.items if item.kind != Kind.EPOCH]


def test_a_log_is_replayed_stretch_by_stretch(replayer: Replayer, link: NodeLink, storage: Storage) -> None:
    first = storage.epoch.seq + 1
    # When a replay is asked for, and again from where each stretch ends
    replayer.ask(Replay("r1", 0))
    stretch = link.wait_sent(2)
    replayer.ask(Replay("r2", stretch[-1].upto))
    stretches = link.wait_sent(4)
    # Then all records have come, in ranges without gaps
    assert [seq for message in stretches for seq in seqs(message)] == list(range(first, first + 8))
    assert [message.request for message in stretches] == ["r1", "r1", "r2", "r2"]
    assert [message.after for message in stretches[1:]] == [message.upto for message in stretches[:-1]]
    assert (stretches[0].after, stretches[-1].upto) == (0, storage.seq)
    # And only the last message of each says so
    assert [message.last for message in stretches] == [False, True, False, True]
    # And the first message of each has the epochs
    for message in (stretches[0], stretches[2]):
        assert message.items[0].epochs() == storage.epochs
    assert {queue for queue, _ in link.sent} == {topology.RESULTS}


def test_a_replay_from_the_end_has_the_epochs_and_no_records(
    replayer: Replayer, link: NodeLink, storage: Storage
) -> None:
    replayer.ask(Replay("r", storage.seq))
    (message,) = link.wait_sent(1)
    assert (message.after, message.upto, message.end, message.last) == (storage.seq,) * 3 + (True,)
    assert [item.kind for item in message.items] == [Kind.EPOCH]


def test_a_replay_without_a_connection_ends_and_the_next_one_is_sent(
    replayer: Replayer, link: NodeLink, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    link.ready = False
    replayer.ask(Replay("lost", storage.seq))
    wait_for(lambda: "replay broken off" in caplog.text, what="the replay to end")
    link.ready = True
    replayer.ask(Replay("next", storage.seq))
    (message,) = link.wait_sent(1)
    assert message.request == "next"


def test_epochs_come_out_of_a_message_as_they_went_in() -> None:
    epochs = [Epoch(1, "a" * 16), Epoch(70, "b" * 16)]
    message = decode_any(encode(Results("n1", "", "r", 0, 70, 70, True, [Result.of_epochs(epochs)])))
    assert isinstance(message, Results)
    assert message.items[0].epochs() == epochs
    assert (message.items[0].seq, message.items[0].key) == (70, b"b" * 16)
