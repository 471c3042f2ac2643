"""Copies come and go: index, repair, outbox and the storages of three nodes as one thing, without RabbitMQ."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from broker.clock import now_ms
from broker.keys import encode
from broker.messages.codec import Message, decode_any
from broker.messages.store import Commands, Confirm, Confirmed, Fetch, Results
from master.cluster import repair
from master.cluster.repair import Repair
from master.cluster.replicas import Replicas
from master.index.housekeeping import Housekeeping
from master.index.index import Index
from master.index.projection import Projection
from node.command_executor import CommandExecutor
from node.storage import sources
from tests.unit.node_link import NodeLink, delivery
from tests.unit.test_repair import OLD, Network
from tests.unit.volume import Volume, store

NAMES = "abc"
VALUE = b"the value" * 10


class Node:
    """A node's storage and what carries out its commands; values are read without a data server."""

    def __init__(self, name: str, directory: Path) -> None:
        self.storage = Volume(directory / name).open()
        self.link = NodeLink()
        self.executor = CommandExecutor(name, self.storage, self.link)  # type: ignore[arg-type]
        self.inbox: deque[Message] = deque()

    def value(self, key: bytes, version: int) -> bytes:
        with self.storage._core.index.snapshot() as view:
            entry = view.find(key, version)
        assert entry is not None
        return sources.read_record(self.storage._core.places, key, entry)[1]

    def has(self, key: bytes) -> bool:
        with self.storage._core.index.snapshot() as view:
            entry = view.entry(key)
        return entry is not None and self.storage.has(key, entry.version, store("x", 1, VALUE).digest)

    def work(self, others: dict[str, Node]) -> list[Message]:
        """Carry out what waits; returns what the node says."""
        while self.inbox:
            match self.inbox.popleft():
                case Commands() as commands:
                    self.executor.add(delivery(commands), commands)
                case Fetch(origin=origin, store=wanted, sources=addresses):
                    source = others[urlsplit(addresses[0]).netloc]
                    whole = wanted._replace(value=source.value(wanted.key, wanted.version))
                    self.executor.store_fetched(origin, whole, lambda _result: None)
                case Confirm() as question:
                    self.executor.answer(question, "")
        self.executor.work()
        said = [message for _, message in self.link.sent]
        self.link.sent.clear()
        return said


class Disks(Network):
    """Nodes whose disks are as full as each other, unless they are said to be fuller."""

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self.fill: dict[str, float] = {}

    def used(self, node: str) -> float:
        return self.fill.get(node, 0.5)


class Cluster:
    """The controller's part in this, and its nodes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = 1_000.0
        self.ready = True
        self.nodes = {name: Node(name, directory) for name in NAMES}
        self.network = Disks(self)
        self.network.heard = dict.fromkeys(NAMES, self.clock)
        self.indexes = 0
        self.begin(2)

    def begin(self, replicas: int, *, lost: bool = False) -> None:
        """A controller starts, perhaps with a new index, which it fills from the logs."""
        if lost:
            self.index.close()
        if lost or not self.indexes:
            self.indexes += 1
            self.index = Index(self.directory / f"index-{self.indexes}", 64 << 20, write=True)
            with self.index.write() as tables:
                tables.set_incomplete([])
        self.projection = Projection()
        parts = self.index, self.network, self, Replicas([("", replicas)])
        self.repair = Repair(*parts, secret=b"s", after=60, put_secs=10)  # type: ignore[arg-type]
        self.keeping = Housekeeping(self.index, self, tombstone_days=2, retention_days=9)  # type: ignore[arg-type]
        if lost:
            for name, node in self.nodes.items():
                for part in node.storage.replay(0):
                    self.take([Results(name, "", "", part.after, part.upto, node.storage.seq, False, part.results)])

    def publish(self, queue: str, body: bytes, *, done: Callable[[bool], None] | None = None, **_: Any) -> None:
        self.nodes[queue.removeprefix("pulzar.node.")].inbox.append(decode_any(body))
        if done:
            done(True)

    def expire_dead(self, *_: object) -> None:
        """There are none."""

    def put(self, name: str, holders: str) -> bytes:
        for holder in holders:
            command = store(name, 10, VALUE)._replace(created=OLD)
            self.nodes[holder].inbox.append(Commands("", [command]))
        return encode(name)

    def take(self, messages: list[Message]) -> None:
        for message in messages:
            if isinstance(message, Confirmed):
                self.repair.thinning.observe(message)
            elif isinstance(message, Results):
                with self.index.write() as tables:
                    self.projection.apply(tables, [message], now_ms())

    def control(self) -> None:
        """Some seconds pass, and the controller works."""
        self.clock += 11
        self.network.heard = dict.fromkeys(NAMES, self.clock)
        self.repair.tick()
        self.keeping.tick(now_ms() + 60_000)

    def turn(self) -> None:
        """The same, and all nodes work."""
        self.control()
        for node in self.nodes.values():
            self.take(node.work(self.nodes))

    def holders(self, key: bytes) -> set[str]:
        """The nodes that have the value, as the index says and as they say, which is the same."""
        entry = self.index.get(key)
        assert entry is not None
        there = {name for name, node in self.nodes.items() if node.has(key)}
        assert there == set(entry.nodes)
        return there


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    made: list[Cluster] = []
    monkeypatch.setattr(repair.time, "monotonic", lambda: made[0].clock if made else 0.0)
    made.append(Cluster(tmp_path))
    yield made[0]
    made[0].index.close()
    for node in made[0].nodes.values():
        node.storage.close()


def test_the_number_of_copies_follows_the_settings_up_and_down_whatever_is_lost_on_the_way(cluster: Cluster) -> None:
    values = [cluster.put(f"key-{number}", "abc") for number in range(12)]
    cluster.turn()
    assert {len(cluster.holders(key)) for key in values} == {3}
    # When two are to stay, and the controller begins anew after each step for a while
    for _ in range(4):
        cluster.turn()
        cluster.begin(2)
    for _ in range(6):
        cluster.turn()
    before = [cluster.holders(key) for key in values]
    assert {len(holders) for holders in before} == {2}
    assert set().union(*before) == set(NAMES)
    # Then an index that is filled from the logs knows the same, and nothing is deleted
    cluster.begin(2, lost=True)
    assert [cluster.holders(key) for key in values] == before
    for _ in range(3):
        cluster.turn()
    assert [cluster.holders(key) for key in values] == before
    # And what was dropped can be there again, and go again
    cluster.begin(3)
    for _ in range(4):
        cluster.turn()
    assert {len(cluster.holders(key)) for key in values} == {3}
    cluster.begin(1)
    for _ in range(8):
        cluster.turn()
    assert {len(cluster.holders(key)) for key in values} == {1}


def test_a_command_to_drop_that_an_index_which_was_lost_had_given_takes_no_second_copy(cluster: Cluster) -> None:
    key = cluster.put("key", "ab")
    cluster.turn()
    cluster.network.fill = {"b": 0.9}
    cluster.begin(1)
    # Given a command to drop a copy that waits in its node's queue
    while not any(isinstance(message, Commands) for message in cluster.nodes["b"].inbox):
        cluster.control()
        cluster.take(cluster.nodes["a"].work(cluster.nodes))
        if not any(isinstance(message, Commands) for message in cluster.nodes["b"].inbox):
            cluster.take(cluster.nodes["b"].work(cluster.nodes))
    # When the index is lost, so that both copies count again, and the other one is to go
    cluster.network.fill = {"a": 0.9}
    cluster.begin(1, lost=True)
    assert cluster.holders(key) == {"a", "b"}
    for _ in range(8):
        cluster.turn()
    # Then it stays: the node with the late command could not confirm its copy
    assert cluster.holders(key) == {"a"}
