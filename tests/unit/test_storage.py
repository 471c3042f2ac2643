"""What becomes of commands: order, duplicates, uploads, refusals; and what is replayed of them."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import random
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from broker import settings
from broker.keys import decode, encode
from broker.messages.store import Delete, Kind, Result, Status, Store
from node.errors import Broken, StorageError
from node.storage import value_files
from node.storage.index.index import Index
from node.storage.log import segments
from node.storage.staging import Staging
from node.storage.storage import Storage
from tests.unit.volume import Volume, delete, done, store, value_of


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data")


@pytest.fixture
def storage(volume: Volume) -> Iterator[Storage]:
    storage = volume.open()
    yield storage
    storage.close()


def statuses(results: list[Result]) -> list[Status]:
    return [result.status for result in results]


def test_stored_values_are_read_back(volume: Volume) -> None:
    # Given values of 0 bytes, of some, and of many
    contents = {f"key-{size}": secrets.token_bytes(size) for size in (0, 1, 4096, 4097, 131072, 131073, 700_000)}
    storage = volume.open()
    # When they are stored
    results = storage.apply([store(key, version, value) for version, (key, value) in enumerate(contents.items(), 1)])
    assert done(results)
    assert (storage.totals.keys, storage.totals.size) == (len(contents), sum(map(len, contents.values())))
    storage.close()
    # Then they are there, the larger ones in files
    assert volume.read(list(contents)) == contents
    assert len(volume.value_files()) == 4


def test_seqs_rise_by_one_with_every_record(storage: Storage) -> None:
    results = storage.apply([store("a", 1), store("b", 2), delete("a", 3), delete("unknown", 4)])
    assert [result.seq for result in results] == list(range(storage.epoch.seq + 1, storage.epoch.seq + 5))
    assert storage.seq == storage.epoch.seq + 4


def test_results_tell_what_was_stored_and_carry_small_values(volume: Volume) -> None:
    # Given values up to 100 bytes that are to be kept beside the entry
    storage = Storage.open(settings.load(None, volume.environ | {"PULZAR_SERVER_CACHED": "100"}))
    small, large = store("small", 7, b"x" * 100), store("large", 8, b"x" * 101)
    # When one is stored that is, and one that is not
    first, second = storage.apply([small, large])
    # Then the result has all of the command, and the value if it is small
    assert first == Result(
        7,
        Status.DONE,
        "",
        storage.seq - 1,
        Kind.PUT,
        encode("small"),
        7,
        small.created,
        0,
        "text/plain",
        small.digest,
        100,
        b"x" * 100,
    )
    assert second.value is None
    storage.close()


def test_applying_a_command_again_changes_nothing(storage: Storage) -> None:
    # Given commands that were applied
    commands = [store("a", 10), delete("b", 11), store("large", 12, secrets.token_bytes(9000))]
    first = storage.apply(commands)
    # When they come again, twice in one batch
    seq = storage.seq
    again = storage.apply(commands + commands)
    # Then they are done as they were, and nothing is written
    assert [(result.status, result.seq) for result in again] == [(r.status, r.seq) for r in first + first]
    assert storage.seq == seq


def test_an_older_version_is_stale(storage: Storage) -> None:
    assert done(storage.apply([store("a", 10), delete("b", 10)]))
    results = storage.apply([store("a", 9), delete("a", 9), store("b", 9), delete("b", 9)])
    assert statuses(results) == [Status.STALE] * 4
    assert [result.seq for result in results] == [0] * 4


def test_at_equal_version_the_tombstone_wins(volume: Volume, storage: Storage) -> None:
    assert done(storage.apply([store("a", 10), delete("a", 10)]))
    assert statuses(storage.apply([store("a", 10)])) == [Status.STALE]
    assert storage.totals.keys == 0


def test_later_commands_of_a_batch_see_earlier_ones(volume: Volume, storage: Storage) -> None:
    results = storage.apply([store("a", 1), store("a", 2), delete("a", 3), store("a", 2), store("a", 4, b"last")])
    assert statuses(results) == [Status.DONE, Status.DONE, Status.DONE, Status.STALE, Status.DONE]
    assert (storage.totals.keys, storage.totals.size) == (1, 4)


def test_any_order_of_the_same_commands_ends_alike(tmp_path: Path) -> None:
    # Given puts and deletes of one key in every order
    commands: list[Store | Delete] = [
        store("k", 1),
        store("k", 2, secrets.token_bytes(5000)),
        delete("k", 3),
        store("k", 4),
    ]
    for number, order in enumerate(itertools.permutations(commands)):
        volume = Volume(tmp_path / str(number))
        storage = volume.open()
        for command in order:
            storage.apply([command])
        storage.close()
        # Then the newest version is what is left
        assert volume.read(["k"]) == {"k": value_of("k", 4)}


def test_a_superseded_or_deleted_value_file_is_gone_at_once(volume: Volume, storage: Storage) -> None:
    large = secrets.token_bytes(10_000)
    storage.apply([store("a", 1, large), store("b", 2, large), store("c", 3, large), delete("c", 4)])
    assert len(volume.value_files()) == 2
    storage.apply([store("a", 5, b"small"), delete("b", 6)])
    assert volume.value_files() == []


# Uploads.


def test_an_upload_becomes_the_value(volume: Volume) -> None:
    # Given two uploads, one of them small
    storage = volume.open()
    contents = {"large": secrets.token_bytes(300_001), "small": b"few bytes"}
    tokens = {key: volume.staged(value) for key, value in contents.items()}
    # When they are stored
    results = storage.apply([store(key, 5, contents[key], staged=tokens[key]) for key in contents])
    storage.close()
    # Then they are the values, the small one in the log, and nothing is left in staging
    assert done(results)
    assert volume.read(list(contents)) == contents
    assert [path.name for path in volume.value_files()] == [tokens["large"]]
    assert list((volume.directory / "staging").iterdir()) == []


def test_an_upload_that_is_not_there_is_missing(volume: Volume, storage: Storage) -> None:
    token = volume.staged(b"v" * 9000)
    commands = [
        store("never", 1, b"v" * 9000, staged="0" * 32),
        store("path", 2, b"v" * 9000, staged="../staging/" + token),
        store("good", 3, b"v" * 9000, staged=token),
        store("twice", 4, b"v" * 9000, staged=token),
    ]
    assert statuses(storage.apply(commands)) == [Status.MISSING, Status.MISSING, Status.DONE, Status.MISSING]
    # Delivered again, its upload is long gone, and it is still done.
    assert statuses(storage.apply(commands[2:3])) == [Status.DONE]
    # An upload of a version that is not wanted any more is removed.
    late = volume.staged(b"v" * 9000)
    assert statuses(storage.apply([store("good", 2, b"v" * 9000, staged=late)])) == [Status.STALE]
    assert list((volume.directory / "staging").iterdir()) == []


def test_an_upload_of_another_size_is_refused(volume: Volume, storage: Storage) -> None:
    token = volume.staged(b"v" * 9000)
    (result,) = storage.apply([store("k", 1, b"v" * 9001, staged=token)])
    assert (result.status, storage.seq) == (Status.FAILED, storage.epoch.seq)
    assert (volume.directory / "staging" / token).exists()


def test_digests_of_an_upload_are_those_of_its_bytes(tmp_path: Path) -> None:
    value = secrets.token_bytes(1_000_000)
    with Staging(tmp_path).create(md5=True) as upload:
        for start in range(0, len(value), 77_777):
            upload.write(value[start : start + 77_777])
        staged = upload.finish()
    assert staged[1:] == (len(value), hashlib.sha256(value).digest(), hashlib.md5(value).digest())
    assert (tmp_path / "staging" / staged.token).stat().st_size == value_files.file_bytes(len(value))


def test_an_upload_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    with suppress(ConnectionError), staging.create() as upload:
        upload.write(b"some")
        raise ConnectionError("client went away")
    finished = staging.create()
    finished.finish()
    finished.abort()
    assert list((tmp_path / "staging").iterdir()) == []


# Bad commands.


@pytest.mark.parametrize(
    "bad",
    [
        store("k", 1, b"value")._replace(size=4),
        store("k", 1)._replace(key=b""),
        store("k", 1)._replace(key=b"x" * 512),
        store("k", 1)._replace(version=-1),
        store("k", 1)._replace(expires=1 << 64),
        store("k", 1)._replace(created="yesterday"),
        store("k", 1)._replace(content_type="x" * 5000),
        delete("k", 1 << 63),
    ],
    ids=lambda command: str(command)[:60],
)
def test_a_command_that_makes_no_sense_fails_alone(storage: Storage, bad: Store | Delete) -> None:
    results = storage.apply([store("a", 1), bad, store("b", 2)])
    assert statuses(results) == [Status.DONE, Status.FAILED, Status.DONE]
    assert results[1].reason


def test_the_longest_key_and_content_type_fit(volume: Volume) -> None:
    storage = volume.open()
    key = "k" * 383
    assert done(storage.apply([store(key, 1, secrets.token_bytes(9000))._replace(content_type="ä" * 700)]))
    storage.close()
    assert list(volume.read([key])) == [key]


def test_a_batch_that_cannot_be_committed_is_undone(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an upload, and an index that can't be written for a moment
    storage = volume.open()
    assert done(storage.apply([store("k", 1, b"before")]))
    large = secrets.token_bytes(9000)
    token = volume.staged(large)
    batch = [
        store("k", 2, b"after"),
        store("large", 3, large, staged=token),
        store("larger", 4, secrets.token_bytes(9000)),
    ]
    monkeypatch.setattr(Index, "commit", refuse)
    log = volume.segments()[-1].read_bytes()
    # When a batch is applied, then it fails as a whole, and nothing of it is there
    results = storage.apply(batch)
    assert [(result.status, result.reason) for result in results] == [(Status.FAILED, "the disk has gone")] * 3
    assert volume.segments()[-1].read_bytes() == log
    assert volume.value_files() == []
    assert [path.name for path in (volume.directory / "staging").iterdir()] == [token]
    # And when the index can be written again, all goes on
    monkeypatch.undo()
    assert done(storage.apply(batch))
    assert storage.seq == storage.epoch.seq + 4
    storage.close()
    assert volume.read(["k", "large"]) == {"k": b"after", "large": large}


@pytest.mark.parametrize(("code", "status"), [(errno.ENOSPC, Status.FULL), (errno.EIO, Status.FAILED)])
def test_what_can_not_be_written_or_flushed_is_taken_back(
    volume: Volume, storage: Storage, monkeypatch: pytest.MonkeyPatch, code: int, status: Status
) -> None:
    log = volume.segments()[-1]
    before = log.read_bytes()

    def half(fd: int, data: bytes, offset: int) -> None:
        os.pwrite(fd, data[: len(data) // 2], offset)
        raise OSError(code, "no more")

    def unflushed(fd: int) -> None:
        monkeypatch.undo()  # for what takes it back
        raise OSError(code, "no flush")

    batch = [store("a", 1), store("b", 2)]
    # When a write breaks off in the middle, then nothing of it stays
    monkeypatch.setattr(segments, "write_at", half)
    assert statuses(storage.apply(batch)) == [status] * 2
    assert log.read_bytes() == before
    monkeypatch.undo()
    # And when a flush fails, nothing is acknowledged
    monkeypatch.setattr(os, "fdatasync", unflushed)
    results = storage.apply([store("a", 1, b"x"), store("b", 2, b"y")])
    assert statuses(results) == [status] * 2
    assert log.read_bytes() == before
    assert done(storage.apply(batch))


def test_a_write_that_can_not_be_taken_back_ends_the_storage(
    volume: Volume, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "no flush")

    assert done(storage.apply([store("a", 1)]))
    monkeypatch.setattr(os, "fdatasync", failing)
    for _ in range(2):
        with pytest.raises(Broken):
            storage.apply([store("a", 2)])
        monkeypatch.undo()


def refuse(index: Index, change: object) -> None:
    raise StorageError("the disk has gone")


# The process.


def test_a_directory_has_one_storage_at_a_time(volume: Volume, storage: Storage) -> None:
    with pytest.raises(StorageError, match="in use"):
        volume.open()


def test_every_opening_is_an_epoch(volume: Volume) -> None:
    epochs = []
    for version in range(1, 71):
        storage = volume.open()
        assert storage.epoch.seq == storage.seq
        epochs.append(storage.epoch)
        storage.apply([store("k", version, b"")])
        assert storage.epochs == epochs[-64:]
        storage.close()
    volume.forget_index()
    storage = volume.open()
    assert storage.epochs[:-1] == epochs[-63:]
    storage.close()


# Replay.


def replayed(storage: Storage, after: int) -> dict[bytes, Result]:
    """The results of a replay by key; that its ranges are as promised is checked on the way."""
    found: dict[bytes, Result] = {}
    end = storage.seq
    lower = after
    for low, upto, items in storage.replay(after):
        assert low == lower
        assert low <= upto
        seqs = [item.seq for item in items]
        assert seqs == sorted(set(seqs))
        assert all(low < seq <= upto for seq in seqs)
        assert len(items) <= 1000
        assert not found.keys() & {item.key for item in items}
        found |= {item.key: item for item in items}
        lower = upto
    assert lower >= end
    return found


def test_a_replay_tells_what_is_current_and_nothing_else(storage: Storage) -> None:
    # Given many versions of some keys over several segments, the newest of some a deletion
    newest: dict[bytes, int] = {}
    dead: set[bytes] = set()
    version = 0
    for _ in range(150):
        batch: list[Store | Delete] = []
        for _ in range(10):
            version += 1
            key = f"k{random.randrange(200)}"
            gone = random.random() < 0.2
            batch.append(delete(key, version) if gone else store(key, version))
            newest[encode(key)] = version
            dead = dead | {encode(key)} if gone else dead - {encode(key)}
        storage.apply(batch)
    # When all is replayed
    found = replayed(storage, 0)
    # Then it is the newest version of every key, with its value when that is in the log
    assert {key: item.version for key, item in found.items()} == newest
    assert {key for key, item in found.items() if item.kind == Kind.DELETE} == dead
    for key, item in found.items():
        if item.kind == Kind.PUT:
            value = value_of(decode(key), item.version)
            assert item.value == (value if len(value) <= 4096 else None)
    # And from any seq on, it is what came after it
    for after in (1, storage.seq // 2, storage.seq - 1):
        assert replayed(storage, after) == {key: item for key, item in found.items() if item.seq > after}
    assert list(storage.replay(storage.seq)) == []


def test_a_replay_runs_beside_writes_and_compaction(storage: Storage) -> None:
    # Given keys that stay, and a thread that writes and compacts others
    stay = [f"stay/{number}" for number in range(300)]
    stop = threading.Event()
    errors: list[BaseException] = []

    def churn() -> None:
        version = 10_000
        try:
            while not stop.is_set():
                storage.apply([store(f"hot/{number % 20}", version + number, b"x" * 800) for number in range(40)])
                version += 40
                if version % 400 == 0:
                    storage.compact()
        except BaseException as error:  # noqa: BLE001 (told to the test)
            errors.append(error)

    for start in range(0, 300, 10):
        storage.apply([store(key, 1 + start, b"s" * 500) for key in stay[start : start + 10]])
        storage.apply([store(f"hot/{n}", 100 + start + n, b"x" * 800) for n in range(20)])
    thread = threading.Thread(target=churn)
    thread.start()
    # When the log is replayed meanwhile, again and again
    try:
        for _ in range(15):
            found = {item.key: item for _, _, items in storage.replay(0) for item in items}
            # Then nothing that stayed is missing
            assert {key for key in stay if encode(key) not in found} == set()
    finally:
        stop.set()
        thread.join()
    assert not errors
