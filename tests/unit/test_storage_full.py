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

from broker.messages.store import Result, Status
from node.errors import DiskFull
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
