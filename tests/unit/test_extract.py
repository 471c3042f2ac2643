"""A value taken out of a data directory by `python -m node.extract`."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tests.support import ROOT
from tests.unit.volume import Volume, delete, done, store, value_of


def extract(directory: Path, key: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "node.extract", str(directory), key]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60)


def test_a_value_comes_out_as_it_went_in(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "data")
    names = [f"a key/{number}" for number in range(6)]
    with closing(volume.open()) as storage:
        assert done(storage.apply([store(name, number + 1) for number, name in enumerate(names)]))
        assert done(storage.apply([delete(names[0], 100)]))
    volume.forget_index()  # as a restored directory is
    for number, name in enumerate(names[1:], 2):
        found = extract(volume.directory, name)
        assert (found.returncode, found.stdout, found.stderr) == (0, value_of(name, number), b"")
    assert extract(volume.directory, names[0]).returncode == 1


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    assert b"no data directory" in extract(tmp_path, "a").stderr
    volume = Volume(tmp_path / "data")
    with closing(volume.open()) as storage:
        assert done(storage.apply([store("a", 1)]))
        used = extract(volume.directory, "a")
    assert (used.returncode, used.stdout) == (1, b"")
    assert b"in use" in used.stderr
    for key in ("b", "../a", ""):
        found = extract(volume.directory, key)
        assert (found.returncode, found.stdout) == (1, b""), found
        assert b"Traceback" not in found.stderr
