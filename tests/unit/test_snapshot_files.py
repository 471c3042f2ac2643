"""The files that describe a snapshot, and the phases that tests interrupt a process at."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker import settings, snapshot_files
from broker.snapshot_files import BadSnapshot, SnapshotFile, SnapshotHead

ROOT = Path(__file__).parents[2]
HEAD = SnapshotHead("node", "node-1", [(1, "ab")], 7, "3.1", snapshot_files.iso(1_790_000_000), 0, 0)


def made(directory: Path) -> list[SnapshotFile]:
    """A snapshot of two files."""
    files = []
    for path, data in (("log/00000001.seg", b"one"), ("node-id", b"node-1\n")):
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_bytes(data)
        files.append(SnapshotFile(path, len(data), hashlib.sha256(data).hexdigest()))
    return files


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    files = made(tmp_path)
    head = snapshot_files.write(tmp_path, HEAD, iter(files))
    assert head == HEAD._replace(files=2, bytes=10)
    assert snapshot_files.read_head(tmp_path) == head
    assert list(snapshot_files.read_manifest(tmp_path)) == files


def test_sha256sum_reads_a_manifest_and_finds_a_flipped_bit(tmp_path: Path) -> None:
    snapshot_files.write(tmp_path, HEAD, made(tmp_path))
    check = ["sha256sum", "-c", "--strict", "MANIFEST"]
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "node-id").write_bytes(b"node-2\n")
    done = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "node-id: FAILED" in done.stdout) == (1, True)


@pytest.mark.parametrize("path", ["a b", "../x", "a/../b", "/etc/x", "a//b", "a\nb", "", "."])
def test_a_path_that_a_manifest_can_not_have_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(BadSnapshot):
        snapshot_files.write(tmp_path, HEAD, [SnapshotFile(path, 1, "0" * 64)])
    assert not (tmp_path / "MANIFEST").exists()
    with pytest.raises(BadSnapshot):
        list(snapshot_files.parse_manifest(["# 1\n", f"{'0' * 64}  {path}\n"], "here"))


@pytest.mark.parametrize("end", [0, 1, 5, 40, -1, -30])
def test_a_manifest_that_is_cut_off_is_none(tmp_path: Path, end: int) -> None:
    snapshot_files.write(tmp_path, HEAD, made(tmp_path))
    text = (tmp_path / "MANIFEST").read_text()
    whole_lines = text.index("# 7")
    (tmp_path / "MANIFEST").write_text(text[: end or whole_lines])
    with pytest.raises(BadSnapshot, match="MANIFEST"):
        list(snapshot_files.read_manifest(tmp_path))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": 1}', "[" * 100_000])
def test_a_head_that_describes_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "SNAPSHOT").write_text(text)
    with pytest.raises(BadSnapshot, match="SNAPSHOT"):
        snapshot_files.read_head(tmp_path)


def test_a_name_tells_the_time_and_is_given_once() -> None:
    name = snapshot_files.name_of(1_790_000_000.7)
    second = snapshot_files.name_of(1_790_000_000.9, [name])
    third = snapshot_files.name_of(1_790_000_000.9, [name, second])
    assert (second, third) == (f"{name}-2", f"{name}-3")
    assert {snapshot_files.time_of(one) for one in (name, second, third)} == {1_790_000_000.0}
    assert not any(map(snapshot_files.is_name, ["", "x", "20269999T000000Z", f"{name}-", f"../{name}", f"{name}\n"]))


def test_a_process_stops_once_at_the_phase_that_a_test_names(tmp_path: Path) -> None:
    program = "from broker import phases; [phases.announce(name) for name in ('first', 'second', 'third')]"
    file = tmp_path / "phases"
    environment = {"PULZAR_PHASES": str(file), "PULZAR_STOP_AT": "second"}
    ends = [
        subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=False).returncode
        for _ in range(2)
    ]
    assert ends == [-signal.SIGKILL, 0]
    assert file.read_text().split() == ["first", "second", "first", "second", "third"]
    assert settings.load(None, environment) == settings.load(None, {})
