"""Values in a backup, compared with the index of their node."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.backups import engine, send, tree
from tests.unit.volume import Volume, delete, done, store

KEYS = 60


def fill(volume: Volume, mark: str) -> tuple[Path, int]:
    """Values of every kind in a data directory; its snapshot, and how many values that has."""
    (volume.directory).mkdir(exist_ok=True)
    (volume.directory / "node-id").write_text("node-1\n")
    storage = volume.open()
    values = [f"{mark} {number} ".encode() * (number * number + 1) for number in range(KEYS)]
    assert done(storage.apply([store(f"k/{number}", 1000 + number, value) for number, value in enumerate(values)]))
    folder = storage.snapshot("node-1")
    # Some are overwritten or deleted since, which is no fault
    assert done(storage.apply([store("k/1", 5000, b"new"), delete("k/2", 5001)]))
    storage.close()
    return folder, KEYS


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def verify(target: Path, data: Path) -> tuple[int, list[str]]:
    """How many values were compared, and the faults."""
    arguments = ("--member", "node-1", "--share", "100", "--data", data, "--to", target)
    outcome = engine("verify", *arguments).outcome
    return outcome.get("values", 0), outcome.get("faults", [])


def test_the_values_in_a_backup_are_those_of_the_index(tmp_path: Path, target: Path) -> None:
    volume = Volume(tmp_path / "data")
    folder, count = fill(volume, "a")
    assert any(path.startswith("values/") for path in tree(folder))
    assert send(folder, target).status == 0
    assert verify(target, volume.directory) == (count, [])


def test_a_value_that_is_another_than_the_index_says_is_named(tmp_path: Path, target: Path) -> None:
    # Given a backup of one node, compared with another one that has other bytes for the same keys and versions
    folder, _ = fill(Volume(tmp_path / "data"), "a")
    fill(Volume(tmp_path / "other"), "b")
    assert send(folder, target).status == 0
    _, faults = verify(target, tmp_path / "other")
    # Then each is named, those that were overwritten or deleted aside
    named = {fault.partition(": ")[2].partition(",")[0] for fault in faults}
    assert named == {f"k/{number}" for number in range(KEYS)} - {"k/1", "k/2"}
    assert all(fault.endswith("the node's index has another digest or size") for fault in faults)


def test_a_value_that_was_damaged_before_it_was_backed_up_is_named(tmp_path: Path, target: Path) -> None:
    volume = Volume(tmp_path / "data")
    fill(volume, "a")
    # Given a byte of a value that had flipped before its digest was taken
    segment = sorted((volume.directory / "log").iterdir())[0]
    content = bytearray(segment.read_bytes())
    at = content.index(b"a 7 a 7 ")
    content[at] = ord("x")
    segment.write_bytes(content)
    storage = volume.open()
    assert send(storage.snapshot("node-1"), target).status == 0
    storage.close()
    _, faults = verify(target, volume.directory)
    assert [fault.partition(": ")[2] for fault in faults] == [
        "k/7, version 1007: it was damaged before it was backed up"
    ]


def test_a_node_without_an_index_gives_no_faults(tmp_path: Path, target: Path) -> None:
    folder, _ = fill(Volume(tmp_path / "data"), "a")
    assert send(folder, target).status == 0
    (tmp_path / "empty" / "log").mkdir(parents=True)
    assert verify(target, tmp_path / "empty") == (KEYS, [])
