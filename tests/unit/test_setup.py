"""What ops/up installs for extensions, and what it says when it can't; nothing is really installed here."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT

# pip and apt only say what they were asked for; `programs` are those that are there.
SCRIPT = """
set -euo pipefail
source ops/setup.sh
install_requirements() {{ echo "pip: $*"; }}
install_rabbitmq() {{ echo "rabbitmq"; }}
as_root() {{ echo "apt: ${{*:2}}"; {can}; }}
command() {{ [ "$1" = -v ] && [[ " {programs} " == *" $2 "* ]]; }}
needs_rabbitmq= needs_extensions={wanted}
setup requirements.lock
"""


def setup(checkout: Path, programs: str, wanted: str = "yes", can: str = "true") -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(programs=programs, wanted=wanted, can=can)
    return subprocess.run(["bash", "-c", script], cwd=checkout, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "ops").mkdir()
    shutil.copy(ROOT / "ops" / "setup.sh", tmp_path / "ops")
    return tmp_path


@pytest.mark.parametrize(
    ("programs", "installed"),
    [
        ("apt-get tesseract isql", ""),
        ("apt-get isql", "apt: ops/packages.sh tesseract-ocr\n"),
        ("apt-get", "apt: ops/packages.sh tesseract-ocr unixodbc\n"),
    ],
)
def test_what_extensions_need_is_installed_when_it_is_missing(checkout: Path, programs: str, installed: str) -> None:
    done = setup(checkout, programs)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"pip: requirements.lock\npip: requirements-extensions.lock\n{installed}"


@pytest.mark.parametrize(
    ("kind", "installed"),
    [("", ""), ("directory", ""), ("sftp", "rclone"), ("s3", "rclone"), ("rclone", "rclone"), ("restic", "restic")],
)
def test_what_the_target_of_backups_needs_is_installed_when_it_is_missing(
    checkout: Path, kind: str, installed: str
) -> None:
    for programs, said in (("", f"apt: ops/packages.sh {installed}\n" if installed else ""), (installed, "")):
        script = SCRIPT.format(programs=programs, wanted="", can="true").partition("setup requirements")[0]
        script += f"install_backup '{kind}'\n"
        done = subprocess.run(["bash", "-c", script], cwd=checkout, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, said), done.stderr


def test_without_extensions_nothing_of_theirs_is_installed(checkout: Path) -> None:
    done = setup(checkout, "apt-get", wanted="")
    assert (done.returncode, done.stdout) == (0, "pip: requirements.lock\n")


@pytest.mark.parametrize(("programs", "can"), [("", "true"), ("apt-get", "false")])
def test_when_it_can_not_be_installed_it_is_said_how_to_go_on(checkout: Path, programs: str, can: str) -> None:
    done = setup(checkout, programs, can=can)
    assert done.returncode == 1
    assert "tesseract-ocr unixodbc" in done.stderr
    assert "./ops/up --without-extensions" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"), [([], "yes"), (["--without-extensions"], ""), (["--exit", "--without-extensions"], "")]
)
def test_ops_up_looks_for_its_flag(tmp_path: Path, arguments: list[str], wanted: str) -> None:
    # Given a checkout whose setup only says what it was asked for
    (tmp_path / "ops").mkdir()
    shutil.copy(ROOT / "ops" / "up", tmp_path / "ops")
    (tmp_path / "ops" / "setup.sh").write_text('setup() { echo "$* extensions=$needs_extensions"; exit 0; }\n')
    done = subprocess.run([tmp_path / "ops" / "up", *arguments], capture_output=True, text=True, check=True)
    assert done.stdout == f"requirements.lock extensions={wanted}\n"


def test_the_libraries_are_pinned() -> None:
    lines = (ROOT / "requirements-extensions.txt").read_text().splitlines()
    packages = [line for line in lines if not line.startswith("#")]
    assert {line.partition("==")[0] for line in packages} == {
        "numpy",
        "opencv-python-headless",
        "Pillow",
        "psycopg2-binary",
        "pyodbc",
        "pytesseract",
    }
    assert all(re.fullmatch(r"[A-Za-z0-9-]+==[0-9.]+", line) for line in packages)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_ops_test_needs_nothing_to_be_installed(checkout: Path, flag: str) -> None:
    script = shutil.copy(ROOT / "ops" / "test", checkout / "ops")
    done = subprocess.run([script, flag], capture_output=True, text=True, check=True)
    for option in ("--quick", "--random", "--broker", "the arguments go to pytest"):
        assert option in done.stdout
    assert not {"set -", "#"} & set(done.stdout.split())
    assert [path.name for path in checkout.iterdir()] == ["ops"]
