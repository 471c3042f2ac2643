"""Snapshots of a node: what they hold, while everything goes on, and after a crash at any step."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker import phases, snapshot_files
from node.errors import DiskFull
from node.storage import digests, snapshots
from node.storage.storage import Storage
from tests.unit.volume import Volume, command_of, delete, done, state_at, store

KEYS = 40


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "data")


def restored(folder: Path, to: Path) -> Volume:
    """The folder of a snapshot, copied to be a data directory."""
    assert subprocess.run(["sha256sum", "-c", "--quiet", "MANIFEST"], cwd=folder, check=False).returncode == 0
    shutil.copytree(folder, to)
    return Volume(to)


def content(volume: Volume, names: list[str]) -> dict[str, bytes]:
    """All values of a data directory, after it was opened and closed."""
    volume.open().close()
    return volume.read(names)


def names() -> list[str]:
    return [f"hot/{number}" for number in range(KEYS)]


def write(storage: Storage, first: int, last: int) -> None:
    for start in range(first, last + 1, 10):
        assert done(storage.apply([command_of(n, KEYS) for n in range(start, min(start + 10, last + 1))]))


def test_a_snapshot_opens_as_a_data_directory_with_everything_up_to_its_seq(volume: Volume, tmp_path: Path) -> None:
    # Given values in sealed segments, in the active one and in files
    storage = volume.open()
    (volume.directory / "node-id").write_text("node-1\n")
    write(storage, 1, 500)
    # When a snapshot is made, and all is overwritten or deleted after it
    folder = storage.snapshot("node-1")
    head = snapshot_files.read_head(folder)
    epochs = storage.epochs
    assert (head.kind, head.name, head.seq) == ("node", "node-1", storage.seq)
    write(storage, 501, 1500)
    assert done(storage.apply([delete(name, 10_000 + n) for n, name in enumerate(names())]))
    while storage.compact().freed:
        pass
    storage.close()
    # Then the folder has what it says, and is that node at that moment
    files = list(snapshot_files.read_manifest(folder))
    present = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {one.path for one in files} | {"SNAPSHOT", "MANIFEST"} == present
    assert sum(one.size for one in files) == head.bytes
    assert all((folder / one.path).stat().st_size == one.size for one in files)
    copy = restored(folder, tmp_path / "copy")
    opened = copy.open()
    assert opened.epochs[: len(epochs)] == epochs
    assert opened.seq > head.seq
    opened.close()
    assert (copy.directory / "node-id").read_text() == "node-1\n"
    assert copy.read(names()) == state_at(500, KEYS)


def test_snapshots_hold_their_moment_while_everything_goes_on(volume: Volume, tmp_path: Path) -> None:
    # Given a storage that is written, with overwrites and deletions of large values, and compacted all the time
    storage = volume.open()
    write(storage, 1, 200)
    stop = threading.Event()
    versions: dict[int, int] = {}  # seq → version

    def writes() -> None:
        for first in itertools.count(201, 5):
            if stop.is_set():
                return
            results = storage.apply([command_of(n, KEYS) for n in range(first, first + 5)])
            assert done(results)
            versions.update((result.seq, result.version) for result in results)

    def compacts() -> None:
        while not stop.is_set():
            storage.compact()
            storage.digest()

    # When snapshots are made one after the other
    with ThreadPoolExecutor(2) as threads:
        work = [threads.submit(writes), threads.submit(compacts)]
        try:
            folders = [storage.snapshot("node-1") for _ in range(25)]
        finally:
            stop.set()
    for future in work:
        future.result()
    storage.close()
    # Then each holds exactly what was stored at its seq, checked by an index built from its log
    assert len({snapshot_files.read_head(folder).seq for folder in folders}) > 10
    for number, folder in enumerate(folders):
        seq = snapshot_files.read_head(folder).seq
        version = versions.get(seq, 200)
        copy = restored(folder, tmp_path / f"copy{number}")
        assert content(copy, names()) == state_at(version, KEYS), f"snapshot {number} at {version}"


def test_files_that_a_snapshot_needs_are_removed_only_when_they_are_linked(
    volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a snapshot that has taken its moment, and no links yet
    storage = volume.open()
    large = b"x" * 9000
    assert done(storage.apply([store("large", 1, large)]))
    for version in range(1, 40):
        assert done(storage.apply([store(f"small{n}", version, b"y" * 2000) for n in range(20)]))
    compaction = threading.Thread(target=storage.compact)

    def at_the_cut(phase: str) -> None:
        if phase == "snapshot.cut":
            # When a value is deleted and the log is compacted meanwhile
            assert done(storage.apply([delete("large", 2), *(delete(f"small{n}", 100) for n in range(20))]))
            compaction.start()
            compaction.join(1)  # it would be through by then, if it did not wait for the snapshot

    monkeypatch.setattr(phases, "announce", at_the_cut)
    folder = storage.snapshot("node-1")
    compaction.join()
    # Then the snapshot has them, and the node has given back their space
    assert volume.log_bytes() < 65536
    assert not volume.value_files()
    storage.close()
    copy = restored(folder, tmp_path / "copy")
    assert content(copy, ["large", "small3"]) == {"large": large, "small3": b"y" * 2000}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The files that are read to compute digests in the block."""
    files: list[Path] = []
    real = digests.of_file
    with monkeypatch.context() as patch:
        patch.setattr(digests, "of_file", lambda path, pace: files.append(path) or real(path, pace))
        yield files


def test_a_file_is_read_once_for_its_digest(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given files whose digests were computed in the background
    storage = volume.open()
    write(storage, 1, 500)
    storage.digest()
    # When snapshots are made, also after a restart, then no old file is read
    with counted(monkeypatch) as files:
        storage.snapshot("node-1")
        storage.close()
        storage = volume.open()
        storage.digest()
        storage.snapshot("node-1")
    assert not files
    # And new ones are read once
    write(storage, 501, 700)
    with counted(monkeypatch) as files:
        storage.digest()
        assert files
        files.clear()
        storage.snapshot("node-1")
    assert not files
    storage.close()


@pytest.mark.parametrize("change", ["copy", "torn"])
def test_a_digest_counts_only_for_the_file_it_was_computed_of(volume: Volume, tmp_path: Path, change: str) -> None:
    # Given digests of all files
    storage = volume.open()
    assert done(storage.apply([store("large", 1, b"x" * 9000)]))
    storage.digest()
    storage.close()
    # When the directory is a copy made by tar, or the digests are damaged
    if change == "copy":
        subprocess.run(["cp", "-a", volume.directory, tmp_path / "other"], check=True)
        volume = Volume(tmp_path / "other")
    else:
        (volume.directory / "digests" / "data.mdb").write_bytes(os.urandom(8192))
    # Then the manifest has the digests of what is there
    storage = volume.open()
    folder = storage.snapshot("node-1")
    storage.close()
    for one in snapshot_files.read_manifest(folder):
        assert hashlib.sha256((folder / one.path).read_bytes()).hexdigest() == one.digest, one.path


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_has_rotted_keeps_the_digest_of_its_good_copies(volume: Volume, replaced: bool) -> None:
    # Given a value file and a sealed segment with digests
    storage = volume.open()
    write(storage, 1, 500)
    before = {one.path: one for one in snapshot_files.read_manifest(storage.snapshot("node-1"))}
    storage.close()
    value = next(path for path in before if path.startswith("values/"))
    sealed = sorted(path for path in before if path.startswith("log/"))[0]
    # When a byte of each changes, with the times of the files
    rotted = [value] if replaced else [value, sealed]
    for path in rotted:
        file = volume.directory / path
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        if replaced:  # as by a restore of a damaged copy
            file.unlink()
        file.write_bytes(data)
    storage = volume.open()
    folder = storage.snapshot("node-1")
    storage.digest()
    again = storage.snapshot("node-1")
    storage.close()
    # Then snapshots say what the bytes were, so that a good copy at the target is what they refer to
    for one in (folder, again):
        after = {found.path: found for found in snapshot_files.read_manifest(one)}
        for path in rotted:
            assert after[path] == before[path]
            assert hashlib.sha256((one / path).read_bytes()).hexdigest() != after[path].digest


def test_a_value_file_that_is_gone_does_not_end_backups(volume: Volume) -> None:
    storage = volume.open()
    assert done(storage.apply([store("gone", 1, b"x" * 9000), store("here", 2, b"y" * 9000)]))
    volume.value_files()[0].unlink()
    folder = storage.snapshot("node-1")
    assert sum(one.path.startswith("values/") for one in snapshot_files.read_manifest(folder)) == 1
    storage.close()


def test_a_disk_without_room_for_the_tail_leaves_nothing(volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = volume.open()
    write(storage, 1, 100)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(snapshots, "write_at", full)
        with pytest.raises(DiskFull, match="No space left"):
            storage.snapshot("node-1")
    assert not list((volume.directory / "tmp").glob("snapshot*"))
    assert not (volume.directory / "snapshots").exists()
    storage.snapshot("node-1")
    storage.close()


def test_a_snapshot_is_removed_and_its_files_stay_the_nodes(volume: Volume) -> None:
    storage = volume.open()
    write(storage, 1, 300)
    folder = storage.snapshot("node-1")
    snapshots.remove(folder, volume.directory / "tmp")
    assert not list((volume.directory / "snapshots").iterdir())
    assert not list((volume.directory / "tmp").glob("snapshot*"))
    storage.close()
    assert volume.read(names()) == state_at(300, KEYS)


PROGRAM = """
import sys
from pathlib import Path
from broker import settings
from node.storage import snapshots
from node.storage.storage import Storage
storage = Storage.open(settings.load(None))
folder = storage.snapshot("node-1")
snapshots.remove(folder, folder.parent.parent / "tmp")
"""


@pytest.mark.parametrize(
    "phase", ["snapshot.cut", "snapshot.linked", "snapshot.described", "snapshot.made", "snapshot.removed"]
)
def test_a_process_killed_in_any_phase_leaves_no_half_of_a_snapshot(volume: Volume, tmp_path: Path, phase: str) -> None:
    # Given a node with values
    storage = volume.open()
    write(storage, 1, 300)
    storage.close()
    # When the process is killed in that phase
    environ = os.environ | volume.environ | {"PULZAR_PHASES": str(tmp_path / "phases"), "PULZAR_STOP_AT": phase}
    root = Path(__file__).parents[2]
    process = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, env=environ, timeout=60, check=False)
    assert process.returncode == -signal.SIGKILL
    # Then whatever is in `snapshots/` is whole, the node starts, and the next snapshot is a good one
    left = list((volume.directory / "snapshots").glob("*"))
    assert len(left) == (phase == "snapshot.made")
    for folder in left:
        assert list(snapshot_files.read_manifest(folder))
    storage = volume.open()
    assert not list((volume.directory / "tmp").glob("snapshot*"))
    folder = storage.snapshot("node-1")
    storage.close()
    assert content(restored(folder, tmp_path / "copy"), names()) == state_at(300, KEYS)
    assert volume.read(names()) == state_at(300, KEYS)


def test_deleted_values_can_be_brought_back_from_a_snapshot(volume: Volume, tmp_path: Path) -> None:
    # Given a large and a small value that were deleted, which the node holds
    volume = Volume(tmp_path / "held", undelete_days=7)
    storage = volume.open()
    assert done(storage.apply([store("large", 1, b"x" * 9000), store("small", 2, b"one")]))
    assert done(storage.apply([delete("large", 3), delete("small", 4)]))
    # When a snapshot is restored
    folder = storage.snapshot("node-1")
    held = storage.totals.held_keys
    storage.close()
    copy = restored(folder, tmp_path / "copy")
    copy = Volume(copy.directory, undelete_days=7)
    opened = copy.open()
    # Then it holds them, too, with their bytes
    assert opened.totals.held_keys == held == 2
    opened.close()
    assert len(copy.value_files()) == 1
