"""Compaction: space comes back, and nothing that is gone comes back with it."""

from __future__ import annotations

import random
import secrets
import threading
import time
from pathlib import Path

import pytest

from broker.keys import decode, encode
from broker.messages.store import Delete, Kind, Status, Store
from node.storage import compaction
from node.storage.compaction import CompactionReport
from node.storage.context import StorageContext
from node.storage.storage import Storage
from tests.support import seeds, wait_for
from tests.unit.volume import DAY_MS, Volume, delete, done, figures, store, value_of


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data")


def now() -> int:
    return time.time_ns() // 1_000_000


def put_many(storage: Storage, keys: range, first: int, size: int = 2000, expires: int = 0) -> None:
    for start in range(keys.start, keys.stop, 10):
        some = range(start, min(start + 10, keys.stop))
        assert done(
            storage.apply([store(f"k{n}", first + n, secrets.token_bytes(size), expires=expires) for n in some])
        )


def current(storage: Storage) -> dict[bytes, tuple[int, int]]:
    return {item.key: (item.version, item.kind) for _, _, items in storage.replay(0) for item in items}


def test_overwritten_values_give_their_space_back(volume: Volume) -> None:
    # Given keys overwritten again and again
    storage = volume.open()
    for generation in range(10):
        put_many(storage, range(50), 1 + generation * 100)
    before, files = volume.log_bytes(), len(volume.segments())
    # When the log is compacted
    result = storage.compact()
    # Then it takes hardly more than what is alive, and that is all there
    assert result.freed == before - volume.log_bytes()
    assert result.removed >= files - 4
    assert volume.log_bytes() < 2.5 * 50 * 2000 + 65536
    assert len(current(storage)) == storage.totals.keys == 50
    storage.close()
    assert len(volume.read([f"k{n}" for n in range(50)])) == 50


def test_a_second_pass_finds_nothing_to_do(volume: Volume) -> None:
    storage = volume.open()
    for generation in range(5):
        put_many(storage, range(50), 1 + generation * 100)
    assert done(storage.apply([delete(f"k{n}", 1000) for n in range(0, 50, 2)]))
    assert storage.compact().freed
    assert storage.compact() == CompactionReport()
    storage.close()


def test_tombstones_go_only_when_they_are_old_and_hide_nothing(volume: Volume) -> None:
    # Given a segment with a few dead values, and behind it one of tombstones
    storage = volume.open()
    put_many(storage, range(40), 1)
    gone = {encode(f"k{n}") for n in range(5)}
    assert done(storage.apply([delete(f"k{n}", 1000 + n) for n in range(5)]))
    for start in range(2000, 3500, 100):
        assert done(storage.apply([delete(f"unknown{n}", n) for n in range(start, start + 100)]))
    put_many(storage, range(200, 240), 4000)
    # When the log is compacted, then they stay
    storage.compact()
    storage.close()
    volume.forget_index()
    storage = volume.open()
    assert storage.totals.keys == 75
    assert sum(kind == Kind.DELETE for _, kind in current(storage).values()) == 1505
    # When that is long ago
    storage.compact(now() + 3 * DAY_MS)
    # Then first the dead values go and then the tombstones, and nothing comes back
    assert sum(kind == Kind.DELETE for _, kind in current(storage).values()) < 1000
    assert gone & current(storage).keys() == set()
    storage.close()
    volume.forget_index()
    storage = volume.open()
    assert storage.totals.keys == 75
    storage.close()


def test_an_old_tombstone_stays_while_an_earlier_segment_has_what_it_hides(volume: Volume) -> None:
    # Given a segment with a few dead values, and behind it one of other garbage that has their tombstones
    storage = volume.open()
    put_many(storage, range(40), 1)
    assert done(storage.apply([delete(f"k{n}", 1000 + n) for n in range(5)]))
    for generation in range(3):
        put_many(storage, range(100, 120), 2000 + generation * 1000)
    first = volume.segments()[0].read_bytes()
    # When the log is compacted long after
    assert storage.compact(now() + 3 * DAY_MS).segments
    # Then the garbage goes, and the tombstones stay
    assert volume.segments()[0].read_bytes() == first
    assert sum(kind == Kind.DELETE for _, kind in current(storage).values()) == 5
    storage.close()
    volume.forget_index()
    storage = volume.open()
    assert storage.totals.keys == 55
    storage.close()


def test_young_tombstones_stay(volume: Volume) -> None:
    storage = volume.open()
    put_many(storage, range(100), 1)
    assert done(storage.apply([delete(f"k{n}", 1000 + n) for n in range(100)]))
    put_many(storage, range(100, 140), 2000)
    storage.compact()
    assert sum(kind == Kind.DELETE for _, kind in current(storage).values()) == 100
    # Applied again, an old put is still stale.
    assert storage.apply([store("k3", 4)])[0].status == Status.STALE
    storage.close()


def test_values_past_their_lifetime_give_their_space_back_and_hide_older_ones(volume: Volume) -> None:
    # Given values without end, overwritten by values with a lifetime, some of them in files
    storage = volume.open()
    end = now() + 1000
    put_many(storage, range(40), 1)
    put_many(storage, range(40), 100, expires=end)
    put_many(storage, range(100, 110), 200, size=9000, expires=end)
    put_many(storage, range(200, 230), 300)
    assert (storage.totals.keys, len(volume.value_files())) == (80, 10)
    # When their time has come
    wait_for(lambda: now() > end)
    result = storage.compact()
    # Then they are gone with their files, and nothing older comes back
    assert result.expired == 50
    assert (storage.totals.keys, volume.value_files()) == (30, [])
    found = current(storage)
    assert {found[encode(f"k{n}")] for n in range(40)} == {(100 + n, Kind.DELETE) for n in range(40)}
    assert volume.log_bytes() < 30 * 2000 + 65536
    known = figures(storage)
    storage.close()
    volume.forget_index()
    storage = volume.open()
    assert figures(storage) == known
    storage.close()
    assert len(volume.read([f"k{n}" for n in range(300)])) == 30


def test_a_value_is_not_read_after_its_lifetime(volume: Volume) -> None:
    storage = volume.open()
    soon = now() - 1
    results = storage.apply([store("gone", 1, expires=soon), store("here", 2, expires=soon + 60_000)])
    assert done(results)
    storage.close()
    assert list(volume.read(["gone", "here"])) == ["here"]


def test_what_is_overwritten_while_its_segment_is_compacted_stays_overwritten(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given segments worth compacting
    storage = volume.open()
    put_many(storage, range(200), 1)
    assert done(storage.apply([delete(f"k{n}", 1000 + n) for n in range(200) if n % 3]))
    put_many(storage, range(300, 340), 2000)
    # When what is alive in them is overwritten or deleted before the new segment takes its place
    versions: dict[str, int] = {}
    exchange = compaction._exchange

    def late(core: StorageContext, number: int, draft: compaction._Draft, removed: bool) -> None:
        for key, *_ in draft.moves[::2]:
            version = 3000 + len(versions)
            versions[decode(key)] = version
            change: Store | Delete = delete(decode(key), version) if version % 2 else store(decode(key), version)
            assert done(storage.apply([change]))
        exchange(core, number, draft, removed)

    monkeypatch.setattr(compaction, "_exchange", late)
    storage.compact()
    assert len(versions) > 20
    # Then that is what counts, and the figures are those of an index made anew
    found = current(storage)
    assert {key: found[encode(key)][0] for key in versions} == versions
    known = figures(storage)
    storage.close()
    volume.forget_index()
    storage = volume.open()
    assert figures(storage) == known
    storage.close()
    expected = {key: value_of(key, version) for key, version in versions.items() if not version % 2}
    assert volume.read(list(versions)) == expected


def test_the_newest_epoch_outlives_compaction(volume: Volume) -> None:
    # Given a log of several epochs, all in segments of garbage by now
    for version in (1, 1001, 2001):
        storage = volume.open()
        put_many(storage, range(100), version)
        epochs = storage.epochs
        if version < 2000:
            storage.close()
    # When it is compacted, and the index lost
    storage.compact()
    assert storage.compact() == CompactionReport()
    storage.close()
    volume.forget_index()
    storage = volume.open()
    # Then it is known still
    assert storage.epochs[:-1] == epochs
    storage.close()


def test_closing_ends_a_compaction(volume: Volume) -> None:
    volume = Volume(volume.directory, compact_rate="64K")  # all of it would take longer
    storage = volume.open()
    put_many(storage, range(1500), 1)
    assert done(storage.apply([delete(f"k{n}", 2000 + n) for n in range(1500) if n % 3]))
    put_many(storage, range(2000, 2040), 5000)
    thread = threading.Thread(target=storage.compact)
    thread.start()
    started = time.monotonic()
    storage.close()
    thread.join()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("seed", seeds(3, 8))
def test_whatever_happens_the_content_is_what_it_should_be(volume: Volume, seed: int) -> None:
    # Given a storage, a model of it, and a clock
    rng = random.Random(seed)
    lifetimes = seed % 2 == 1
    storage = volume.open()
    clock = now() + DAY_MS
    model: dict[str, tuple[int, bytes | None, int]] = {}
    version = 0
    for _ in range(130):
        # When anything happens: puts, overwrites, deletions, old news, compactions, openings, lost indexes
        batch: list[Store | Delete] = []
        for _ in range(rng.randrange(1, 12)):
            version += 1
            key = f"k{rng.randrange(40)}"
            chance = rng.random()
            known = model.get(key)
            if chance < 0.3:
                batch.append(delete(key, version))
                model[key] = version, None, 0
            elif chance < 0.4 and known and known[1] is not None and not known[2]:
                old = rng.randrange(1, known[0] + 1)
                batch.append(store(key, old) if old < known[0] else store(key, old, known[1]))
            else:
                expires = clock + rng.randrange(-1000, 4000) if lifetimes and rng.random() < 0.4 else 0
                batch.append(store(key, version, expires=expires))
                model[key] = version, value_of(key, version), expires
        storage.apply(batch)
        clock += rng.randrange(100)
        chance = rng.random()
        if chance < 0.3:
            storage.compact(clock if rng.random() < 0.5 else None)
        elif chance < 0.4:
            known_figures = figures(storage)
            storage.close()
            if rng.random() < 0.7:
                volume.forget_index()
            storage = volume.open()
            # Then the index is what it was
            if not lifetimes:
                assert figures(storage) == known_figures
        if chance > 0.9:
            # And the content is the model's; what has a lifetime may be gone when that is over, but is nothing older
            storage.close()
            found = volume.read(list(model))
            for key, (_, value, expires) in model.items():
                allowed = {value, None} if expires and expires <= clock else {value}
                assert found.get(key) in allowed, key
            storage = volume.open()
    # And when all is deleted and long ago, nothing is left but perhaps a few tombstones
    storage.apply([delete(key, version + 1) for key in model])
    put_many(storage, range(1000, 1040), version + 100)
    storage.apply([delete(f"k{n}", version + 2000) for n in range(1000, 1040)])
    put_many(storage, range(2000, 2040), version + 3000)
    storage.compact(clock + 100 * DAY_MS)
    storage.compact(clock + 100 * DAY_MS)
    alive = {key for key, (_, kind) in current(storage).items() if kind == Kind.PUT}
    assert alive == {encode(f"k{n}") for n in range(2000, 2040)}
    assert volume.log_bytes() < 40 * 2100 + 2 * 65536
    assert volume.value_files() == []
    storage.close()
