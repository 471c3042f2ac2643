"""The data directory copied with plain tar while it is in use: the copy opens, and is whole."""

from __future__ import annotations

import random
import secrets
import subprocess
from pathlib import Path

import pytest

from node.storage.index import state
from tests.support import seeds
from tests.unit.volume import Volume, delete, done, store, value_of

KEYS = 60


@pytest.mark.parametrize("attempt", seeds(2, 4))
def test_a_copy_by_tar_of_a_directory_in_use_is_whole(tmp_path: Path, attempt: int) -> None:
    # Given values of all kinds that were stored, overwritten or deleted before
    volume = Volume(tmp_path / "data")
    storage = volume.open()
    stable = {f"stay/{n}": secrets.token_bytes(random.choice([0, 100, 2000, 6000, 200_000])) for n in range(100)}
    assert done(storage.apply([store(key, n + 1) for n, key in enumerate(stable)]))
    assert done(storage.apply([store(key, n + 1000, value) for n, (key, value) in enumerate(stable.items())]))
    gone = [f"gone/{n}" for n in range(100)]
    assert done(storage.apply([store(key, n + 1) for n, key in enumerate(gone)]))
    assert done(storage.apply([delete(key, n + 1000) for n, key in enumerate(gone)]))
    storage.close()
    # And a process that stores, deletes and compacts other keys
    process = volume.start("write", 1, KEYS)
    assert process.stdout
    try:
        for _ in range(20):
            process.stdout.readline()
        # When the directory is copied meanwhile
        with (tmp_path / "copy.tar").open("wb") as archive:
            subprocess.run(["tar", "-C", str(volume.directory), "-c", "."], stdout=archive, stderr=subprocess.PIPE)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
    copy = Volume(tmp_path / "copy")
    copy.directory.mkdir()
    subprocess.run(["tar", "-C", str(copy.directory), "-xf", str(tmp_path / "copy.tar")], check=True)
    # Then the copy opens with all that was there before, byte for byte, and nothing that was not
    for _ in range(2):
        storage = copy.open()
        report = storage.scrub(rate=float("inf"))
        storage.close()
        assert report.damages == []
        assert copy.read([*stable, *gone]) == stable
        # And what was written meanwhile is there in some version, or not there
        for key, value in copy.read([f"hot/{n}" for n in range(KEYS)]).items():
            assert value in {value_of(key, int(value.split()[1]))}
        copy.forget_index()


def test_a_copy_by_tar_opens_where_the_original_was(tmp_path: Path) -> None:
    # Given an archive of a directory that was closed, or in use
    volume = Volume(tmp_path / "data")
    storage = volume.open()
    contents = {f"k{n}": value_of(f"k{n}", n + 1) for n in range(100)}
    assert done(storage.apply([store(key, n + 1) for n, key in enumerate(contents)]))
    archive = tmp_path / "in-use.tar"
    subprocess.run(["tar", "-C", str(tmp_path), "-cf", str(archive), "data"], check=True)
    storage.close()
    for path in sorted(volume.directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    # When it is put back in the same place
    subprocess.run(["tar", "-C", str(tmp_path), "-xf", str(archive)], check=True)
    # Then its index is not taken for the one that was in use
    assert state.objection(volume.directory / "index") != ""
    volume.open().close()
    assert volume.read(list(contents)) == contents
