"""Backups to real servers: OpenSSH's SFTP, an S3 server, remotes of rclone, repositories of restic."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil
import pytest

from tests.integration import backup_servers
from tests.integration.backup_servers import BUCKET, S3, PasswordSftp, Server, Sftp
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

T = TypeVar("T", bound=Server)
THIRD = "20261130T023000Z"

pytestmark = [
    pytest.mark.skipif(bool(backup_servers.missing()), reason=f"lacks {backup_servers.missing()}"),
    pytest.mark.timeout(400),  # each starts rclone or restic some thirty times
]
needs_root = pytest.mark.skipif(not is_root(), reason="only root may mount")
LONG = pytest.mark.targets


class Place(NamedTuple):
    """A target, and the settings that it needs."""

    to: str
    env: Mapping[str, str]
    files: Path | None  # where its files can be damaged


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[Sftp]:
    with started(Sftp(tmp_path / "sftp")) as server:
        yield server


@contextmanager
def started(server: T) -> Iterator[T]:
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["sftp", "s3", "rclone", "restic"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A target of each kind."""
    if request.param == "sftp":
        with started(Sftp(tmp_path / "sftp")) as sftp:
            yield Place(sftp.to, sftp.env, sftp.root)
    elif request.param == "s3":
        with started(S3(tmp_path / "s3")) as s3:
            yield Place(s3.to, s3.env, None)
    elif request.param == "rclone":
        yield Place("rclone:vault:", crypt(tmp_path), None)
    else:
        yield Place(f"restic:{tmp_path}/repository", {"PULZAR_BACKUP_PSW": "right"}, tmp_path / "repository")


def crypt(directory: Path) -> dict[str, str]:
    """An rclone.conf of the user, with a remote that encrypts."""
    (directory / "vault").mkdir()
    obscured = subprocess.run(["rclone", "obscure", "-"], input=b"key", stdout=subprocess.PIPE, check=True).stdout
    config = directory / "rclone.conf"
    config.write_text(f"[vault]\ntype = crypt\nremote = {directory}/vault\npassword = {obscured.decode().strip()}\n")
    return {"RCLONE_CONFIG": str(config)}


def test_what_is_sent_comes_back_and_only_what_is_new_is_sent(tmp_path: Path, place: Place) -> None:
    # Given two backups
    first = send(make_snapshot(tmp_path / "data", FIRST, contents("a")), place.to, env=place.env)
    assert first.outcome["outcome"] == "good", first
    assert first.outcome["sent_bytes"] >= 8_000_000
    second = send(make_snapshot(tmp_path / "data", SECOND, contents("b")), place.to, env=place.env)
    # Then the second sent what was new, and both are listed and restored
    assert second.outcome["outcome"] == "good", second
    assert second.outcome["sent_bytes"] < 400_000
    rows = engine("list", "--json", "--to", place.to, env=place.env).output
    assert [(row["member"], row["name"], row["files"], row["complete"]) for row in rows] == [
        ("node-1", FIRST, len(contents()), True),
        ("node-1", SECOND, len(contents()), True),
    ]
    assert restored(place.to, tmp_path / "old", "--at", FIRST, env=place.env) == contents("a")
    # And a share that is read back is whole
    verified = engine("verify", "--member", "node-1", "--share", "100", "--to", place.to, env=place.env)
    assert (verified.outcome["outcome"], verified.outcome["bytes"]) == ("good", verified.outcome["of_bytes"])
    # When a third one takes the place of both
    third = send(make_snapshot(tmp_path / "data", THIRD, contents("c")), place.to, "--keep", "1 last", env=place.env)
    assert (third.outcome["removed"], third.outcome["warnings"]) == ([FIRST, SECOND], [])
    assert restored(place.to, tmp_path / "new", env=place.env) == contents("c")
    assert (
        "as old as"
        in engine(
            "restore", "--member", "node-1", "--into", tmp_path / "x", "--at", SECOND, "--to", place.to, env=place.env
        ).reason
    )


@pytest.mark.parametrize(
    "place",
    ["s3", *(pytest.param(kind, marks=LONG) for kind in ("sftp", "rclone", "restic"))],
    indirect=True,
)
def test_another_node_of_the_same_name_is_refused(tmp_path: Path, place: Place) -> None:
    one, two = (make_snapshot(tmp_path / name, FIRST, {"node-id": name.encode()}) for name in ("one", "two"))
    assert send(one, place.to, env=place.env).status == 0
    assert send(two, place.to, env=place.env).outcome["kind"] == "WrongOwner"
    assert send(two, place.to, member="node-2", env=place.env).status == 0
    assert restored(place.to, tmp_path / "back", env=place.env) == {"node-id": b"one"}


@pytest.mark.parametrize(
    ("kind", "phase"),
    [
        pytest.param("sftp", "backup.sent", marks=LONG),
        pytest.param("sftp", "backup.claimed", marks=LONG),
        pytest.param("sftp", "backup.flushed", marks=LONG),
        pytest.param("sftp", "backup.manifest", marks=LONG),
        pytest.param("sftp", "prune.objects", marks=LONG),
        pytest.param("restic", "backup.claimed", marks=LONG),
        pytest.param("restic", "backup.sent", marks=LONG),
        pytest.param("restic", "prune.objects", marks=LONG),
    ],
)
def test_a_run_killed_at_any_phase_is_completed_by_the_next_one(tmp_path: Path, kind: str, phase: str) -> None:
    with started(Sftp(tmp_path / "sftp")) if kind == "sftp" else nullcontext() as sftp:
        to, env = (sftp.to, sftp.env) if sftp else (f"restic:{tmp_path}/repository", {"PULZAR_BACKUP_PSW": "right"})
        one = make_snapshot(tmp_path / "data", FIRST, contents("a"))
        two = make_snapshot(tmp_path / "data", SECOND, contents("b"))
        if phase != "backup.claimed":
            assert send(one, to, env=env).status == 0
        stop = {"PULZAR_PHASES": str(tmp_path / "phases"), "PULZAR_STOP_AT": phase}
        assert send(two, to, "--keep", "1 last", env=env | stop).status == -9
        if phase not in ("backup.claimed", "prune.objects"):
            assert restored(to, tmp_path / "old", "--at", FIRST, env=env) == contents("a")
        assert send(two, to, "--keep", "1 last", env=env).outcome["outcome"] == "good"
        assert restored(to, tmp_path / "new", env=env) == contents("b")
        if sftp:
            names = {path.name for path in (sftp.root / "node-1" / "objects").glob("*/*")}
            assert names == {hashlib.sha256(one).hexdigest() for one in contents("b").values()}
            assert not (sftp.root / "node-1" / "incoming").exists()


@pytest.mark.parametrize("kind", [pytest.param("sftp", marks=LONG), "s3"])
def test_a_target_that_goes_away_is_told_and_the_next_run_goes_on(tmp_path: Path, kind: str) -> None:
    # Given a good backup, and a slow run
    server = Sftp(tmp_path / "sftp") if kind == "sftp" else S3(tmp_path / "s3")
    with started(server):
        if kind == "sftp":
            assert send(make_snapshot(tmp_path / "data", FIRST, contents("a")), server.to, env=server.env).status == 0
        files = contents("b") | {"log/00000003.seg": data(6 << 20, 5)}
        snapshot = make_snapshot(tmp_path / "data", SECOND, files)
        slow = ["send", "--snapshot", str(snapshot), "--member", "node-1", "--to", server.to, "--bandwidth", "1M"]
        with subprocess.Popen(command(*slow), **options(server.env), text=True) as run:
            assert run.stdout is not None
            while '"phase": "send"' not in (line := run.stdout.readline()) or '"done": 0' in line:
                assert run.poll() is None
            # When the server is gone
            server.stop()
            last = run.stdout.read().splitlines()[-1]
        # Then it is told, and when the server is back, the next run completes it
        assert '"TargetGone"' in last
        assert "can't be reached" in last
        assert send(snapshot, server.to, env=server.env).outcome["kind"] == "TargetGone"
        server.start()
        if kind == "s3":  # moto has forgotten everything, which is told, too
            assert "is the right disk mounted?" in send(snapshot, server.to, env=server.env).reason
            (tmp_path / "data" / "backup-owner").unlink()
        assert send(snapshot, server.to, env=server.env).outcome["outcome"] == "good"
        assert restored(server.to, tmp_path / "new", env=server.env) == files
        if kind == "sftp":
            assert restored(server.to, tmp_path / "old", "--at", FIRST, env=server.env) == contents("a")


def test_a_host_key_that_has_changed_is_refused(tmp_path: Path, sftp: Sftp) -> None:
    assert send(make_snapshot(tmp_path / "data", FIRST, contents()), sftp.to, env=sftp.env).status == 0
    before = tree(sftp.root)
    sftp.stop()
    sftp.new_host_key()
    sftp.start()
    run = send(make_snapshot(tmp_path / "data", SECOND, contents("b")), sftp.to, env=sftp.env)
    assert run.outcome["kind"] == "HostKeyRefused"
    assert "has another host key than the known one" in run.reason
    assert f"ssh-keyscan -p {sftp.port} 127.0.0.1" in run.reason
    assert tree(sftp.root) == before
    sftp.know()
    assert restored(sftp.to, tmp_path / "back", env=sftp.env) == contents()


def test_a_host_that_is_not_known_is_refused(tmp_path: Path, sftp: Sftp) -> None:
    snapshot = make_snapshot(tmp_path / "data", FIRST, contents())
    sftp.known_hosts.write_text("")
    run = send(snapshot, sftp.to, env=sftp.env)
    assert (run.outcome["kind"], "has a host key that is not known" in run.reason) == ("HostKeyRefused", True)
    sftp.known_hosts.unlink()
    run = send(snapshot, sftp.to, env=sftp.env)
    assert run.status == 2
    assert "without the host's key it could be another host" in run.errors
    assert not tree(sftp.root)


@pytest.mark.parametrize("kind", ["sftp key", "sftp password", "s3", "restic"])
def test_a_wrong_password_is_told(tmp_path: Path, kind: str) -> None:
    snapshot = make_snapshot(tmp_path / "data", FIRST, contents())
    wrong = {"PULZAR_BACKUP_PSW": "wrong"}
    if kind == "restic":
        assert send(snapshot, f"restic:{tmp_path}/r", env={"PULZAR_BACKUP_PSW": "right"}).status == 0
        run = send(snapshot, f"restic:{tmp_path}/r", env=wrong)
    elif kind == "sftp key":
        with started(Sftp(tmp_path / "server")) as server:
            run = send(snapshot, server.to, env=server.env | wrong)
    elif kind == "s3":
        with started(S3(tmp_path / "server", strict=True)) as server:
            run = send(snapshot, server.to, env=server.env | wrong)
    else:
        with started(PasswordSftp(tmp_path / "server")) as server:
            run = send(snapshot, server.to, env=wrong)
            assert send(snapshot, server.to, env={"PULZAR_BACKUP_PSW": "right"}).status == 0
    assert run.outcome["kind"] == "LoginRefused", run
    assert "does not accept the user and the password or key" in run.reason


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        ("sftp", "flipped"),
        pytest.param("sftp", "truncated", marks=LONG),
        pytest.param("sftp", "missing", marks=LONG),
        pytest.param("restic", "flipped", marks=LONG),
        pytest.param("restic", "truncated", marks=LONG),
        pytest.param("restic", "missing", marks=LONG),
    ],
)
def test_a_damaged_file_is_found_and_named(tmp_path: Path, kind: str, damage: str) -> None:
    # Given a good backup, the largest file of which is damaged
    with started(Sftp(tmp_path / "sftp")) if kind == "sftp" else nullcontext() as sftp:
        to, env = (sftp.to, sftp.env) if sftp else (f"restic:{tmp_path}/repository", {"PULZAR_BACKUP_PSW": "right"})
        root = sftp.root if sftp else tmp_path / "repository" / "data"
        assert send(make_snapshot(tmp_path / "data", FIRST, contents()), to, env=env).status == 0
        path = max((path for path in root.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        path.chmod(0o600)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content if damage == "flipped" else content[: len(content) // 3])
        # Then verification and restore name the file, and nothing is restored
        run = engine("verify", "--member", "node-1", "--share", "100", "--to", to, env=env)
        assert (run.status, run.outcome["kind"]) == (1, "Damaged"), run
        # restic may have put the manifest into the same file
        names = {fault.partition(":")[0].partition(" ")[0] for fault in run.outcome["faults"]}
        assert names & {*contents(), *(("MANIFEST", "SNAPSHOT") if kind == "restic" else ())}, run
        back = engine("restore", "--member", "node-1", "--into", tmp_path / "back", "--to", to, env=env)
        assert (back.status, back.outcome["kind"]) == (1, "Damaged"), back
        assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("kind", [pytest.param("sftp", marks=LONG), "s3"])
def test_what_a_verification_found_damaged_is_sent_again(tmp_path: Path, kind: str) -> None:
    with started(Sftp(tmp_path / "server") if kind == "sftp" else S3(tmp_path / "server")) as server:
        to, env, files = server.to, server.env, contents()
        assert send(make_snapshot(tmp_path / "data", FIRST, files), to, env=env).status == 0
        bad = tmp_path / "bad"
        bad.write_bytes(files["log/00000001.seg"][::-1])
        digest = hashlib.sha256(files["log/00000001.seg"]).hexdigest()
        path = f"pulzar/node-1/objects/{digest[:2]}/{digest}"
        if isinstance(server, S3):
            server.rclone("copyto", f"{BUCKET}/{path}", bad)
        else:
            (server.root / path.removeprefix("pulzar/")).write_bytes(bad.read_bytes())
        verify = ("verify", "--member", "node-1", "--share", "100", "--to", to, "--data", str(tmp_path / "data"))
        assert engine(*verify, env=env).outcome["kind"] == "Damaged"
        again = send(make_snapshot(tmp_path / "data", SECOND, files), to, env=env)
        assert again.outcome["sent_files"] == 1, again
        assert engine(*verify, env=env).status == 0
        assert restored(to, tmp_path / "back", env=env) == files


def test_an_object_that_is_missing_in_a_bucket_is_named_and_sent_again(tmp_path: Path) -> None:
    with started(S3(tmp_path / "s3")) as s3:
        assert send(make_snapshot(tmp_path / "data", FIRST, contents()), s3.to, env=s3.env).status == 0
        digest = hashlib.sha256(contents()["log/00000001.seg"]).hexdigest()
        s3.rclone("deletefile", f"{BUCKET}/pulzar/node-1/objects/{digest[:2]}/{digest}")
        run = engine("verify", "--member", "node-1", "--to", s3.to, env=s3.env)
        assert run.outcome["faults"] == [f"log/00000001.seg ({digest}): missing at the target"]
        back = engine("restore", "--member", "node-1", "--into", tmp_path / "back", "--to", s3.to, env=s3.env)
        assert "log/00000001.seg: it is missing at the target" in back.reason
        again = send(make_snapshot(tmp_path / "data", SECOND, contents()), s3.to, env=s3.env)
        assert again.outcome["sent_files"] == 1
        assert restored(s3.to, tmp_path / "back", env=s3.env) == contents()


def test_a_bucket_that_is_not_there_is_told(tmp_path: Path) -> None:
    with started(S3(tmp_path / "s3")) as s3:
        run = send(make_snapshot(tmp_path / "data", FIRST, contents()), f"{s3.to.replace(BUCKET, 'none')}", env=s3.env)
        assert "has no such bucket" in run.reason


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 16 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "pulzar-test", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


@needs_root
@pytest.mark.parametrize("kind", ["sftp", pytest.param("restic", marks=LONG)])
def test_a_target_that_is_full_or_read_only_is_told_and_keeps_its_good_backup(
    tmp_path: Path, small_disk: Path, kind: str
) -> None:
    with started(Sftp(tmp_path / "sftp", small_disk / "root")) if kind == "sftp" else nullcontext() as sftp:
        to, env = (sftp.to, sftp.env) if sftp else (f"restic:{small_disk}/r", {"PULZAR_BACKUP_PSW": "right"})
        assert send(make_snapshot(tmp_path / "data", FIRST, contents()), to, env=env).status == 0
        big = make_snapshot(tmp_path / "data", SECOND, contents() | {"log/00000003.seg": data(12 << 20, 7)})
        full = send(big, to, env=env)
        assert (full.outcome["kind"], "is full" in full.reason) == ("TargetFull", True), full
        subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
        denied = send(make_snapshot(tmp_path / "data", THIRD, contents("b")), to, env=env)
        assert denied.outcome["kind"] == "TargetReadOnly", denied
        assert restored(to, tmp_path / "back", env=env) == contents()
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)


def children_of(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def test_no_command_line_has_a_password(tmp_path: Path) -> None:
    # Given slow runs to servers with a password
    with started(PasswordSftp(tmp_path / "server")) as server:
        snapshot = make_snapshot(tmp_path / "data", FIRST, contents())
        for to in (server.to, f"restic:sftp:nobody@127.0.0.1:{tmp_path}/r"):
            slow = ["send", "--snapshot", str(snapshot), "--member", "node-1", "--to", to, "--bandwidth", "4M"]
            seen: set[str] = set()
            with subprocess.Popen(command(*slow), **options({"PULZAR_BACKUP_PSW": "right"}), text=True) as run:
                while run.poll() is None:
                    for process in children_of(run.pid):
                        try:
                            seen.add(" ".join(process.cmdline()))
                        except psutil.NoSuchProcess:
                            continue
            lines = [line for line in seen if "serve" not in line]
            assert any("copy" in line or "snapshots" in line for line in lines)
            assert not [line for line in lines if "right" in line]


@pytest.mark.parametrize("kind", ["s3", "rclone"])
def test_rclone_and_sha256sum_restore_it_without_pulzar(tmp_path: Path, kind: str) -> None:
    with started(S3(tmp_path / "s3")) if kind == "s3" else nullcontext() as s3:
        to, env = (s3.to, s3.env) if s3 else ("rclone:vault:", crypt(tmp_path))
        remote, remote_env = (f"moto:{BUCKET}/pulzar", s3.remote()) if s3 else ("vault:", os.environ | env)
        assert send(make_snapshot(tmp_path / "data", FIRST, contents()), to, env=env).status == 0
        script = (
            'rclone copy "$1/node-1" "$2/mirror" && cd "$2/mirror" && cp "snapshots/$3/MANIFEST" "$2"\n'
            """grep -v '^#' "$2/MANIFEST" | while read -r digest path; do\n"""
            '  mkdir -p "$2/$(dirname "$path")" && cp "objects/$(echo "$digest" | cut -c1-2)/$digest" "$2/$path"\n'
            "done\n"
            'cd "$2" && sha256sum --quiet -c MANIFEST && rm -r mirror MANIFEST\n'
        )
        back = tmp_path / "back"
        back.mkdir()
        subprocess.run(
            ["sh", "-euc", script, "sh", remote, back, FIRST],
            env=remote_env,
            check=True,
        )
        assert tree(back) == contents()
