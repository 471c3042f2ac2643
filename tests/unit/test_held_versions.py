"""Held versions: what is deleted or overwritten stays for a while, can be brought back, and then goes."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.keys import decode, encode
from broker.messages.store import Delete, Source, Status, Store
from node.errors import StorageError
from node.storage import storage as storage_module
from node.storage import write_batch
from node.storage.index import state, update
from node.storage.index.index import Index
from node.storage.storage import Storage
from tests.support import seeds
from tests.unit.volume import BATCH, DAY_MS, Volume, delete, done, figures, key_of, store, value_of

UNDELETE_MS = 7 * DAY_MS
START = 1_800_000_000_000


@dataclass
class Clock:
    """The clock of the storage, in ms since the epoch."""

    now: int = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (storage_module, write_batch, update):
        monkeypatch.setattr(module, "now_ms", made)
    return made


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data", undelete_days=7)


class Version(NamedTuple):
    """A held version of a key."""

    key: str
    version: int
    deleted: int
    size: int


def held(storage: Storage, now: int) -> set[Version]:
    """What can be brought back."""
    found = set()
    with storage._core.index.snapshot() as view:
        for key, row in view.held_from("", None):
            if row.is_value and row.until(UNDELETE_MS) > now:
                found.add(Version(decode(key), row.entry.version, row.deleted, row.entry.size))
    return found


class Row(NamedTuple):
    """A record of the model."""

    version: int
    value: bytes | None
    since: int
    expires: int


@dataclass
class Model:
    """What is stored, and what can be brought back."""

    rows: dict[str, list[Row]] = field(default_factory=dict)

    def put(self, command: Store, value: bytes) -> None:
        self._add(command.key, Row(command.version, value, command.created, command.expires))

    def delete(self, command: Delete, now: int) -> None:
        if command.purge:
            self.rows.pop(decode(command.key), None)
        self._add(command.key, Row(command.version, None, now, 0))

    def _add(self, key: bytes, row: Row) -> None:
        rows = self.rows.setdefault(decode(key), [])
        if rows:
            row = row._replace(since=max(row.since, rows[-1].since))
        rows.append(row)

    def held(self, now: int) -> dict[Version, bytes]:
        found = {}
        for key, rows in self.rows.items():
            for row, later in itertools.pairwise(rows):
                until = later.since + UNDELETE_MS
                if row.expires:
                    until = min(until, row.expires)
                if row.value is not None and until > now:
                    found[Version(key, row.version, later.since, len(row.value))] = row.value
        return found

    def current(self, key: str) -> Row | None:
        rows = self.rows.get(key)
        return rows[-1] if rows else None


@pytest.mark.parametrize("seed", seeds(4, 8))
def test_whatever_happens_the_log_says_what_is_held(volume: Volume, clock: Clock, seed: int) -> None:
    # Given a storage, a model of it, and a clock
    rng = random.Random(seed)
    lifetimes, skewed = seed % 2 == 1, seed % 4 >= 2
    storage = volume.open()
    model = Model()
    version = 0
    for _ in range(60):
        # When anything happens: puts, overwrites, deletions, purges, compactions, openings, lost indexes
        batch: list[Store | Delete] = []
        for _ in range(rng.randrange(1, 12)):
            version += 1
            key = f"k{rng.randrange(25)}"
            created = clock.now + (rng.randrange(-20_000_000, 20_000_000) if skewed else 0)
            chance = rng.random()
            if chance < 0.3:
                deletion = Delete(version, encode(key), version, purge=rng.random() < 0.15)
                known = model.current(key)
                if rng.random() < 0.3 and known and known.value is not None:
                    deletion = deletion._replace(version=known.version)
                batch.append(deletion)
                model.delete(deletion, clock.now)
            else:
                expires = clock.now + rng.randrange(1, 6 * DAY_MS) if lifetimes and rng.random() < 0.4 else 0
                value = value_of(key, version)
                command = store(key, version, value, expires=expires)._replace(created=created)
                batch.append(command)
                model.put(command, value)
        assert {result.status for result in storage.apply(batch)} == {Status.DONE}
        clock.now += rng.choice([0, 1, 1000, DAY_MS // 24, DAY_MS // 4])
        chance = rng.random()
        if chance < 0.4:
            storage.compact(clock.now)
        elif chance < 0.6:
            before = held(storage, clock.now)
            storage.compact(clock.now)
            known_figures = figures(storage)
            storage.close()
            if rng.random() < 0.7:
                volume.forget_index()
            storage = volume.open()
            # Then an index built from the log holds the same
            assert held(storage, clock.now) == before
            assert figures(storage) == known_figures
        # And it holds what the model says
        expected = model.held(clock.now)
        assert held(storage, clock.now) == set(expected)
        # And what is held can be brought back, and nothing else
        if expected and rng.random() < 0.3:
            one, value = rng.choice(list(expected.items()))
            version += 1
            text = Source(encode(one.key), one.version).text()
            command = store(f"back{version}", version, value, staged=text)._replace(created=clock.now)
            (result,) = storage.apply([command])
            assert result.status == Status.DONE, result.reason
            model.put(command, value)
    assert storage.scrub(rate=float("inf")).damages == []
    # And what is current is right all the time
    storage.close()
    for key in model.rows:
        row = model.current(key)
        assert row
        if not row.expires:
            assert volume.read([key]).get(key) == row.value, key
    # And at the end of its time all goes
    storage = volume.open()
    clock.now += 8 * DAY_MS
    storage.compact(clock.now)
    assert held(storage, clock.now) == set()
    totals = storage.totals
    assert (totals.held_keys, totals.held_size) == (0, 0)
    with storage._core.index.snapshot() as view:
        assert list(view.held_from("", None)) == []
        assert len(volume.value_files()) == len(view.files())
    storage.close()


# Crashes, copies, and indexes of before.


def shown(storage: Storage) -> dict[tuple[str, int], int]:
    """What can be brought back: key and version, and when it was deleted."""
    with storage._core.index.snapshot() as view:
        return {(decode(k), r.entry.version): r.deleted for k, r in view.held_from("", None) if r.is_value}


def brought_back(storage: Storage, versions: Iterable[tuple[str, int]], first: int) -> None:
    """Bring every one of them back under a new key, byte for byte."""
    for number, (key, version) in enumerate(versions):
        text = Source(encode(key), version).text()
        command = store(f"back/{number}", first + number, value_of(key, version), staged=text)
        (result,) = storage.apply([command])
        assert result.status == Status.DONE, (key, version, result.reason)


def test_a_kill_at_any_moment_loses_no_held_version(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "data", undelete_days=7)
    keys, version = 20, 0
    for attempt in range(3):
        # Given a process that overwrites, deletes and compacts, and tells what is done
        process = volume.start("write", version + 1, keys)
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(random.randrange(10, 60))]
        # When it is killed
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        acknowledged = int([line for line in lines if line.endswith("\n")][-1])
        # Then the next one holds every version that was superseded, and all can be brought back
        if attempt % 2:
            volume.forget_index()
        storage = volume.open()
        found = shown(storage)
        newest = max(number for number in range(acknowledged + BATCH + 1) if number <= storage_version(storage, number))
        expected = superseded(newest, keys)
        assert set(found) == expected
        brought_back(storage, random.sample(sorted(found), min(20, len(found))), 1_000_000 + 1000 * attempt)
        # And an index built from the log holds the same
        known = shown(storage)
        storage.close()
        volume.forget_index()
        storage = volume.open()
        assert shown(storage) == known
        assert storage.scrub(rate=float("inf")).damages == []
        storage.close()
        version = newest


def storage_version(storage: Storage, number: int) -> int:
    """`number` if the log has the command of that version, else 0."""
    key = encode(key_of(number, 20)) if number else b""
    with storage._core.index.snapshot() as view:
        entry = view.entry(key) if key else None
        known = entry is not None and entry.version >= number
    return number if known or not number else 0


def superseded(newest: int, keys: int) -> set[tuple[str, int]]:
    """The values among the versions up to this one that another version came after."""
    last = {key_of(number, keys): number for number in range(1, newest + 1)}
    return {
        (key, number) for number in range(1, newest + 1) if number % 5 and last[key := key_of(number, keys)] != number
    }


def test_a_copy_by_tar_of_a_directory_in_use_has_what_was_held_before(tmp_path: Path) -> None:
    # Given held values, small ones and files
    volume = Volume(tmp_path / "data", undelete_days=7)
    storage = volume.open()
    names = [f"gone/{number}" for number in range(60)]
    for number, key in enumerate(names, 1):
        assert done(storage.apply([store(key, number)]))
        over = store(key, 1000 + number)._replace(created=update.now_ms())
        assert done(storage.apply([delete(key, 1000 + number) if number % 2 else over]))
    known = {one for one in shown(storage) if one[0].startswith("gone/")}
    assert len(known) == 60
    storage.close()
    # And a process that stores, deletes and compacts other keys
    process = volume.start("write", 1, 20)
    assert process.stdout
    try:
        for _ in range(10):
            process.stdout.readline()
        with (tmp_path / "copy.tar").open("wb") as archive:
            subprocess.run(["tar", "-C", str(volume.directory), "-c", "."], stdout=archive, stderr=subprocess.PIPE)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    # When the copy is opened, then all of them can be brought back
    copy = Volume(tmp_path / "copy", undelete_days=7)
    copy.directory.mkdir()
    subprocess.run(["tar", "-C", str(copy.directory), "-xf", str(tmp_path / "copy.tar")], check=True)
    storage = copy.open()
    assert known <= set(shown(storage))
    brought_back(storage, sorted(known), 1_000_000)
    assert storage.scrub(rate=float("inf")).damages == []
    storage.close()


def test_a_held_version_without_its_file_is_held_no_longer(volume: Volume) -> None:
    # Given held values in files, and one file that is lost
    storage = volume.open()
    large = bytes(10_000)
    assert done(storage.apply([store("a", 1, large), store("b", 2, large), delete("a", 3), delete("b", 4)]))
    lost = next(path for path in volume.value_files() if encode("a") in path.read_bytes()[:300])
    storage.close()
    lost.unlink()
    # When the directory is opened, with its index or without
    for indexed in (True, False, False):
        if not indexed:
            volume.forget_index()
        storage = volume.open()
        # Then the other one is held, and the key has no value
        assert set(shown(storage)) == {("b", 2)}
        assert (storage.totals.held_keys, storage.totals.held_size, storage.totals.keys) == (1, 10_000, 0)
        assert storage.scrub(rate=float("inf")).damages == []
        storage.close()


def test_the_scrub_reads_what_is_held(volume: Volume) -> None:
    # Given held values in the log and in a file
    storage = volume.open()
    assert done(storage.apply([store("small", 1, b"the small value"), store("large", 2, bytes(10_000))]))
    assert done(storage.apply([delete("small", 3), delete("large", 4)]))
    # When both rot
    log = volume.segments()[-1]
    at = log.read_bytes().index(b"the small value")
    (path,) = volume.value_files()
    for file, position in ((log, at), (path, 9000)):
        with file.open("r+b") as opened:
            opened.seek(position)
            opened.write(b"?")
    # Then the scrub says so, and neither can be brought back damaged
    damages = storage.scrub(rate=float("inf")).damages
    assert sorted((damage.key, damage.version) for damage in damages) == [(encode("large"), 2), (encode("small"), 1)]
    text = Source(encode("small"), 1).text()
    (result,) = storage.apply([store("back", 10, b"the small value", staged=text)])
    assert result.status == Status.FAILED
    # And compaction leaves damage where it is
    storage.compact()
    assert set(shown(storage)) == {("small", 1), ("large", 2)}
    storage.close()


def test_another_undelete_days_counts_from_the_next_start(tmp_path: Path) -> None:
    # Given values that were deleted just now, and one that was overwritten three days ago
    volume = Volume(tmp_path / "data", undelete_days=7)
    storage = volume.open()
    past = update.now_ms() - 3 * DAY_MS
    assert done(storage.apply([store("old", 1), store("old", 2)._replace(created=past)]))
    assert done(storage.apply([store("new", 3, bytes(10_000)), delete("new", 4)]))
    assert set(shown(storage)) == {("old", 1), ("new", 3)}
    storage.close()
    # When it is less, then more, then nothing
    for days, expected in ((2, {("new", 3)}), (7, {("old", 1), ("new", 3)}), (0, set())):
        storage = Volume(tmp_path / "data", undelete_days=days).open()
        assert set(shown(storage)) == expected
        storage.close()
    # Then the files are gone, too
    assert volume.value_files() == []


def test_an_index_of_the_version_before_is_built_anew(volume: Volume, caplog: pytest.LogCaptureFixture) -> None:
    storage = volume.open()
    assert done(storage.apply([store("a", 1), delete("a", 2), store("b", 3)]))
    storage.close()
    # Given a state as the version before wrote it
    path = volume.directory / "index" / "state.json"
    written = json.loads(path.read_text())
    old = {"file": written["index"], "boot": written["boot"], "clean": True, "written": written["written"]}
    path.write_text(json.dumps(old))
    assert state.objection(path.parent) == "it is of another version of Pulzar"
    # Then all is there, and the other way round the version before finds no file that it knows
    storage = volume.open()
    assert set(shown(storage)) == {("a", 1)}
    storage.close()
    assert "file" not in json.loads(path.read_text())


@pytest.mark.parametrize("compacted", [False, True])
def test_what_was_purged_never_comes_back(volume: Volume, clock: Clock, compacted: bool) -> None:
    # Given a key with old versions that were purged, and a newer value; all of it in different segments
    storage = volume.open()
    filler = 10_000
    for command in (
        store("k", 1),
        store("k", 2),
        delete("k", 3)._replace(purge=True),
        store("k", 4)._replace(created=clock.now),
        store("k", 5)._replace(created=clock.now),
    ):
        assert done(storage.apply([command]))
        for _ in range(40):
            filler += 2
            junk = [store("junk", filler, bytes(3000)), delete("junk", filler + 1)._replace(purge=True)]
            assert done(storage.apply(junk))
    assert {one for one in shown(storage) if one[0] == "k"} == {("k", 4)}
    for days in (0, 2, 3, 2):
        # When time passes, compaction works, and the index is lost again and again
        clock.now += days * DAY_MS
        if compacted:
            storage.compact(clock.now)
        storage.close()
        volume.forget_index()
        storage = volume.open()
        # Then they are as gone as they were
        assert {one for one in shown(storage) if one[0] == "k"} == (
            {("k", 4)} if clock.now < START + 7 * DAY_MS else set()
        )
    (result,) = storage.apply([store("back", 100_000, staged=Source(encode("k"), 2).text())])
    assert result.status == Status.MISSING
    storage.close()


def test_a_purge_of_a_version_that_is_deleted_already_drops_what_is_held(volume: Volume) -> None:
    storage = volume.open()
    assert done(storage.apply([store("k", 1, bytes(9000)), delete("k", 1), store("k", 2, bytes(9000))]))
    assert done(storage.apply([delete("k", 2)]))
    assert set(shown(storage)) == {("k", 1), ("k", 2)}
    purge = delete("k", 2)._replace(purge=True)
    first, again = storage.apply([purge]), storage.apply([purge])
    assert done([*first, *again])
    assert first[0].seq == again[0].seq
    for _ in range(2):
        assert (shown(storage), volume.value_files(), storage.totals.held_keys) == ({}, [], 0)
        storage.close()
        volume.forget_index()
        storage = volume.open()
    storage.close()


def test_replays_have_current_records_only(volume: Volume) -> None:
    storage = volume.open()
    assert done(storage.apply([store("a", 1), store("a", 2), delete("a", 3), store("b", 4), store("b", 5)]))
    storage.compact()
    sent = [(item.key, item.version) for part in storage.replay(0) for item in part.results]
    assert sent == [(encode("a"), 3), (encode("b"), 5)]
    storage.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_crash_while_a_segment_with_held_records_is_exchanged_is_put_right(
    volume: Volume, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    # Given a segment of garbage with held values in it
    storage = volume.open()
    for number in range(40):
        version = 10 * number + 1
        assert done(storage.apply([store(f"gone{number}", version), delete(f"gone{number}", version + 1)]))
        junk = [store("junk", version + 2, bytes(3000)), delete("junk", version + 3)._replace(purge=True)]
        assert done(storage.apply(junk))
    known = shown(storage)
    assert len(known) == 40

    # When the process dies before the new segment takes its place, or after that and before the index knows
    def fail(*_: object) -> None:
        if moment == "after":
            for path in (volume.directory / "tmp").glob("*.seg"):
                os.rename(path, volume.log / path.name)
        raise StorageError("the power went") if moment == "after" else OSError(5, "the power went")

    target = (Index, "commit") if moment == "after" else (Path, "rename")
    monkeypatch.setattr(*target, fail)
    with pytest.raises(StorageError):
        storage.compact()
    monkeypatch.undo()
    storage.close()
    # Then the next start finds the same
    storage = volume.open()
    assert shown(storage) == known
    brought_back(storage, known, 100_000)
    storage.close()
