"""`manage.py token`: what it prints, and what stands in the file."""

from __future__ import annotations

import datetime
import re
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from master.security import token_changes, tokens
from master.security.rights import Right
from tests.support import ROOT, clean_environment

TODAY = datetime.date(2026, 12, 1)


class Shell:
    """Runs the command on one file."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "tokens"
        self.config = directory / "server.conf"
        self.config.write_text(f"[security]\ntokens={self.path}\n[server]\ndir={directory}\n")

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, ROOT / "ops/manage.py", "token", "--config", str(self.config), *arguments],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_token_is_shown_once_and_its_digest_kept(shell: Shell) -> None:
    made = shell("ci", "write:builds/", "read:my builds/", "launch:tests/*", "--for", "90d")
    assert made.returncode == 0, made.stderr
    text = made.stdout.strip()
    assert re.fullmatch(r"pz_ci_[0-9a-f]{48}", text)
    assert stat.S_IMODE(shell.path.stat().st_mode) == 0o600
    assert text.rpartition("_")[2] not in shell.path.read_text()
    (found,), wrong = tokens.read(shell.path)
    assert (found.name, found.digest, wrong) == ("ci", tokens.digest_of(text), [])
    assert list(map(str, found.rights.all)) == ["write:builds/", "read:my%20builds/", "launch:tests/*"]
    today = datetime.datetime.now(datetime.UTC).date()
    assert found.until is not None
    assert 89 <= (found.until - today).days <= 90
    listed = shell("--list")
    assert "ci" in listed.stdout
    assert "write:builds/ read:my%20builds/ launch:tests/*" in listed.stdout
    assert found.digest not in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("ci",), "at least one right"),
        (("ci", "reed:x"), "is no right; those are"),
        (("ci", "read:*"), "needs no *"),
        (("c i", "read:"), "is no name"),
        (("ci", "read:", "--for", "soon"), "like 90d"),
        (("ci", "read:", "--for", "0d"), "like 90d"),
        ((), "give a name and rights, or --list"),
        (("ci", "read:", "--list"), "give a name and rights, or --list"),
    ],
)
def test_what_makes_no_token_is_said_and_changes_nothing(shell: Shell, arguments: tuple[str, ...], reason: str) -> None:
    done = shell(*arguments)
    assert done.returncode in (1, 2)
    assert reason in done.stderr
    assert done.stdout == ""
    assert not shell.path.exists() or shell.path.read_text() == ""


def test_without_the_setting_it_says_which(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shell.config.write_text("")
    assert "[security] tokens names no file" in shell("ci", "read:").stderr


def test_other_lines_stay_as_they_are_and_a_name_is_there_once(shell: Shell) -> None:
    shell.path.write_text("# mine\nbroken line")
    shell.path.chmod(0o600)
    assert shell("ci", "read:").returncode == 0
    again = shell("ci", "admin")
    assert (again.returncode, "already" in again.stderr, again.stdout) == (1, True, "")
    lines = shell.path.read_text().splitlines()
    assert lines[:2] == ["# mine", "broken line"]
    assert len(lines) == 3
    assert "line 2" in shell("--list").stderr


def test_a_file_that_others_may_read_gets_no_token(shell: Shell) -> None:
    shell.path.touch(0o644)
    done = shell("ci", "read:")
    assert (done.returncode, "chmod 600" in done.stderr, shell.path.read_text()) == (1, True, "")


def test_tokens_made_at_once_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: token_changes.add(path, f"t{number}", [Right("jobs")], None, tmp_path), range(64)))
    found, wrong = tokens.read(path)
    assert ({token.name for token in found}, wrong) == ({f"t{number}" for number in range(64)}, [])


def test_the_last_day_is_counted_from_today() -> None:
    assert token_changes.until("90d", TODAY) == datetime.date(2027, 3, 1)
    assert token_changes.until(None, TODAY) is None
