"""The backup engine with a directory as its target: real processes, real files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.unit.backups import (
    FIRST,
    SECOND,
    command,
    contents,
    data,
    engine,
    is_root,
    make_snapshot,
    options,
    restored,
    send,
    tree,
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def objects(target: Path, member: str = "node-1") -> dict[str, Path]:
    return {path.name: path for path in (target / member / "objects").glob("*/*")}


def object_of(target: Path, content: bytes) -> Path:
    return objects(target)[hashlib.sha256(content).hexdigest()]


def test_what_is_sent_is_restored_to_the_byte(tmp_path: Path, target: Path) -> None:
    # Given a snapshot with an empty file and two files with the same bytes
    files = contents()
    snapshot = make_snapshot(tmp_path / "data", FIRST, files)
    # When it is sent
    run = send(snapshot, target)
    # Then it is good, each content is there once, and all comes back
    assert (run.status, run.outcome["outcome"]) == (0, "good"), run
    size = sum(map(len, files.values()))
    assert (run.outcome["files"], run.outcome["bytes"]) == (len(files), size)
    assert (run.outcome["sent_files"], run.outcome["sent_bytes"]) == (len(files) - 1, size - 70_000)
    assert {line["phase"] for line in run.lines[:-1]} >= {"list", "send", "verify", "prune"}
    assert len(objects(target)) == len(files) - 1
    assert restored(target, tmp_path / "back") == files


def test_the_lines_in_the_docs_restore_it_without_pulzar(tmp_path: Path, target: Path) -> None:
    files = contents()
    send(make_snapshot(tmp_path / "data", FIRST, files), target)
    page = (ROOT / "docs" / "backup.md").read_text()
    script = page[page.index("cd /mnt/backup/pulzar/node-1 ") :].partition("```")[0]
    back = tmp_path / "back"
    for name, path in (("/mnt/backup/pulzar", target), ("/srv/node-1", back), (SECOND, FIRST)):
        assert name in script
        script = script.replace(name, str(path))
    subprocess.run(["sh", "-euc", script], check=True)
    found = tree(back)
    assert found.pop("backup-owner") == (target / "node-1" / "OWNER").read_bytes()
    del found["MANIFEST"]
    assert found == files
    # And it goes on as the owner of its folder
    again = make_snapshot(back, SECOND, files | {"log/00000003.seg": b"more"})
    assert send(again, target).outcome["sent_files"] == 1


def test_only_what_is_new_is_sent(tmp_path: Path, target: Path) -> None:
    files = contents()
    send(make_snapshot(tmp_path / "data", FIRST, files), target)
    changed = contents("b")
    run = send(make_snapshot(tmp_path / "data", SECOND, changed), target)
    assert (run.outcome["sent_files"], run.outcome["sent_bytes"]) == (1, 300_000)
    assert restored(target, tmp_path / "new") == changed
    assert restored(target, tmp_path / "old", "--at", FIRST) == files
    assert restored(target, tmp_path / "day", "--at", "2026-11-28") == files
    assert restored(target, tmp_path / "minute", "--at", "2026-11-29T02:29") == files


def test_the_list_shows_what_is_there(tmp_path: Path, target: Path) -> None:
    files = contents()
    send(make_snapshot(tmp_path / "data", FIRST, files), target)
    send(make_snapshot(tmp_path / "data", SECOND, files), target)
    (target / "node-1" / "snapshots" / SECOND / "MANIFEST").unlink()
    done = subprocess.run(command("list", "--to", target, "--json"), **options(), text=True, check=True)
    rows = json.loads(done.stdout)
    assert [(row["member"], row["name"], row["complete"]) for row in rows] == [
        ("node-1", FIRST, True),
        ("node-1", SECOND, False),
    ]
    assert (rows[0]["files"], rows[0]["bytes"]) == (len(files), sum(map(len, files.values())))
    assert rows[0]["time"] == "2026-11-28T02:30:00Z"
    done = subprocess.run(command("list", "--to", target), **options(), text=True, check=True)
    assert SECOND in done.stdout
    assert "not complete" in done.stdout


def test_old_ones_are_removed_by_the_rule_and_strangers_files_stay(tmp_path: Path, target: Path) -> None:
    # Given two backups of a day, and files of others in the folders
    first, second = f"{FIRST[:9]}010000Z", f"{FIRST[:9]}020000Z"
    for name, seed in ((first, "a"), (second, "b")):
        send(make_snapshot(tmp_path / "data", name, contents(seed)), target, "--keep", "9 last")
    folder = target / "node-1"
    strangers = [
        folder / "note",
        folder / "objects" / "note",
        folder / "objects" / "ab" / "f",
        folder / "incoming" / "f",
    ]
    strangers += [target / "note", folder / "snapshots" / "note", folder / "snapshots" / first / "note"]
    strangers += [folder / "objects" / "00" / ("f" * 64), folder / "snapshots" / "monday" / "MANIFEST"]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    # When one of the next day is sent
    run = send(make_snapshot(tmp_path / "data", SECOND, contents("c")), target, "--keep", "2 daily")
    # Then the older one of the first day is gone with what only it had
    assert run.outcome["removed"] == [first]
    assert not run.outcome["warnings"]
    kept = {hashlib.sha256(one).hexdigest() for seed in "bc" for one in contents(seed).values()}
    assert {name for name in objects(target) if len(name) == 64 and name != "f" * 64} == kept
    assert [path.read_text() for path in strangers] == ["mine"] * len(strangers)
    assert restored(target, tmp_path / "old", "--at", second) == contents("b")


def test_nothing_is_removed_while_not_all_is_known_that_must_stay(tmp_path: Path, target: Path) -> None:
    for number, name in enumerate((FIRST, SECOND)):
        send(make_snapshot(tmp_path / "data", name, contents(str(number))), target)
    before = set(objects(target))
    manifest = target / "node-1" / "snapshots" / SECOND / "MANIFEST"
    manifest.write_bytes(manifest.read_bytes()[:-20])
    run = send(make_snapshot(tmp_path / "data", "20261130T023000Z", contents("2")), target, "--keep", "2 daily")
    assert run.outcome["outcome"] == "good"
    assert "older backups could not be removed" in run.outcome["warnings"][0]
    assert set(objects(target)) >= before
    assert restored(target, tmp_path / "old", "--at", FIRST) == contents("0")


def test_two_nodes_share_a_target_and_one_node_has_two(tmp_path: Path, target: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    one = make_snapshot(tmp_path / "one", FIRST, contents("a"))
    two = make_snapshot(tmp_path / "two", FIRST, contents("b"))
    assert send(one, target, member="node-1").status == 0
    assert send(two, target, member="node-2").status == 0
    assert send(one, other, member="node-1").status == 0
    assert restored(target, tmp_path / "a") == restored(other, tmp_path / "b") == contents("a")
    run = engine("restore", "--member", "node-2", "--into", tmp_path / "c", "--to", target)
    assert run.outcome["bytes"] == sum(map(len, contents("b").values()))


def test_another_node_of_the_same_name_is_refused(tmp_path: Path, target: Path) -> None:
    assert send(make_snapshot(tmp_path / "one", FIRST, contents("a")), target).status == 0
    before = tree(target)
    run = send(make_snapshot(tmp_path / "two", SECOND, contents("b")), target)
    assert run.outcome["kind"] == "WrongOwner"
    assert "belongs to another node or master of that name" in run.reason
    assert str(tmp_path / "two" / "backup-owner") in run.reason
    assert tree(target) == before


def test_a_target_that_lost_its_backups_is_perhaps_not_mounted(tmp_path: Path, target: Path) -> None:
    send(make_snapshot(tmp_path / "data", FIRST, contents()), target)
    shutil.rmtree(target / "node-1")
    run = send(make_snapshot(tmp_path / "data", SECOND, contents()), target)
    assert "is the right disk mounted?" in run.reason
    assert not list(target.iterdir())
    # What the message says helps
    (tmp_path / "data" / "backup-owner").unlink()
    assert send(tmp_path / "data" / "snapshots" / SECOND, target).status == 0


def test_a_target_that_is_not_there_is_told(tmp_path: Path) -> None:
    snapshot = make_snapshot(tmp_path / "data", FIRST, contents())
    run = send(snapshot, tmp_path / "none")
    assert (run.status, run.outcome["kind"]) == (1, "TargetGone")
    assert "is not there: is it mounted?" in run.reason
    assert (
        "is not there"
        in engine("restore", "--member", "node-1", "--into", tmp_path / "x", "--to", tmp_path / "none").reason
    )


def test_a_second_run_of_a_member_is_refused_while_one_is_at_work(tmp_path: Path, target: Path) -> None:
    snapshot = make_snapshot(tmp_path / "data", FIRST, contents())
    slow = command("send", "--snapshot", snapshot, "--member", "node-1", "--to", target, "--bandwidth", "2M")
    with subprocess.Popen(slow, **options(), text=True) as first:
        assert first.stdout is not None
        while '"send"' not in first.stdout.readline():
            assert first.poll() is None
        assert send(snapshot, target).outcome["kind"] == "Busy"
        assert '"good"' in first.stdout.read().splitlines()[-1]


def test_the_bandwidth_is_a_limit(tmp_path: Path, target: Path) -> None:
    snapshot = make_snapshot(tmp_path / "data", FIRST, {"log/00000001.seg": data(6 << 20, 1)})
    begun = time.monotonic()
    assert send(snapshot, target, "--bandwidth", "4M").status == 0
    assert time.monotonic() - begun > 1.4


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_object_is_named_and_sent_again_where_that_can_be_seen(
    tmp_path: Path, target: Path, damage: str
) -> None:
    # Given a good backup, one object of which is damaged
    files = contents()
    snapshot = make_snapshot(tmp_path / "data", FIRST, files)
    send(snapshot, target)
    path = object_of(target, files["log/00000001.seg"])
    content = bytearray(path.read_bytes())
    content[1_000_000] ^= 1
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flipped" else content[:-1])
    # Then verification and restore name the file, and nothing is restored
    run = engine("verify", "--member", "node-1", "--share", "100", "--to", target)
    assert run.status == 1
    assert [fault.partition(" ")[0] for fault in run.outcome["faults"]] == ["log/00000001.seg"]
    back = engine("restore", "--member", "node-1", "--into", tmp_path / "back", "--to", target)
    assert back.status == 1
    assert "log/00000001.seg" in back.reason
    assert not (tmp_path / "back").exists()
    assert not (tmp_path / "back.partial").exists()
    # And the next backup sends what is missing or has another size
    again = send(make_snapshot(tmp_path / "data", SECOND, files), target)
    assert again.outcome["sent_files"] == (0 if damage == "flipped" else 1)
    if damage != "flipped":
        assert restored(target, tmp_path / "back") == files


def test_what_a_verification_found_damaged_is_sent_again(tmp_path: Path, target: Path) -> None:
    # Given two objects with other bytes than they had, one of which the next snapshot lacks
    files = contents()
    send(make_snapshot(tmp_path / "data", FIRST, files), target)
    for name in ("log/00000001.seg", "log/00000002.seg"):
        path = object_of(target, files[name])
        path.write_bytes(path.read_bytes()[::-1])
    # When a verification of the member's own finds them, and the next backup is sent
    run = engine("verify", "--member", "node-1", "--share", "100", "--to", target, "--data", tmp_path / "data")
    assert (run.status, len(run.outcome["faults"])) == (1, 2)
    changed = contents("b")
    again = send(make_snapshot(tmp_path / "data", SECOND, changed), target)
    # Then what both have was sent again, and the newest one is whole
    assert (again.outcome["sent_files"], again.outcome["warnings"]) == (2, [])
    assert restored(target, tmp_path / "back") == changed
    # And it is not sent a third time; a verification is content
    assert send(make_snapshot(tmp_path / "data", SECOND, changed), target).outcome["sent_files"] == 0
    run = engine("verify", "--member", "node-1", "--share", "100", "--to", target, "--data", tmp_path / "data")
    assert run.status == 0, run


def test_a_share_of_the_bytes_is_read_back(tmp_path: Path, target: Path) -> None:
    files = {f"values/ab/{number:032x}": data(10_000, number) for number in range(100)}
    send(make_snapshot(tmp_path / "data", FIRST, files), target)
    run = engine("verify", "--member", "node-1", "--share", "5", "--to", target)
    assert (run.outcome["files"], run.outcome["bytes"], run.outcome["of_bytes"]) == (5, 50_000, 1_000_000)


def test_a_file_that_is_not_what_the_manifest_says_is_never_sent(tmp_path: Path, target: Path) -> None:
    # Given a good backup, then a snapshot with a new file that has rotted, and one that is missing
    files = contents()
    send(make_snapshot(tmp_path / "data", FIRST, files), target)
    snapshot = make_snapshot(tmp_path / "data", SECOND, files | {"log/00000003.seg": data(99, 9), "x": b"y", "z": b"z"})
    (snapshot / "log" / "00000003.seg").write_bytes(data(99, 8))
    (snapshot / "x").unlink()
    run = send(snapshot, target)
    # Then the run fails and names them, and the rest is there for the next one
    assert run.outcome["kind"] == "Damaged"
    assert sorted(Path(fault.partition(" ")[0]).name for fault in run.outcome["faults"]) == ["00000003.seg", "x"]
    assert object_of(target, b"z").read_bytes() == b"z"
    assert hashlib.sha256(data(99, 9)).hexdigest() not in objects(target)
    assert restored(target, tmp_path / "back") == files


def test_a_restore_needs_an_empty_directory(tmp_path: Path, target: Path) -> None:
    send(make_snapshot(tmp_path / "data", FIRST, contents()), target)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    run = engine("restore", "--member", "node-1", "--into", tmp_path / "full", "--to", target)
    assert "is not empty" in run.reason
    assert tree(tmp_path / "full") == {"x": b"mine"}
    (tmp_path / "empty").mkdir()
    assert restored(target, tmp_path / "empty") == contents()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--member", "node-2"], "has no backup of 'node-2'; it has those of node-1"),
        (["--member", "node-1", "--at", "2026-11-27"], "no complete backup of 'node-1' that is as old as"),
    ],
)
def test_what_is_not_there_is_told(tmp_path: Path, target: Path, arguments: list[str], message: str) -> None:
    send(make_snapshot(tmp_path / "data", FIRST, contents()), target)
    assert message in engine("restore", "--into", tmp_path / "back", "--to", target, *arguments).reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list"], "no target is set: set [backup] type and address, or name one with --to"),
        (["list", "--to", "floppy:a"], "'floppy:a' is no target"),
        (["list", "--to", "directory:backup"], "an absolute path like /mnt/backup is needed"),
        (["restore", "--member", "../x", "--into", "x"], "no name of a node"),
        (["restore", "--member", "x", "--into", "x", "--at", "noon"], "no time in UTC like"),
        (["send", "--member", "x", "--snapshot", "x", "--keep", "all"], "like 7 daily, 4 weekly, 6 monthly"),
        (["verify", "--member", "x", "--share", "101"], "a number from 0 to 100 is needed"),
    ],
)
def test_wrong_use_is_told(arguments: list[str], message: str) -> None:
    run = engine(*arguments)
    assert run.status == 2
    assert message in run.errors
    assert "Traceback" not in run.errors


def test_the_settings_name_the_target(tmp_path: Path, target: Path) -> None:
    env = {"PULZAR_BACKUP_TYPE": "directory", "PULZAR_BACKUP_ADDRESS": str(target), "PULZAR_BACKUP_KEEP": "1 last"}
    for name in (FIRST, SECOND):
        snapshot = make_snapshot(tmp_path / "data", name, contents())
        run = engine("send", "--snapshot", snapshot, "--member", "node-1", env=env)
    assert run.outcome["removed"] == [FIRST]


def test_what_is_no_snapshot_is_told(tmp_path: Path, target: Path) -> None:
    snapshot = make_snapshot(tmp_path / "data", FIRST, contents())
    (snapshot / "MANIFEST").unlink()
    assert "MANIFEST can't be read" in send(snapshot, target).reason
    assert "can't be read" in send(tmp_path / "none" / "snapshots" / FIRST, target).reason


PHASES = [
    "backup.begun",
    "backup.claimed",
    "backup.listed",
    "backup.flushed",
    "backup.sent",
    "backup.head",
    "backup.manifest",
    "backup.verified",
    "prune.manifests",
    "prune.objects",
]


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_killed_at_any_phase_is_completed_by_the_next_one(tmp_path: Path, target: Path, phase: str) -> None:
    # Given a good backup (of the same day, so that the next one takes its place), unless the first run is the killed one
    first, second = f"{FIRST[:9]}010000Z", f"{FIRST[:9]}020000Z"
    one = make_snapshot(tmp_path / "data", first, contents("a"))
    two = make_snapshot(tmp_path / "data", second, contents("b"))
    keep = ("--keep", "7 daily")
    if phase != "backup.claimed":
        assert send(one, target, *keep).status == 0
    # When the run is killed there
    env = {"PULZAR_PHASES": str(tmp_path / "phases"), "PULZAR_STOP_AT": phase}
    killed = send(two, target, *keep, env=env)
    assert killed.status == -9, killed
    # Then the older one can be restored, unless it was about to be removed
    if phase not in ("backup.claimed", "prune.manifests", "prune.objects"):
        assert restored(target, tmp_path / "old", "--at", first) == contents("a")
    # And the next run completes it and leaves nothing half
    assert send(two, target, *keep).outcome["outcome"] == "good"
    assert restored(target, tmp_path / "new") == contents("b")
    assert set(objects(target)) == {hashlib.sha256(one).hexdigest() for one in contents("b").values()}
    assert [path.name for path in (target / "node-1" / "snapshots").iterdir()] == [second]
    assert not (target / "node-1" / "incoming").exists()


@pytest.mark.parametrize("phase", ["restore.verified", "restore.renamed"])
def test_a_restore_killed_at_any_phase_is_done_again(tmp_path: Path, target: Path, phase: str) -> None:
    send(make_snapshot(tmp_path / "data", FIRST, contents()), target)
    into = tmp_path / "back"
    env = {"PULZAR_PHASES": str(tmp_path / "phases"), "PULZAR_STOP_AT": phase}
    run = engine("restore", "--member", "node-1", "--into", into, "--to", target, env=env)
    assert run.status == -9
    if phase == "restore.verified":
        assert not into.exists()
        assert restored(target, into) == contents()
    else:
        found = tree(into)
        del found["backup-owner"]
        assert found == contents()
    assert not (tmp_path / "back.partial").exists()


def fill(file: Path) -> None:
    """Write zeroes until the filesystem has no room."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(1 << 20))


needs_root = pytest.mark.skipif(not is_root(), reason="only root may mount")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 12 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "pulzar-test", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


@needs_root
def test_a_target_that_is_full_is_told_and_keeps_its_good_backup(tmp_path: Path, small_disk: Path) -> None:
    assert send(make_snapshot(tmp_path / "data", FIRST, contents()), small_disk).status == 0
    big = make_snapshot(tmp_path / "data", SECOND, contents() | {"log/00000003.seg": data(9 << 20, 7)})
    run = send(big, small_disk)
    assert run.outcome["kind"] == "TargetFull"
    assert "the target is full" in run.reason
    assert restored(small_disk, tmp_path / "back") == contents()


@needs_root
def test_a_target_that_fills_up_meanwhile_is_told(tmp_path: Path, small_disk: Path) -> None:
    # Given a run that is slow, and somebody who fills the disk
    snapshot = make_snapshot(tmp_path / "data", FIRST, contents())
    slow = command("send", "--snapshot", snapshot, "--member", "node-1", "--to", small_disk, "--bandwidth", "2M")
    with subprocess.Popen(slow, **options(), text=True) as run:
        assert run.stdout is not None
        while '"send"' not in run.stdout.readline():
            assert run.poll() is None
        fill(small_disk / "filler")
        last = run.stdout.read().splitlines()[-1]
    assert "TargetFull" in last
    assert "is full" in last
    # Then the next run goes on when there is room
    (small_disk / "filler").unlink()
    assert send(snapshot, small_disk).outcome["outcome"] == "good"
    assert restored(small_disk, tmp_path / "back") == contents()


@needs_root
def test_a_target_that_is_read_only_is_told(tmp_path: Path, small_disk: Path) -> None:
    send(make_snapshot(tmp_path / "data", FIRST, contents()), small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    run = send(make_snapshot(tmp_path / "data", SECOND, contents("b")), small_disk)
    assert run.outcome["kind"] == "TargetReadOnly"
    assert "is read-only" in run.reason
    assert restored(small_disk, tmp_path / "back") == contents()


@pytest.mark.skipif(is_root(), reason="root may write everywhere")
def test_a_target_without_rights_is_told(tmp_path: Path, target: Path) -> None:
    target.chmod(0o500)
    run = send(make_snapshot(tmp_path / "data", FIRST, contents()), target)
    assert run.outcome["kind"] == "LoginRefused"
