"""A replay of a node's log gives an empty index exactly what the index that followed the node has."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from broker import keys
from broker.clock import now_ms
from broker.messages.codec import encode
from broker.messages.store import Delete, Replay, Result, Results, Store
from master.index.folders import Usage
from master.index.index import Deletion, Entry, Index
from master.index.projection import Projection
from node import replayer as replayer_module
from node.replayer import Replayer
from node.storage import log_replay
from node.storage.log import segments
from tests.support import decode, seeds
from tests.unit.node_link import NodeLink
from tests.unit.volume import Volume, store

MAP = 64 << 20
Seen = tuple[dict[str, Entry], dict[bytes, Deletion], dict[str, Usage]]


def seen(index: Index) -> Seen:
    """All that users can see, and the deletions of keys that are gone."""
    with index.read() as tables:
        deletions = {key: deletion for key, deletion in tables.deletions() if tables.entry(key) is None}
        counted = {row.decode(): Usage.read(raw) for row, raw in tables._up("folders")}
    return dict(index.scan("", "")), deletions, counted


def commands(dice: random.Random, versions: dict[bytes, int]) -> list[Store | Delete]:
    """Values of many sizes with and without a type and a lifetime, overwrites and deletions."""
    made: list[Store | Delete] = []
    for _ in range(dice.randrange(1, 30)):
        key = keys.encode(f"{dice.choice('ab')}/{dice.choice('xyz')}/{dice.randrange(60)}")
        versions[key] = version = max(versions.values(), default=0) + dice.randrange(1, 5)
        if dice.random() < 0.2:
            made.append(Delete(0, key, version))
            continue
        value = dice.randbytes(dice.choice([0, 20, 100, 1024, 70_000]))
        command = store(keys.decode(key), version, value)
        expires = now_ms() + 10**6 if dice.random() < 0.3 else 0
        media = dice.choice(["", "text/plain", "text/plain\ngzip"])
        made.append(command._replace(key=key, created=now_ms() - version, expires=expires, content_type=media))
    return made


@pytest.mark.parametrize("seed", seeds(2, 4))
def test_a_replay_brings_everything_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(replayer_module, "MESSAGES", 3)
    monkeypatch.setattr(log_replay, "_ITEMS", 17)
    monkeypatch.setattr(log_replay, "_GROUP", 5)
    dice = random.Random(seed)
    # Given an index that has followed a node from its beginning
    storage = Volume(tmp_path / "node", segment=65536).open()
    followed, projection = Index(tmp_path / "followed", MAP, write=True), Projection()
    versions: dict[bytes, int] = {}
    at = storage.seq
    chain = [Result.of_epochs(storage.epochs)]
    for _ in range(40):
        results = list(storage.apply(commands(dice, versions)))
        message = Results("n1", "", "", at, storage.seq, storage.seq, False, [*chain, *results])
        with followed.write() as tables:
            projection.apply(tables, [message], 1_000)
        at = storage.seq
    # When its log is replayed into an empty index
    empty, again = Index(tmp_path / "empty", MAP, write=True), Projection()
    replayed = 0
    link = NodeLink()
    replayer = Replayer("n1", storage, link)  # type: ignore[arg-type]
    after = 0
    while after < storage.seq:
        link.sent.clear()
        replayer._send(Replay("r", after))
        batch = [decode(encode(message), Results) for message in map(of, link.sent)]
        with empty.write() as tables:
            again.apply(tables, batch, 1_000)
        after = max(message.upto for message in map(of, link.sent))
        replayed += 1
    # Then both have the same keys, dates, lifetimes, types, digests, values, deletions and counters
    assert replayed > 3
    assert seen(empty) == seen(followed)
    assert len(seen(empty)[0]) > 100
    for index in (empty, followed):
        index.close()
    storage.close()


def of(sent: tuple[str, Results]) -> Results:
    return sent[1]


def test_a_replay_in_stretches_reads_each_record_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replayer_module, "MESSAGES", 2)
    monkeypatch.setattr(log_replay, "_ITEMS", 10)
    storage = Volume(tmp_path / "node").open()
    storage.apply([store(f"k{number}", number) for number in range(1, 201)])
    read = 0
    scan = segments.scan

    def counting(*given: int):  # type: ignore[no-untyped-def]
        nonlocal read
        for piece in scan(*given):
            read += 1
            yield piece

    monkeypatch.setattr(segments, "scan", counting)
    link = NodeLink()
    replayer = Replayer("n1", storage, link)  # type: ignore[arg-type]
    after = 0
    while after < storage.seq:
        replayer._send(Replay("r", after))
        after = of(link.sent[-1]).upto
    assert read <= 210
    # A stretch that begins elsewhere is read from there, and what was stored since the last one is found, too
    replayer._send(Replay("r", 150))
    assert of(link.sent[-1]).after >= 150
    replayer._send(Replay("r", after))
    storage.apply([store("new", 999)])
    link.sent.clear()
    replayer._send(Replay("r", after))
    assert [item.key for message in map(of, link.sent) for item in message.items if item.version == 999] == [
        keys.encode("new")
    ]
    storage.close()
