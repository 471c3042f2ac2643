"""What a crash, a lost index or rotten bytes do to a data directory: nothing acknowledged is lost, nothing is wrong."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from broker import lmdb_files
from broker.keys import encode
from broker.messages.store import Status
from node.errors import Broken, Corrupt, StorageError
from node.storage import compaction, value_files
from node.storage.disk.layout import Layout
from node.storage.index import state
from node.storage.index.index import Index
from node.storage.index.rows import Entry, Stat
from node.storage.index.update import IndexUpdate
from node.storage.log import segments
from node.storage.reader import Reader
from node.storage.storage import Storage
from tests.unit.volume import BATCH, Volume, delete, done, figures, read, state_at, store, value_of


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data")


def fill(volume: Volume, keys: int = 40) -> dict[str, bytes]:
    """Store keys, overwrite and delete some of them; returns what is there then."""
    storage = volume.open()
    contents = {f"k{number}": value_of(f"k{number}", 100 + number) for number in range(keys)}
    assert done(storage.apply([store(key, 1 + number) for number, key in enumerate(contents)]))
    assert done(storage.apply([store(key, 100 + number) for number, key in enumerate(contents)]))
    assert done(storage.apply([delete(f"k{number}", 1000 + number) for number in range(0, keys, 4)]))
    storage.close()
    return {key: value for number, (key, value) in enumerate(contents.items()) if number % 4}


@pytest.mark.parametrize("indexed", [True, False])
def test_a_log_cut_at_any_byte_of_its_last_record_keeps_all_earlier_ones(volume: Volume, indexed: bool) -> None:
    # Given a log, and what it was before its last record
    contents = fill(volume)
    storage = volume.open()
    log = volume.segments()[-1]
    before = log.stat().st_size
    assert done(storage.apply([store("last", 5000, b"the last value")]))
    storage.close()
    whole = log.read_bytes()
    for cut in range(before, len(whole), 11 if indexed else 1):
        # When it is cut somewhere in that record
        log.write_bytes(whole[:cut])
        if not indexed:
            volume.forget_index()
        storage = volume.open()
        # Then the last record is not there, and the log goes on
        assert storage.totals.keys == len(contents)
        assert done(storage.apply([store("next", 6000 + cut, b"next"), delete("next", 7000 + cut)]))
        storage.close()
        if cut % 50 == 0 or cut == before:
            assert volume.read([*contents, "last", "next"]) == contents


def test_zeros_at_the_end_of_the_log_are_cut_off(volume: Volume) -> None:
    contents = fill(volume)
    log = volume.segments()[-1]
    log.write_bytes(log.read_bytes() + bytes(10_000))
    volume.open().close()
    assert volume.read([*contents]) == contents
    assert not log.read_bytes().endswith(bytes(1000))


def test_a_segment_that_was_only_begun_is_begun_again(volume: Volume) -> None:
    contents = fill(volume)
    for torn in (b"", b"PZS1\2"):
        (volume.log / "00000002.seg").write_bytes(torn)
        storage = volume.open()
        assert storage.totals.keys == len(contents)
        storage.close()


def test_without_its_index_the_content_is_the_same(volume: Volume) -> None:
    contents = fill(volume, 200)
    storage = volume.open()
    known = figures(storage)
    storage.close()
    volume.forget_index()
    storage = volume.open()
    assert figures(storage) == known
    storage.close()
    assert volume.read([f"k{number}" for number in range(200)]) == contents


def test_a_reader_that_opens_the_old_index_meanwhile_does_not_hinder_the_new_one(volume: Volume) -> None:
    contents = fill(volume)
    index = volume.directory / "index"
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            with suppress(OSError):  # as LMDB does before it looks at the data
                os.close(os.open(index / lmdb_files.LOCK, os.O_RDWR | os.O_CREAT, 0o600))

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for _ in range(30):
            (index / lmdb_files.DATA).write_bytes(b"rubbish" * 10_000)
            storage = volume.open()
            assert storage.totals.keys == len(contents)
            storage.close()
    finally:
        over.set()
        reader.join()


def test_seqs_never_repeat_even_when_their_records_are_gone(volume: Volume) -> None:
    # Given a log whose newest records were all in a segment that is gone
    storage = volume.open()
    for version in range(1, 400, 10):
        assert done(storage.apply([store("k", version + n, b"x" * 3000) for n in range(10)]))
    storage.close()
    seq = storage.seq
    for log in volume.segments()[:-1]:
        log.unlink()
    newest = volume.segments()[-1]
    newest.write_bytes(newest.read_bytes()[: segments.HEAD_BYTES])
    first = segments.SegmentFile(volume.log, int(newest.stem)).head.first
    # When it is opened
    storage = volume.open()
    # Then it goes on with the seq that the segment was begun with
    assert first <= storage.epoch.seq <= seq + 1
    storage.close()


# The index.


def test_a_copied_index_is_not_opened(volume: Volume, tmp_path: Path) -> None:
    # Given a copy of a directory in use, whose index is torn so badly that opening it would hurt
    contents = fill(volume)
    storage = volume.open()
    copy = Volume(tmp_path / "copy")
    shutil.copytree(volume.directory, copy.directory)
    storage.close()
    data = copy.directory / "index" / "data.mdb"
    data.write_bytes(data.read_bytes()[:8192] + secrets.token_bytes(50_000))
    assert state.objection(copy.directory / "index") == "it is a copy"
    # When the copy is opened, by a reader too
    reader = Reader(copy.directory)
    with pytest.raises(StorageError, match="not there yet"):
        reader.get(encode("k1"))
    reader.close()
    copy.open().close()
    # Then all is there
    assert copy.read([f"k{number}" for number in range(40)]) == contents


def test_an_index_is_trusted_by_its_file_its_boot_and_its_closing(
    volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = volume.directory / "index"
    fill(volume)
    # Closed and flushed, it may be used after a restart of the machine; in use, it may not.
    monkeypatch.setattr(lmdb_files, "boot", lambda: "another boot")
    assert state.objection(index) == ""
    storage = volume.open()
    assert state.objection(index) == ""
    monkeypatch.undo()
    assert state.objection(index) == "the machine was restarted while it was in use"
    storage.close()
    assert state.objection(index) == ""
    # Put back from an archive, it has the times that it had.
    (index / "data.mdb").write_bytes((index / "data.mdb").read_bytes())
    shutil.copystat(volume.directory, index / "data.mdb")
    assert state.objection(index) == "its file was touched by something else"
    (index / "state.json").write_text("[]")
    assert state.objection(index)
    (index / "state.json").unlink()
    assert state.objection(index) == "there is none"


def test_the_index_grows_when_its_map_is_full(tmp_path: Path) -> None:
    # Given an index with hardly any room
    index = Index(tmp_path, map_bytes=100_000)
    # When more is put into it
    for number in range(50):
        with index.snapshot() as view:
            changes = IndexUpdate(view)
            changes.stats[1] = Stat(b"uidofit!", 1, 0, 64)
            for key in range(100):
                changes.place(b"%d-%d" % (number, key), Entry(1, 64, 100, 1, 1, 0, 10, 1, False, ""), 0)
        index.commit(changes)
    # Then all is in it
    with index.snapshot() as view:
        assert len(view.entries(b"", 10_000)) == 5000
    index.close()


# Crashes.


def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(volume: Volume) -> None:
    keys, version = 60, 0
    for attempt in range(4):
        # Given a process that applies batches and tells what is done
        process = volume.start("write", version + 1, keys)
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(random.randrange(10, 120))]
        # When it is killed
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged = int([line for line in lines if line.endswith("\n")][-1])
        # Then the next one finds all of it, and of the batch under way a part from its beginning
        if attempt % 2:
            volume.forget_index()
        volume.open().close()
        found = volume.read([f"hot/{number}" for number in range(keys)])
        possible = range(acknowledged, acknowledged + BATCH + 1)
        version = next((number for number in possible if state_at(number, keys) == found), 0)
        assert version, acknowledged


@pytest.fixture
def exchanging(volume: Volume) -> Callable[[], tuple[Storage, dict[str, bytes]]]:
    """Opens a storage with a sealed segment that is worth compacting."""

    def prepare() -> tuple[Storage, dict[str, bytes]]:
        storage = volume.open()
        contents = {}
        for number in range(60):
            key = f"k{number}"
            large = secrets.token_bytes(5000 if number % 20 == 0 else 2000)
            assert done(storage.apply([store(key, 1 + number, large)]))
            if number % 6:
                assert done(storage.apply([delete(key, 1000 + number)]))
            else:
                contents[key] = large
        return storage, contents

    return prepare


def test_a_crash_before_a_compacted_segment_is_renamed_is_put_right(
    volume: Volume, exchanging: Callable[[], tuple[Storage, dict[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, contents = exchanging()

    def fail(self: Path, target: Path) -> Path:
        raise OSError(5, "the power went")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(Broken):
        storage.compact()
    monkeypatch.undo()
    # Until the next start nothing more is written
    with pytest.raises(Broken):
        storage.apply([store("more", 9000)])
    storage.close()
    check_after_crash(volume, contents)


def test_a_crash_after_a_compacted_segment_is_renamed_is_put_right(
    volume: Volume, exchanging: Callable[[], tuple[Storage, dict[str, bytes]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, contents = exchanging()

    def fail(self: Index, change: object) -> None:
        for path in (volume.directory / "tmp").iterdir():
            path.rename(volume.log / path.name)
        raise StorageError("the power went")

    monkeypatch.setattr(Index, "commit", fail)
    with pytest.raises(StorageError, match="power"):
        storage.compact()
    monkeypatch.undo()
    storage.close()
    check_after_crash(volume, contents)


def check_after_crash(volume: Volume, contents: dict[str, bytes]) -> None:
    storage = volume.open()
    known = figures(storage)
    storage.close()
    keys = [f"k{number}" for number in range(60)]
    assert volume.read(keys) == contents
    # And an index made from the log says just the same
    volume.forget_index()
    storage = volume.open()
    assert figures(storage) == known
    storage.close()
    assert volume.read(keys) == contents


# Rot.


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x40
    with path.open("r+b") as file:
        file.write(data)


def test_a_changed_byte_in_the_log_is_an_error_and_never_wrong_data(volume: Volume) -> None:
    # Given a value in the log
    storage = volume.open()
    log = volume.segments()[-1]
    start = log.stat().st_size
    assert done(storage.apply([store("k", 1, b"a value")]))
    end = log.stat().st_size
    assert done(storage.apply([store("next", 2, b"another")]))
    storage.close()
    reader = Reader(volume.directory)
    assert read(reader, "k") == b"a value"
    for position in range(start, end):
        # When any byte of its record changes
        flip(log, position)
        # Then reading it is an error
        with pytest.raises(Corrupt):
            reader.get(encode("k"))
        assert read(reader, "next") == b"another"
        flip(log, position)
    assert read(reader, "k") == b"a value"
    reader.close()


def test_a_rotten_newer_value_never_lets_an_older_one_come_back(volume: Volume) -> None:
    # Given two versions of a value, of which the newer has a changed byte
    storage = volume.open()
    log = volume.segments()[-1]
    assert done(storage.apply([store("k", 1, b"old"), store("other", 2, b"other"), store("k", 3, b"newer value")]))
    assert done(storage.apply([store("last", 4, b"last")]))
    storage.close()
    flip(log, log.read_bytes().index(b"newer value"))
    # When the index is built from the log
    volume.forget_index()
    storage = volume.open()
    report = storage.scrub()
    storage.close()
    # Then the value is damaged still, and the rest is there
    reader = Reader(volume.directory)
    with pytest.raises(Corrupt):
        reader.get(encode("k"))
    reader.close()
    assert volume.read(["other", "last"]) == {"other": b"other", "last": b"last"}
    assert [(damage.key, damage.version) for damage in report.damages] == [(encode("k"), 3)]


def test_bytes_in_the_log_that_are_no_record_cost_only_themselves(volume: Volume) -> None:
    storage = volume.open()
    log = volume.segments()[-1]
    assert done(storage.apply([store(f"k{number}", 1 + number, b"value") for number in range(20)]))
    storage.close()
    data = log.read_bytes()
    flip(log, data.index(encode("k7")))
    volume.forget_index()
    storage = volume.open()
    assert storage.totals.keys == 19
    assert storage.scrub().damages[0].key == b""
    storage.close()
    keys = [f"k{number}" for number in range(20)]
    assert volume.read(keys) == {key: b"value" for key in keys if key != "k7"}


@pytest.mark.parametrize("where", ["head", "bytes", "sums"])
def test_a_changed_byte_in_a_value_file_is_an_error_and_never_wrong_data(volume: Volume, where: str) -> None:
    # Given a value file of three blocks
    value = secrets.token_bytes(300_000)
    storage = volume.open()
    assert done(storage.apply([store("k", 1, value)]))
    storage.close()
    (file,) = volume.value_files()
    start, end = {
        "head": (0, 100),
        "bytes": (value_files.HEAD_BYTES, value_files.HEAD_BYTES + len(value)),
        "sums": (value_files.HEAD_BYTES + len(value), file.stat().st_size),
    }[where]
    reader = Reader(volume.directory)
    for position in {start, end - 1, *random.sample(range(start, end), 10)}:
        # When a byte of it changes
        flip(file, position)
        # Then what is read of it is right, or an error
        with pytest.raises(Corrupt):
            read(reader, "k")
        if where == "bytes" and position - start >= 2 * value_files.BLOCK_BYTES:
            found = reader.get(encode("k"))
            assert found
            assert found.pread(1000, 5000) == value[5000:6000]
        flip(file, position)
    assert read(reader, "k") == value
    # And so it is when the file is cut short, or gone
    shorter = file.read_bytes()[:-10]
    file.write_bytes(shorter)
    with pytest.raises(Corrupt):
        reader.get(encode("k"))
    file.unlink()
    with pytest.raises(Corrupt, match="missing"):
        reader.get(encode("k"))
    reader.close()
    storage = volume.open()
    assert [damage.key for damage in storage.scrub().damages] == [encode("k")]
    storage.close()


def test_the_scrub_compares_the_digest(volume: Volume) -> None:
    # Given a value that came with a digest that is not its own
    storage = volume.open()
    bad = store("k", 1, secrets.token_bytes(9000))._replace(digest=bytes(32))
    assert done(storage.apply([bad, store("good", 2, secrets.token_bytes(9000)), store("small", 3, b"small")]))
    # When all is read, then that one is reported
    report = storage.scrub()
    assert [(damage.key, damage.version) for damage in report.damages] == [(encode("k"), 1)]
    assert (report.files, report.complete) == (2, True)
    storage.close()


def test_compaction_leaves_a_damaged_segment_as_it_is(
    volume: Volume, exchanging: Callable[[], tuple[Storage, dict[str, bytes]]]
) -> None:
    # Given a segment worth compacting, in which a value that counts is damaged
    storage, contents = exchanging()
    key = "k6"
    log = volume.segments()[0]
    flip(log, log.read_bytes().index(contents[key]))
    before = log.read_bytes()
    # When the log is compacted
    storage.compact()
    assert storage.compact() == compaction.CompactionReport()
    storage.close()
    # Then the segment is as it was, and reading the value is an error still
    assert log.read_bytes() == before
    reader = Reader(volume.directory)
    with pytest.raises(Corrupt):
        reader.get(encode(key))
    reader.close()
    assert volume.read([k for k in contents if k != key]) == {k: v for k, v in contents.items() if k != key}


# Files without records, records without files.


def test_files_that_nothing_points_to_are_removed_at_the_next_start(volume: Volume) -> None:
    contents = fill(volume)
    places = Layout.of(volume.directory)
    orphan = value_files.path(places.values, "ab" + "0" * 30)
    orphan.write_bytes(b"orphan")
    old, new = places.staging / ("1" * 32), places.staging / ("2" * 32)
    for path in (old, new):
        path.write_bytes(b"upload")
    os.utime(old, (1, 1))
    (places.tmp / "left").write_bytes(b"left")
    volume.open().close()
    assert (orphan.exists(), old.exists(), new.exists(), (places.tmp / "left").exists()) == (False, False, True, False)
    assert volume.read(list(contents)) == contents


def large(version: int) -> bytes:
    return random.Random(version).randbytes(6000)


def copied(volume: Volume, target: Path, *, log: bool, files: bool) -> None:
    """Copy the log or the value files, as a copying program does one after the other."""
    for name, wanted in (("log", log), ("values", files)):
        if wanted:
            shutil.copytree(volume.directory / name, target / name)


def test_a_value_file_that_came_after_the_files_were_copied_gives_way_to_the_one_before(
    volume: Volume, tmp_path: Path
) -> None:
    # Given a copy that has the value files as they were before an overwrite, and the log as it was after
    storage = volume.open()
    storage.apply([store("k", 1, large(1)), store("other", 2, large(2))])
    copied(volume, tmp_path / "copy", log=False, files=True)
    storage.apply([store("k", 3, large(3)), store("new", 4, large(4))])
    copied(volume, tmp_path / "copy", log=True, files=False)
    storage.close()
    # When the copy is opened
    copy = Volume(tmp_path / "copy")
    for _ in range(2):
        copy.open().close()
        # Then the key has the value that the copy holds, also when the index is made once more
        assert copy.read(["k", "other", "new"]) == {"k": large(1), "other": large(2)}
        copy.forget_index()


def test_a_value_file_that_was_removed_before_the_files_were_copied_brings_nothing_older_back(
    volume: Volume, tmp_path: Path
) -> None:
    # Given a copy that has the log as it was before an overwrite and deletions, and the value files as they were after
    storage = volume.open()
    storage.apply([store("k", 1, large(1)), store("gone", 2, b"small, older"), store("gone", 3, large(3))])
    storage.apply([store("gone too", 4, large(4))])
    copied(volume, tmp_path / "copy", log=True, files=False)
    storage.apply([store("k", 5, large(5)), delete("gone", 6), delete("gone too", 7)])
    copied(volume, tmp_path / "copy", log=False, files=True)
    storage.close()
    copy = Volume(tmp_path / "copy")
    for _ in range(2):
        # When the copy is opened
        storage = copy.open()
        # Then the overwritten key has its newer value, and what was deleted is deleted
        found = {item.key: item for _, _, items in storage.replay(0) for item in items}
        storage.close()
        assert copy.read(["k", "gone", "gone too"]) == {"k": large(5)}
        assert (found[encode("gone")].version, found[encode("gone")].status) == (3, Status.DONE)
        copy.forget_index()
