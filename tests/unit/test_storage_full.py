"""A disk that is really full: values are refused, deletions and compaction go on, and space comes back."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from broker.keys import decode
from broker.messages.store import Result, Status
from node.errors import DiskFull
from node.storage.maintenance import Maintenance
from node.storage.staging import Staging
from node.storage.storage import Storage
from tests.support import wait_for
from tests.unit.volume import Volume, delete, done, store

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 24 MiB."""
    where = tmp_path / "disk"
    where.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(where)]
    outcome = subprocess.run(mounting, capture_output=True, text=True)
    if outcome.returncode:
        pytest.skip(f"a small tmpfs can't be mounted here: {outcome.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(storage: Storage, size: int, first: int = 1) -> tuple[int, Result]:
    """Store values until none is taken any more; returns how many were stored, and the last refusal."""
    count = refused = 0
    while refused < 20:  # the room that a refused value has taken is free again only after a moment
        version = first + count
        (result,) = storage.apply([store(f"k{version}", version, secrets.token_bytes(size))])
        if result.status == Status.DONE:
            count, refused = count + 1, 0
        else:
            refused += 1
        assert count < 10_000, "the disk is never full"
    return count, result


def use_up(file: Path) -> None:
    """Take all the room there is."""
    with suppress(OSError), file.open("wb", buffering=0) as opened:
        while True:
            opened.write(bytes(4096))


def use_up_to(file: Path, storage: Storage) -> None:
    """Take all the room above the reserve, and a little more."""
    space = storage._core.space
    space.forget()
    file.write_bytes(bytes(space.free() - space._reserve + 4096))
    space.forget()


@pytest.mark.parametrize("size", [4000, 100_000])
def test_with_a_reserve_values_are_refused_and_deletions_make_room(disk: Path, size: int) -> None:
    # Given a disk of which 4 MiB are to stay free
    volume = Volume(disk / "data", reserve="4M")
    storage = volume.open()
    # When it is filled
    count, refusal = fill(storage, size)
    # Then values are refused with a reason, and nothing of them is there
    assert refusal.status == Status.FULL
    assert "free" in refusal.reason
    assert storage.full()
    assert storage.totals.keys == count
    assert list((volume.directory / "staging").iterdir()) == []
    # And deletions work, also in a batch with a value
    keys = [f"k{n}" for n in range(1, count + 1)]
    more = store("more", 20_000, secrets.token_bytes(size))
    results = storage.apply([more, *(delete(key, 30_000 + n) for n, key in enumerate(keys[:-10]))])
    assert results[0].status == Status.FULL
    assert done(results[1:])
    # And so does compaction, after which there is room again
    storage.compact()
    wait_for(lambda: not storage.full())
    assert done(storage.apply([more]))
    storage.close()
    assert sorted(volume.read([*keys, "more"])) == sorted([*keys[-10:], "more"])


@pytest.mark.parametrize("size", [4000, 100_000])
def test_without_a_reserve_what_does_not_fit_is_undone(disk: Path, size: int) -> None:
    # Given a disk that may be filled to the last byte
    volume = Volume(disk / "data")
    storage = volume.open()
    (disk / "filler").write_bytes(bytes(65536))
    count, refusal = fill(storage, size)
    # When more is refused, in batches too
    assert refusal.status == Status.FULL
    seq = storage.seq
    results = storage.apply([store(f"more{n}", 20_000 + n, secrets.token_bytes(size)) for n in range(200)])
    # Then nothing of it is there
    assert {result.status for result in results} == {Status.FULL}
    assert storage.seq == seq
    assert storage.totals.keys == count
    assert list((volume.directory / "staging").iterdir()) == []
    # And where a deletion has room but a value has not, the deletion is done
    (disk / "filler").unlink()
    tight = secrets.token_bytes(storage._core.space.free() - 1000)
    results = storage.apply([store("more", 30_000, tight), delete("k1", 30_001)])
    assert [result.status for result in results] == [Status.FULL, Status.DONE]
    # And all that was stored is there
    storage.close()
    assert len(volume.read([f"k{n}" for n in range(1, count + 1)])) == count - 1


def test_an_upload_that_is_refused_is_given_back(disk: Path) -> None:
    # Given a finished upload, and a disk that is filled by others then
    volume = Volume(disk / "data", reserve="1M")
    storage = volume.open()
    value = secrets.token_bytes(500_000)
    token = volume.staged(value)
    filler = disk / "filler"
    use_up(filler)
    # When it is to become a value
    wait_for(storage.full)
    (result,) = storage.apply([store("k", 1, value, staged=token)])
    # Then it is refused, and where it was
    assert result.status == Status.FULL
    assert (volume.directory / "staging" / token).exists()
    # And when there is room it is taken
    filler.unlink()
    wait_for(lambda: not storage.full())
    assert done(storage.apply([store("k", 1, value, staged=token)]))
    storage.close()
    assert volume.read(["k"]) == {"k": value}


def test_an_upload_that_does_not_fit_says_so(disk: Path) -> None:
    staging = Staging(disk, reserve=MIB)
    with pytest.raises(DiskFull):
        staging.create(30 * MIB)
    with staging.create() as upload, pytest.raises(DiskFull):
        upload.write(bytes(30 * MIB))
    assert list((disk / "staging").iterdir()) == []


def test_uploads_on_their_way_count_against_the_reserve(disk: Path) -> None:
    # Given a disk with room for one upload of this size beside the reserve, and not for two
    reserve = 2 * MIB
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    size = (free - reserve) * 2 // 3
    staging = Staging(disk, reserve)
    # When one has begun and nothing of it has come yet
    first = staging.create(size)
    # Then there is no room for another, whether its length is known or not
    with pytest.raises(DiskFull, match="on their way"):
        staging.create(size)
    room = free - reserve - size
    with staging.create() as unknown:
        unknown.write(bytes(room // 2))
        with pytest.raises(DiskFull):
            unknown.write(bytes(room))
    # And what was promised to the first is there
    for start in range(0, size, 65_536):
        first.write(bytes(min(65_536, size - start)))
    assert first.finish().size == size
    # And when it is gone there is room again, also after one that was given up halfway
    first.abort()
    with staging.create(size) as halfway:
        halfway.write(bytes(100_000))
    wait_for(lambda: os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > size + reserve)
    with staging.create(size):
        assert len(list((disk / "staging").iterdir())) == 1


def test_compaction_works_on_a_disk_that_is_full(disk: Path) -> None:
    # Given a full disk, half of whose values are deleted: every other one, and all of some segments
    volume = Volume(disk / "data", reserve="1M")
    storage = volume.open()
    count, _ = fill(storage, 4000)
    keys = [f"k{n}" for n in range(1, count + 1)]
    gone = [key for n, key in enumerate(keys) if n % 2 or n < 500]
    for start in range(0, len(gone), 100):
        assert done(storage.apply([delete(key, 20_000 + n) for n, key in enumerate(gone)][start : start + 100]))
    use_up(disk / "filler")
    # When the log is compacted, then space comes back
    before = volume.log_bytes()
    started = time.monotonic()
    result = storage.compact()
    assert result.freed == before - volume.log_bytes() > 0.4 * before
    assert time.monotonic() - started < 10
    storage.close()
    assert sorted(volume.read(keys)) == sorted(set(keys) - set(gone))


# Held values.


def overwritten(storage: Storage, count: int, size: int) -> None:
    """Store and delete values, so that they are held."""
    for number in range(count):
        version = 10 * number + 10
        assert done(storage.apply([store(f"gone{number:04d}", version, secrets.token_bytes(size))]))
        assert done(storage.apply([delete(f"gone{number:04d}", version + 1)]))


def held(storage: Storage) -> dict[str, int]:
    """The keys of held values, and when they were deleted."""
    with storage._core.index.snapshot() as view:
        return {decode(key): row.deleted for key, row in view.held_from("", None) if row.is_value}


def newest_are_left(before: dict[str, int], left: dict[str, int]) -> bool:
    """Whether all that is gone was deleted before all that is left, or in the same millisecond."""
    return max(before[key] for key in before.keys() - left.keys()) <= min(left.values())


@pytest.mark.parametrize("reserve", ["4M", "0"])
def test_held_files_make_room_before_a_value_is_refused_the_oldest_first(disk: Path, reserve: str) -> None:
    # Given a disk that is full of current and held values
    volume = Volume(disk / "data", reserve=reserve, undelete_days=7)
    storage = volume.open()
    overwritten(storage, 80, 100_000)
    before = held(storage)
    assert len(before) == storage.totals.held_keys == 80
    # When more is stored than there is room for
    stored = 0
    while storage.totals.held_keys > 30:
        (result,) = storage.apply([store(f"k{stored}", 10_000 + stored, secrets.token_bytes(100_000))])
        # Then nothing is refused while there are held values
        assert result.status == Status.DONE, result.reason
        stored += 1
        assert stored < 300, "held values make no room"
    # And those that were deleted first are gone, one by one
    left = held(storage)
    assert newest_are_left(before, left)
    assert len(left) > 20
    assert storage.totals.held_size == len(left) * 100_000
    assert len(volume.value_files()) == len(left) + stored
    # And when there are none, it is
    count, refusal = fill(storage, 100_000, first=20_000)
    assert refusal.status == Status.FULL
    assert storage.totals.held_keys == 0
    assert storage.totals.keys == stored + count
    storage.close()
    assert len(volume.read([f"k{n}" for n in range(stored)])) == stored


def test_held_values_in_the_log_make_room_by_compaction(disk: Path) -> None:
    # Given a disk that is full of held values in the log
    volume = Volume(disk / "data", reserve="4M", undelete_days=7, segment="1M")
    storage = volume.open()
    overwritten(storage, 1000, 4000)
    used, before = volume.log_bytes(), held(storage)
    use_up_to(disk / "filler", storage)
    assert storage.full()
    assert storage.compact().freed == 0
    # When the agent looks after it, then some end, and their space comes back
    storage.make_room()
    assert 0 < storage.totals.held_keys < 1000
    storage.compact()
    wait_for(lambda: not storage.full())
    assert volume.log_bytes() < used
    # And no more end than are needed
    left = storage.totals.held_keys
    assert left > 300
    storage.make_room()
    assert storage.totals.held_keys == left
    assert newest_are_left(before, held(storage))
    storage.close()


def test_held_files_with_another_name_stay_since_they_would_make_no_room(disk: Path) -> None:
    # Given held values, some of whose files are linked elsewhere
    volume = Volume(disk / "data", reserve="4M", undelete_days=7)
    storage = volume.open()
    overwritten(storage, 20, 100_000)
    (disk / "snapshot").mkdir()
    linked = volume.value_files()[:15]
    for path in linked:
        os.link(path, disk / "snapshot" / path.name)
    use_up_to(disk / "filler", storage)
    # When there must be room
    storage.make_room()
    # Then only the others end
    assert set(volume.value_files()) == set(linked)
    assert storage.totals.held_keys == 15
    storage.close()


def test_a_disk_without_any_room_gets_some_from_held_values(disk: Path) -> None:
    # Given a disk whose last byte is used by others
    volume = Volume(disk / "data", undelete_days=7)
    storage = volume.open()
    overwritten(storage, 30, 100_000)
    assert done(storage.apply([store("stays", 5, b"here")]))
    use_up(disk / "filler")
    # When values are stored and deleted, then held ones make room
    assert done(storage.apply([store("k", 10_000, secrets.token_bytes(50_000)), delete("stays", 10_001)]))
    assert 0 < storage.totals.held_keys < 31
    storage.close()
    volume.forget_index()
    # And an index built from the log holds none whose file is gone
    (disk / "filler").unlink()
    storage = volume.open()
    assert len(volume.value_files()) == storage.totals.held_keys  # `k` has one, and `stays`, which is held, has none
    assert storage.scrub(rate=float("inf")).damages == []
    storage.close()


def test_an_upload_gets_room_from_held_values(disk: Path) -> None:
    # Given a disk that is full of held values, a data server's staging, and an agent that looks after it
    volume = Volume(disk / "data", reserve="4M", undelete_days=7)
    storage = volume.open()
    overwritten(storage, 180, 100_000)
    maintenance = Maintenance(storage, volume.config)
    maintenance.start()
    staging = Staging(volume.directory, volume.config.volume.reserve, patience=20.0)
    try:
        # When an upload begins that there is no room for, of known size or not
        with staging.create(10 * MIB) as upload:
            # Then held values make room, and no more than that
            assert 50 < storage.totals.held_keys < 120
            upload.write(secrets.token_bytes(10 * MIB))
            left = storage.totals.held_keys
            with staging.create() as unknown:
                unknown.write(secrets.token_bytes(2 * MIB))
                assert 0 < storage.totals.held_keys < left
        # And when all of them could not make enough, it is refused, and no request is left
        with pytest.raises(DiskFull, match="too few"):
            staging.create(40 * MIB)
        wait_for(lambda: not list((volume.directory / "tmp").glob("room-*")))
    finally:
        maintenance.stop()
        storage.close()


def test_without_an_agent_an_upload_is_refused_after_a_while(disk: Path) -> None:
    Volume(disk / "data").open().close()
    staging = Staging(disk / "data", MIB, patience=0.3)
    started = time.monotonic()
    with pytest.raises(DiskFull):
        staging.create(30 * MIB)
    assert time.monotonic() - started < 10
    assert not list((disk / "data" / "tmp").iterdir())
    # And a directory that no agent has made ready is none to ask in
    with pytest.raises(DiskFull):
        Staging(disk / "new", MIB, patience=0.3).create(30 * MIB)
