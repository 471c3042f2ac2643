"""A node drops a version that other nodes have: it is no deletion, and may be stored here once more."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.keys import encode
from broker.messages.store import Command, Drop, Kind, Result, Status
from node.storage.storage import Storage
from tests.unit.test_held_versions import held
from tests.unit.volume import CREATED, Volume, delete, done, figures, store

KEY = "key"
SMALL, LARGE = b"small", b"large" * 2000  # in the log, and in a file


@pytest.fixture(params=[0, 7])
def volume(tmp_path: Path, request: pytest.FixtureRequest) -> Volume:
    return Volume(tmp_path / "data", undelete_days=request.param)


def apply(storage: Storage, *commands: Command) -> list[Status]:
    return [result.status for result in storage.apply(commands)]


def drop(version: int) -> Drop:
    return Drop(0, encode(KEY), version)


def told(storage: Storage) -> list[tuple[int, int]]:
    """Kind and version of what a replay brings of the key."""
    items: list[Result] = [item for part in storage.replay(0) for item in part.results]
    return [(item.kind, item.version) for item in items if item.key == encode(KEY)]


def is_rebuilt_alike(volume: Volume, storage: Storage) -> Storage:
    """The storage with an index that was built from the log, which is the same."""
    before = figures(storage), told(storage)
    storage.close()
    volume.forget_index()
    again = volume.open()
    assert (figures(again), told(again)) == before
    return again


@pytest.mark.parametrize("value", [SMALL, LARGE])
def test_a_dropped_version_is_gone_here_and_told_as_no_deletion(volume: Volume, value: bytes) -> None:
    storage = volume.open()
    assert done(storage.apply([store(KEY, 5, value)]))
    (result,) = storage.apply([drop(5)])
    assert (result.kind, result.status, result.seq > 0) == (Kind.DROP, Status.DONE, True)
    assert (storage.totals.keys, storage.totals.held_keys, volume.value_files()) == (0, 0, [])
    assert told(storage) == [(Kind.DROP, 5)]
    # Then it is dropped for any later start, and once only
    storage = is_rebuilt_alike(volume, storage)
    assert storage.apply([drop(5)])[0].seq == result.seq
    storage.close()
    assert volume.read([KEY]) == {}


@pytest.mark.parametrize("value", [SMALL, LARGE])
def test_a_dropped_version_may_be_stored_again_and_dropped_again(volume: Volume, value: bytes) -> None:
    storage = volume.open()
    assert apply(storage, store(KEY, 5, value), drop(5)) == [Status.DONE] * 2
    assert apply(storage, store(KEY, 5, value)) == [Status.DONE]
    assert (storage.totals.keys, told(storage)) == (1, [(Kind.PUT, 5)])
    storage = is_rebuilt_alike(volume, storage)
    storage.close()
    assert volume.read([KEY]) == {KEY: value}
    storage = volume.open()
    assert apply(storage, drop(5)) == [Status.DONE]
    storage = is_rebuilt_alike(volume, storage)
    assert (storage.totals.keys, told(storage)) == (0, [(Kind.DROP, 5)])
    storage.close()


def test_only_the_version_itself_is_dropped(volume: Volume) -> None:
    storage = volume.open()
    assert apply(storage, drop(5)) == [Status.DONE]  # it was never here
    assert storage.apply([drop(5)])[0].seq == 0
    assert apply(storage, store(KEY, 6), drop(5)) == [Status.DONE, Status.STALE]
    assert apply(storage, delete(KEY, 6), drop(6)) == [Status.DONE, Status.STALE]
    assert told(storage) == [(Kind.DELETE, 6)]
    storage.close()


def test_a_deletion_and_newer_versions_come_above_a_dropped_one_and_older_ones_do_not(volume: Volume) -> None:
    storage = volume.open()
    assert apply(storage, store(KEY, 5), drop(5), store(KEY, 4)) == [Status.DONE, Status.DONE, Status.STALE]
    assert apply(storage, delete(KEY, 5), store(KEY, 5)) == [Status.DONE, Status.STALE]
    storage = is_rebuilt_alike(volume, storage)
    assert told(storage) == [(Kind.DELETE, 5)]
    assert apply(storage, store(KEY, 6), drop(6), store(KEY, 7)) == [Status.DONE] * 3
    storage = is_rebuilt_alike(volume, storage)
    assert told(storage) == [(Kind.PUT, 7)]
    storage.close()


def test_what_was_overwritten_before_is_held_for_as_long_whatever_compaction_removes(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "data", undelete_days=3_650)
    storage = volume.open()
    names = [KEY, *(f"other-{number}" for number in range(40))]
    for name in names:
        assert apply(storage, store(name, 4, SMALL), store(name, 5, b"x" * 3_000)) == [Status.DONE] * 2
    assert done(storage.apply([Drop(0, encode(name), 5) for name in names]))
    before = held(storage, CREATED)
    assert {(version.key, version.version) for version in before} == {(name, 4) for name in names}
    assert storage.compact().segments == 1
    storage = is_rebuilt_alike(volume, storage)
    assert (held(storage, CREATED), told(storage)) == (before, [(Kind.DROP, 5)])
    storage.close()


def test_a_value_that_is_here_is_told_from_others(volume: Volume) -> None:
    storage = volume.open()
    command = store(KEY, 5)
    assert apply(storage, command) == [Status.DONE]
    assert storage.has(command.key, 5, command.digest)
    assert not storage.has(command.key, 4, command.digest)
    assert not storage.has(command.key, 5, b"x" * 32)
    assert apply(storage, drop(5)) == [Status.DONE]
    assert not storage.has(command.key, 5, command.digest)
    storage.close()
