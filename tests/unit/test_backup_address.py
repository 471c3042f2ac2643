"""Targets as they are named, and what programs say as words."""

from __future__ import annotations

from pathlib import Path

import pytest

from backup import address, meanings
from backup.address import Target
from backup.errors import (
    BackupError,
    BadAddress,
    HostKeyRefused,
    LoginRefused,
    TargetError,
    TargetFull,
    TargetGone,
    TargetReadOnly,
)
from backup.mirror import layout
from backup.mirror.rclone import Rclone
from broker.backups.address import without_password
from broker.settings import Backup, Settings
from master.backup import overview
from tests.unit.backups import engine

SET = Backup(type="s3", address="https://s3.example/b", user="anna", psw="hush")


@pytest.mark.parametrize(
    ("to", "kind", "where"),
    [
        (None, "s3", "https://s3.example/b"),
        ("/mnt/backup", "directory", "/mnt/backup"),
        ("directory:/mnt/backup", "directory", "/mnt/backup"),
        ("sftp://host/path", "sftp", "sftp://host/path"),
        ("s3:http://host:9000/b/c", "s3", "http://host:9000/b/c"),
        ("rclone:drive:folder", "rclone", "drive:folder"),
        ("restic:rest:https://host/", "restic", "rest:https://host/"),
    ],
)
def test_a_target_is_named_by_the_settings_or_by_a_text(to: str | None, kind: str, where: str) -> None:
    assert address.chosen(SET, to) == Target(kind, where, "anna", "hush")


@pytest.mark.parametrize("to", ["", "mnt/backup", "ftp://host/path", "s3:", "floppy:a"])
def test_what_names_no_target_is_refused(to: str) -> None:
    with pytest.raises(BadAddress):
        address.chosen(SET, to)


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        ("sftp", "sftp://anna:hush@host/path", r"put it into \[backup\] psw instead"),
        ("sftp", "host:/path", "one like sftp://user@host:22/path is needed"),
        ("sftp", "sftp://host/path?keys=x", "keys is no option; there are: key, known_hosts"),
        ("sftp", "sftp://host:port/path", "can't be read"),
        ("s3", "https://host:9000/", "an address like https://host:9000/bucket/prefix is needed"),
        ("s3", "bucket/prefix", "one like https://host:9000/bucket/prefix is needed"),
        ("rclone", "drive", "one like remote:path is needed"),
    ],
)
def test_an_address_that_can_not_be_used_is_told_without_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, where: str, message: str
) -> None:
    program = tmp_path / "rclone"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadAddress, match=message) as error:
        Rclone(Target(kind, where, "anna", "hush"), 0)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    ("to", "program"), [("rclone:a:b", "rclone"), ("restic:/r", "restic"), ("s3:http://h/b", "rclone")]
)
def test_a_program_that_is_not_installed_is_named(tmp_path: Path, to: str, program: str) -> None:
    run = engine("list", "--to", to, env={"PATH": str(tmp_path)})
    assert run.status == 2
    assert f"needs {program}, which is not here: apt-get install {program}" in run.errors


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://anna:hush@host/b", "https://anna:***@host/b"),
        ("rest:https://anna:hush@host/r", "rest:https://anna:***@host/r"),
        ("rest:https://anna:hu/sh@host/r", "rest:https://anna:***@host/r"),
        ("https://anna:hu@sh@host/b", "https://anna:***@host/b"),
        ("https://anna:12@host/b", "https://anna:***@host/b"),
        (":sftp,host=h,pass=hush:path", ":sftp,host=h,pass=***:path"),
        (":s3,secret_access_key='hush,more':b", ":s3,secret_access_key=***:b"),
        ("sftp://anna@host:22/a@b", "sftp://anna@host:22/a@b"),
        ("sftp://host:22/path?key=/etc/id", "sftp://host:22/path?key=/etc/id"),
        ("sftp://[::1]:22/a@b", "sftp://[::1]:22/a@b"),
        ("/mnt/backup", "/mnt/backup"),
        ("remote:path", "remote:path"),
    ],
)
def test_addresses_are_shown_without_passwords(given: str, shown: str) -> None:
    assert without_password(given) == shown
    told = overview.describe(Settings(backup=Backup(type="restic", address=given)), [])
    assert told["address"] == shown


def test_a_password_in_an_address_is_not_shown() -> None:
    assert str(Target("restic", "rest:https://anna:hush@host/r")) == "restic:rest:https://anna:***@host/r"


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("NewFs: couldn't connect SSH: ssh: handshake failed: knownhosts: key mismatch", HostKeyRefused),
        ("couldn't connect SSH: ssh: unable to authenticate, attempted methods [none password]", LoginRefused),
        ("Fatal: wrong password or no key found", LoginRefused),
        ("write /r/data/ab: no space left on device", TargetFull),
        ("open /r/locks/x: read-only file system", TargetReadOnly),
        ("dial tcp 127.0.0.1:1: connect: connection refused", TargetGone),
        ("read tcp 127.0.0.1:1: EOF", TargetGone),
        ("Load(<data/ab>, 99, 0) failed: ReadFull: unexpected EOF", TargetError),
        ('sftp: "Failure" (SSH_FX_FAILURE)', TargetReadOnly),
        ("something that nobody has seen", TargetError),
        ("", TargetError),
    ],
)
def test_what_a_program_says_gets_a_meaning(said: str, kind: type[BackupError]) -> None:
    error = meanings.error(Target("sftp", "sftp://host/path"), ["first", said])
    assert type(error) is kind
    assert str(error).startswith("the target sftp://host/path ")
    assert said in str(error)


@pytest.mark.parametrize(
    "path",
    [
        "objects/ab/x",
        "objects/ab/" + "c" * 64,
        "objects/" + "a" * 64,
        "snapshots/x/MANIFEST",
        "incoming/x",
        "x",
        "OWNER/x",
    ],
)
def test_names_of_others_are_not_in_a_listing(path: str) -> None:
    assert layout.listing([(path, 1)]) == layout.Listing()
