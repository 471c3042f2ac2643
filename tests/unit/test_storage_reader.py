"""A reader in another process, while the storage is written, compacted, closed, and given a new index."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from broker import process as kernel
from broker.keys import encode
from broker.messages.store import Delete, Store
from node.errors import Corrupt, StorageUnavailable
from node.storage import reader as reader_module
from node.storage import recovery
from node.storage.index import state
from node.storage.index.index import Index
from node.storage.reader import Reader
from node.storage.storage import Storage
from tests.support import wait_for
from tests.unit.volume import Volume, delete, done, read, store, value_of

STAY = 60


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data")


@contextmanager
def reading(volume: Volume) -> Iterator[None]:
    """A process that reads `stay/…` all the time; fails when it does not find one of them."""
    process = volume.start("read", STAY, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    try:
        yield
    finally:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert int(output) >= STAY


def stay(storage: Storage, first: int = 1) -> None:
    assert done(storage.apply([store(f"stay/{n}", first + n) for n in range(STAY)]))


def churn(storage: Storage, seconds: float, version: int = 10_000) -> int:
    """Overwrite and delete other keys and those that stay, and compact, for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(8):
            hot = [store(f"hot/{n}", version + n) for n in range(20)]
            assert done(storage.apply([*hot, delete("hot/3", version + 20), store(f"stay/{version % STAY}", version)]))
            version += 21
        storage.compact()
    return version


def test_a_reader_never_misses_a_value_while_the_log_is_compacted(volume: Volume) -> None:
    storage = volume.open()
    stay(storage)
    with reading(volume), reading(volume):
        churn(storage, 2.5)
    storage.close()


def test_a_reader_follows_an_index_that_grows(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an index with a small map, open in another process
    monkeypatch.setitem(Index.__init__.__kwdefaults__, "map_bytes", 200_000)
    storage = volume.open()
    stay(storage)
    with reading(volume):
        # When it outgrows its map, again and again
        for start in range(1000, 21_000, 200):
            assert done(storage.apply([delete(f"unknown/{n}", n) for n in range(start, start + 200)]))
        assert storage._core.index._map_bytes > 2_000_000
    storage.close()


def test_a_reader_follows_its_storage_through_restarts_and_lost_indexes(volume: Volume) -> None:
    storage = volume.open()
    stay(storage)
    version = 10_000
    with reading(volume):
        for lost in (False, True, False, True):
            version = churn(storage, 0.2, version)
            storage.close()
            if lost:
                volume.forget_index()
            storage = volume.open()
    storage.close()


def test_what_is_deleted_after_an_index_was_lost_is_not_read_from_the_old_one(volume: Volume) -> None:
    # Given a reader, and a storage that lost its index and made another
    storage = volume.open()
    stay(storage)
    storage.close()
    reader = Reader(volume.directory)
    assert read(reader, "stay/1") == value_of("stay/1", 2)
    volume.forget_index()
    # When a key is deleted then
    process = volume.start("delete", 1, 999, stdin=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == "deleted\n"
    # Then the reader had followed before, though nobody read; so it does not find the key
    status = (volume.directory / "index" / "data.mdb").stat()
    assert reader._index_file == (status.st_dev, status.st_ino)
    assert reader.get(encode("stay/1")) is None
    assert read(reader, "stay/2") == value_of("stay/2", 3)
    process.communicate("\n")
    reader.close()


def test_a_storage_with_a_new_index_waits_for_the_readers_of_the_old_one(volume: Volume) -> None:
    # Given a reader of an index that is lost
    storage = volume.open()
    stay(storage)
    storage.close()
    lock = kernel.hold(volume.directory / "index", shared=True)
    volume.forget_index()
    # When the storage is opened
    opened: list[Storage] = []
    thread = threading.Thread(target=lambda: opened.append(volume.open()))
    thread.start()
    # Then it has a new index soon, but begins no work
    wait_for(lambda: not state.objection(volume.directory / "index"))
    thread.join(0.2)
    assert thread.is_alive()
    # Until the reader lets go of the old one
    os.close(lock)
    thread.join(20)
    opened[0].close()


def test_a_reader_that_never_lets_go_of_its_index_does_not_keep_the_storage_closed(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recovery, "READERS_SECS", 0.05)
    volume.open().close()
    lock = kernel.hold(volume.directory / "index", shared=True)
    volume.forget_index()
    volume.open().close()
    os.close(lock)
    assert "a reader does not let go of the old index" in caplog.text


LARGE = b"large" * 2000


def test_a_value_in_a_file_is_found_by_one_look_at_the_index(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = volume.open()
    assert done(storage.apply([store("k", 1, LARGE)]))
    storage.close()
    reader = Reader(volume.directory)
    with monkeypatch.context() as patch:
        patch.delattr(Index, "snapshot")  # the careful way, which looks again
        assert read(reader, "k") == LARGE
    reader.close()


@pytest.mark.parametrize(
    ("command", "value"),
    [(store("k", 2, b"small"), b"small"), (store("k", 2, b"other" * 3000), b"other" * 3000), (delete("k", 2), None)],
)
def test_a_value_file_that_goes_after_the_look_at_the_index_is_looked_for_again(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, command: Store | Delete, value: bytes | None
) -> None:
    # Given a reader that has the entry of a value in a file
    storage = volume.open()
    assert done(storage.apply([store("k", 1, LARGE), store("stay", 1, LARGE)]))
    with storage._core.index.snapshot() as view:
        entry = view.raw(encode("k"))
    # When the value is replaced or deleted, and the log is compacted
    assert done(storage.apply([command, *(store("fill", n, b"garbage" * 400) for n in range(1, 9))]))
    storage._begin_segment()
    assert storage.compact().freed
    storage.close()
    # Then the reader finds what is there now
    reader = Reader(volume.directory)
    assert read(reader, "stay") == LARGE
    monkeypatch.setattr(reader._index, "get", lambda _key: entry)
    assert read(reader, "k") == value
    reader.close()


def test_a_value_file_that_is_lost_is_an_error(volume: Volume) -> None:
    storage = volume.open()
    assert done(storage.apply([store("k", 1, LARGE)]))
    storage.close()
    volume.value_files()[0].unlink()
    reader = Reader(volume.directory)
    with pytest.raises(Corrupt, match="the file of version 1 is missing"):
        reader.get(encode("k"))
    reader.close()


def test_a_reader_that_comes_before_the_storage_finds_it_later(volume: Volume) -> None:
    reader = Reader(volume.directory)
    with pytest.raises(StorageUnavailable):
        reader.get(encode("k"))
    storage = volume.open()
    assert done(storage.apply([store("k", 1, b"value")]))
    storage.close()
    assert wait_for(lambda: found(reader, "k")) == b"value"
    reader.close()
    with pytest.raises(StorageUnavailable):
        reader.get(encode("k"))


def found(reader: Reader, key: str) -> bytes | None:
    """The value, None as long as the index is not there."""
    try:
        return read(reader, key)
    except StorageUnavailable:
        return None


def test_many_threads_share_a_reader(volume: Volume) -> None:
    # Given values in the log and in files, in more segments than a reader keeps open
    storage = volume.open()
    stay(storage)
    version = 1000
    for _ in range(80):
        assert done(storage.apply([store(f"fill/{version + n}", version + n, b"x" * 4000) for n in range(17)]))
        version += 17
    assert len(volume.segments()) > 64
    storage.close()
    reader = Reader(volume.directory)
    failures: list[object] = []

    def work(offset: int) -> None:
        for number in range(offset, offset + 600):
            key, expected = f"stay/{number % STAY}", value_of(f"stay/{number % STAY}", 1 + number % STAY)
            if number % 2:
                version = 1000 + number * 7 % 1360
                key, expected = f"fill/{version}", b"x" * 4000
            try:
                if read(reader, key) != expected:
                    failures.append(key)
            except Exception as error:  # noqa: BLE001 (told to the test)
                failures.append(error)

    # When they are read by many threads at once
    threads = [threading.Thread(target=work, args=(n * 100,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Then every one gets what it asked for
    assert failures == []
    assert len(reader._segments) <= 64
    reader.close()


def test_a_reader_lets_go_of_segments_that_are_gone(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_TIDY_SECS", 0.05)
    storage = volume.open()
    assert done(storage.apply([store("small", 1, b"small")]))
    storage.close()
    reader = Reader(volume.directory)
    assert read(reader, "small") == b"small"
    assert reader._segments
    for path in volume.segments():
        path.unlink()
    wait_for(lambda: not reader._segments)
    reader.close()


def test_what_was_found_stays_readable_when_the_value_is_replaced(volume: Volume) -> None:
    storage = volume.open()
    old = b"old" * 5000
    assert done(storage.apply([store("k", 1, old)]))
    storage.close()
    reader = Reader(volume.directory)
    value = reader.get(encode("k"))
    reader.close()
    storage = volume.open()
    assert done(storage.apply([store("k", 2, b"new" * 5000)]))
    storage.close()
    assert value
    with closing(value):
        assert value.pread(20_000, 0) == old
        assert (value.version, value.size, value.content_type) == (1, len(old), "text/plain")
