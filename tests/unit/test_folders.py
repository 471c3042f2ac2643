"""The counters of folders agree with a plain count, whatever happened to the index."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from broker import keys
from broker.messages.store import Kind, Result, Results, Status
from master.index import housekeeping
from master.index.environment import Environment, pack
from master.index.folders import Usage, counted, folder_of, upwards
from master.index.housekeeping import Housekeeping
from master.index.index import _CONTENTS, Entry, Index
from master.index.projection import Projection
from tests.support import seeds
from tests.unit.test_housekeeping import Link

NOW = 1_000_000
MAP = 64 << 20


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index", MAP, write=True)
    yield index
    index.close()


def plain(index: Index) -> dict[str, Usage]:
    """Every folder that has keys, from all entries."""
    found: dict[str, Usage] = {"": Usage()}
    for key, entry in index.scan("", ""):
        for at in (0, *(at + 1 for at, character in enumerate(key) if character == "/")):
            count, size = found.get(key[:at], Usage())
            found[key[:at]] = Usage(count + 1, size + entry.size)
    return found


def rows(index: Index) -> dict[str, Usage]:
    """Every row of the table, and the empty folder."""
    with index.read() as tables:
        found = {row[1:].decode(): Usage.read(raw) for row, raw in tables._up("folders")}
    return {"": Usage()} | found


def agree(index: Index) -> dict[str, Usage]:
    found = rows(index)
    assert found == plain(index)
    return found


def put(seq: int, version: int, name: str, size: int, expires: int = 0) -> Result:
    key = keys.encode(name)
    return Result(0, Status.DONE, "", seq, Kind.PUT, key, version, NOW, expires, "", b"d" * 32, size, None)


def gone(seq: int, version: int, name: str) -> Result:
    return Result(0, Status.DONE, "", seq, Kind.DELETE, keys.encode(name), version, 0, 0, "", b"", 0, None)


def entry(size: int = 3) -> Entry:
    return Entry(1, "n1", 1, 1, 1, 0, size, "", b"d" * 32, None)


def test_a_key_counts_in_every_folder_around_it(index: Index) -> None:
    with index.write() as tables:
        for name, size in (("a", 1), ("a/b", 2), ("a/b/c", 4), ("a-b/c", 8)):
            tables.put_entry(keys.encode(name), None, entry(size))
        assert (tables.usage(), tables.usage("a/"), tables.usage("nothing/")) == ((4, 15), (2, 6), (0, 0))
    assert agree(index) == {"": (4, 15), "a/": (2, 6), "a/b/": (1, 4), "a-b/": (1, 8)}
    with index.write() as tables:
        tables.drop_entry(keys.encode("a/b/c"), entry(4))
        tables.drop_entry(keys.encode("a/b/c"), entry(4))  # it is gone already, and counts once
    assert agree(index) == {"": (3, 11), "a/": (1, 2), "a-b/": (1, 8)}


def test_what_is_not_committed_is_not_counted(index: Index) -> None:
    def write() -> None:
        with index.write() as tables:
            tables.put_entry(keys.encode("a/b"), None, entry())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    assert agree(index) == {"": (0, 0)}


def test_folders_of_a_key() -> None:
    assert [folder_of(keys.encode(name)) for name in ("a", "a/b", "a b/c~/d.e")] == [b"", b"a/", b"a b/c~/"]
    assert list(upwards(b"a/b c/")) == [b"a/b c/", b"a/", b""]
    assert list(counted([])) == [(b"", (0, 0))]


class World:
    """Nodes with logs, and the controller that applies them, with a clock of its own."""

    def __init__(self, index: Index, dice: random.Random) -> None:
        self.index = index
        self.dice = dice
        self.projection = Projection()
        self.house = Housekeeping(index, Link(), tombstone_days=1, retention_days=1)  # type: ignore[arg-type]
        self.logs: dict[str, list[Result]] = {node: [] for node in ("n1", "n2", "n3")}
        self.now = NOW
        self.version = 0
        self.names = [f"{a}{b}{c}" for a in ("", "a/", "a/b/", "a-/") for b in ("", "x/", "y/") for c in "klm"]

    def message(self, node: str, items: list[Result], after: int, request: str = "") -> Results:
        chain = Result.of_epochs([(1, node)])
        return Results(node, "", request, after, after + len(items), len(self.logs[node]), True, [chain, *items])

    def apply(self, *messages: Results) -> None:
        with self.index.write() as tables:
            self.projection.apply(tables, messages, self.now)

    def write(self) -> None:
        """Values and deletions of a node: new ones, overwrites, moves from another node, late ones, doubles."""
        messages = []
        for _ in range(self.dice.randrange(1, 4)):
            node = self.dice.choice(list(self.logs))
            log = self.logs[node]
            after = len(log)
            for _ in range(self.dice.randrange(1, 9)):
                self.version += 1
                version = max(1, self.version - self.dice.choice([0, 0, 0, 5]))
                name, seq = self.dice.choice(self.names), len(log) + 1
                expires = self.now + self.dice.choice([50, 500]) if self.dice.random() < 0.3 else 0
                size = self.dice.choice([0, 3, 3, 100, 1 << 40])
                log.append(
                    put(seq, version, name, size, expires) if self.dice.random() < 0.7 else gone(seq, version, name)
                )
            messages.append(self.message(node, log[after:], after))
        self.apply(*messages, *messages[: self.dice.randrange(2)])

    def pass_time(self) -> None:
        """Lifetimes end, deletions are forgotten."""
        self.now += self.dice.choice([100, 1000, 1 << 28])
        self.house._next_deletions = 0.0
        self.house.tick(self.now)

    def lose_tail(self) -> None:
        """A node whose older backup was put back: all of its log is applied again, and what it lacks is removed."""
        node = self.dice.choice(list(self.logs))
        del self.logs[node][self.dice.randrange(len(self.logs[node]) + 1) :]
        self.replay(node)

    def replay(self, node: str, same_log: bool = False) -> None:
        with self.index.write() as tables:
            self.projection.reset_cursor(tables, node, same_log)
        self.apply(self.message(node, self.logs[node], 0, "r"))
        self.prune(node)

    def forget(self) -> None:
        """A node that is gone for good, with its entries; another one of its name begins."""
        node = self.dice.choice(list(self.logs))
        self.logs[node] = []
        with self.index.write() as tables:
            self.projection.reset_cursor(tables, node)
        self.prune(node)
        with self.index.write() as tables:
            self.projection.drop(tables, node)

    def prune(self, node: str) -> None:
        after: bytes | None = b""
        while after is not None:
            with self.index.write() as tables:
                after, _ = self.projection.prune(tables, node, after, 7)

    def restore(self) -> None:
        self.replay(self.dice.choice(list(self.logs)), same_log=True)


@pytest.mark.parametrize("seed", seeds(5, 12))
def test_counters_agree_with_a_plain_count_after_anything(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 3)
    world = World(index, random.Random(seed))
    deeds: list[Callable[[], None]] = [world.write] * 6 + [world.pass_time] * 2
    deeds += [world.lose_tail, world.forget, world.restore]
    most = 0
    for _ in range(60):
        world.dice.choice(deeds)()
        most = max(most, len(agree(index)))
    assert most > 8
    # And a replay of all logs into an empty index counts the same as its entries
    empty = Index(tmp_path / "empty", MAP, write=True)
    world.index, world.projection = empty, Projection()
    for node in world.dice.sample(list(world.logs), 3):
        world.apply(world.message(node, world.logs[node], 0, "r"))
    agree(empty)
    empty.close()


def older(directory: Path, write: Callable[[Environment], None]) -> None:
    """Let a Pulzar before the table of folders write an index."""
    tables = tuple(name for name in _CONTENTS.tables if name != "folders")
    environment = Environment(directory, MAP, _CONTENTS._replace(tables=tables), write=True)
    write(environment)
    environment.close()


def put_older(names: list[str]) -> Callable[[Environment], None]:
    def write(environment: Environment) -> None:
        with environment.env.begin(write=True, db=environment.databases["entries"]) as transaction:
            for number, name in enumerate(names):
                transaction.put(keys.encode(name), pack(entry(number)))

    return write


def test_an_index_of_a_pulzar_before_folders_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    names = [f"{a}/{b}/{c}" for a in ("a", "a-", "b") for b in "xyz" for c in "123"] + ["a", "x/y/z/1", "zz"]
    older(tmp_path, put_older(names))
    index = Index(tmp_path, MAP, write=True)
    found = agree(index)
    assert found["a/"].keys == 9
    assert found[""].keys == len(names)
    index.close()


def test_what_an_older_pulzar_wrote_meanwhile_is_counted_and_nothing_is_counted_without_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(tmp_path, MAP, write=True)
    with index.write() as tables:
        tables.put_entry(keys.encode("a/1"), None, entry())
    index.close()
    # Given that nobody else was there, nothing is counted
    counting = 0

    def count(entries: Iterator[tuple[bytes, int]]) -> Iterator[tuple[bytes, Usage]]:
        nonlocal counting
        counting += 1
        return counted(entries)

    monkeypatch.setattr("master.index.folders.counted", count)
    index = Index(tmp_path, MAP, write=True)
    with index.write() as tables:
        tables.put_entry(keys.encode("a/2"), None, entry())
    index.close()
    assert counting == 0
    # When an older one has written the same number of bytes elsewhere
    older(tmp_path, put_older(["b/1"]))
    index = Index(tmp_path, MAP, write=True)
    assert counting == 1
    assert set(agree(index)) == {"", "a/", "b/"}
    index.close()


def test_a_counter_that_was_wrong_is_said_and_mended_at_the_next_start(tmp_path: Path) -> None:
    index = Index(tmp_path, MAP, write=True)
    with index.write() as tables:
        tables.put_entry(keys.encode("a/1"), None, entry())
        tables._delete("folders", b"/a/")
    with index.write() as tables:
        tables.drop_entry(keys.encode("a/1"), entry(99))
        tables.put_entry(keys.encode("a/2"), None, entry())
    with index.write() as tables:
        tables.put_entry(keys.encode("a/3"), None, entry())
    index.close()
    index = Index(tmp_path, MAP, write=True)
    assert agree(index)["a/"] == cast("Usage", (2, 6))
    index.close()
