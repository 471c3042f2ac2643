"""Which RabbitMQ is run: the machine's, an unpacked archive, or one in a root directory of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ops.cluster import ClusterError, Installation, Rabbit
from tests.support import ROOT, clean_environment

DEBIAN = "usr/lib/rabbitmq/bin/rabbitmq-server"
ARCHIVE = "sbin/rabbitmq-server"


def install(directory: Path, *servers: str) -> Path:
    """Something like an installation, with a program at each of the paths."""
    for server in servers:
        (directory / server).parent.mkdir(parents=True, exist_ok=True)
        (directory / server).write_text("#!/bin/sh\n")
        (directory / server).chmod(0o755)
    return directory


def made_of(installation: Installation, directory: Path) -> Rabbit:
    return Rabbit(directory, 1, 2, 3, 4, installation=installation)


def test_an_unpacked_archive_is_run_as_it_is(tmp_path: Path) -> None:
    # Given a directory with rabbitmq-server where the generic archive has it
    archive = install(tmp_path / "rabbitmq_server-4.0.5", ARCHIVE)
    # When a broker is made of it
    rabbit = made_of(Installation.at(archive), tmp_path / "files")
    # Then that program is run, with the machine's Erlang, and finds its files where they are
    assert rabbit.process.command == [str(archive / ARCHIVE)]
    assert rabbit.epmd.command[0] == "epmd"
    assert rabbit.process.environment["RABBITMQ_CONFIG_FILE"] == str(tmp_path / "files" / "rabbitmq.conf")


def test_a_root_directory_is_entered_even_where_it_looks_like_an_archive_too(tmp_path: Path) -> None:
    # Given a root directory with Debian's package, whose /sbin has a rabbitmq-server as well
    root = install(tmp_path / "trixie", DEBIAN, ARCHIVE)
    # When a broker is made of it
    rabbit = made_of(Installation.at(root), tmp_path / "files")
    # Then the server and epmd are run in it
    assert rabbit.process.command[0] == "unshare"
    assert rabbit.process.command[-3:] == [str(root), str(tmp_path / "files"), f"/{DEBIAN}"]
    assert rabbit.epmd.command[:3] == ["chroot", str(root), "epmd"]
    # And the broker's files are where it sees them
    assert rabbit.process.environment["RABBITMQ_CONFIG_FILE"] == "/mnt/rabbitmq.conf"


@pytest.mark.parametrize("servers", [(), ("usr/sbin/rabbitmq-server",)])
def test_a_directory_without_a_rabbitmq_is_told_with_what_is_missing(tmp_path: Path, servers: tuple[str, ...]) -> None:
    install(tmp_path, *servers)
    with pytest.raises(ClusterError, match=f"no RabbitMQ in {tmp_path}: neither {ARCHIVE}.*nor {DEBIAN}.*debootstrap"):
        Installation.at(tmp_path)


def test_only_root_can_run_the_one_in_a_root_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given one in a root directory, an archive, and an ordinary user
    root = Installation.at(install(tmp_path / "root", DEBIAN))
    archive = Installation.at(install(tmp_path / "archive", ARCHIVE))
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    # Then the first is refused, with the reason, and the second is not
    with pytest.raises(ClusterError, match=f"only root can run the RabbitMQ in {tmp_path / 'root'}"):
        root.check()
    archive.check()


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--broker", "rabbit"], ["tests/integration", "tests/faults"]),
        (["--broker", "rabbit", "-k", "expired"], ["tests/integration", "tests/faults", "-k", "expired"]),
        (["--broker", "rabbit", "tests/faults/test_kills.py::test_x"], ["tests/faults/test_kills.py::test_x"]),
    ],
)
def test_the_option_of_ops_test_chooses_the_tests_that_need_a_broker(
    tmp_path: Path, arguments: list[str], given: list[str]
) -> None:
    # Given a copy of ops/test whose Python says what it is asked to run, and a user in another directory
    checkout, caller = tmp_path / "checkout", tmp_path / "caller"
    install(caller / "rabbit", ARCHIVE)
    (checkout / "ops").mkdir(parents=True)
    shutil.copy(ROOT / "ops" / "test", checkout / "ops")
    (checkout / "ops" / "setup.sh").write_text('setup() { :; }\nas_root() { :; }\nstep() { shift; "$@"; }\n')
    for folder in ("integration", "faults"):
        (checkout / "tests" / folder).mkdir(parents=True)
    (checkout / "tests" / "faults" / "test_kills.py").touch()
    install(checkout, ".venv/bin/python")
    (checkout / ".venv/bin/python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    # When it is called with the option
    done = subprocess.run(
        [checkout / "ops" / "test", *arguments], cwd=caller, env=clean_environment(), capture_output=True, text=True
    )
    # Then pytest alone is run, with the directory as the user meant it, and the tests that need a broker
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()
    assert words[:2] == ["-m", "pytest"]
    assert "mypy" not in words
    assert words[words.index("--broker") :] == ["--broker", str(caller / "rabbit"), *given]


def quick(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A copy of ops/test whose programs say what they are asked to do."""
    (tmp_path / "ops").mkdir()
    shutil.copy(ROOT / "ops" / "test", tmp_path / "ops")
    (tmp_path / "ops" / "setup.sh").write_text(
        'setup() { echo "rabbitmq=$needs_rabbitmq"; }\nas_root() { :; }\nstep() { shift; "$@"; }\n'
    )
    for name in ("tests/unit/test_keys.py", "tests/integration/test_up.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    install(tmp_path, ".venv/bin/python")
    (tmp_path / ".venv/bin/python").write_text('#!/bin/sh\necho "$*"\n')
    command = [tmp_path / "ops" / "test", *arguments]
    return subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        (["--quick"], "tests/unit"),
        (["--quick", "-x", "-k", "expired"], "tests/unit -x -k expired"),
        (["--quick", "tests/unit/test_keys.py::test_x"], "tests/unit/test_keys.py::test_x"),
    ],
)
def test_quick_runs_the_checks_and_the_unit_tests_without_a_rabbitmq(
    tmp_path: Path, arguments: list[str], given: str
) -> None:
    done = quick(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    needed, *checks, tests = done.stdout.splitlines()
    assert needed == "rabbitmq="
    assert checks == ["-m ruff check", "-m ruff format --check", "-m mypy"]
    assert tests.startswith("-m pytest -n 3 ")
    assert tests.endswith(f" tmp_path_retention_policy=failed {given}")


@pytest.mark.parametrize(
    ("arguments", "seed", "given"),
    [
        (["--random"], r"\d+", ""),
        (["--random", "17"], "17", ""),
        (["--quick", "--random", "0017"], "17", "tests/unit"),
        (["--random", "--quick", "-x"], r"\d+", "tests/unit -x"),
        (["--random", "17", "--quick", "tests/unit/test_keys.py"], "17", "tests/unit/test_keys.py"),
    ],
)
def test_a_random_order_is_asked_for_and_its_seed_is_told(
    tmp_path: Path, arguments: list[str], seed: str, given: str
) -> None:
    done = quick(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    *_, said, tests = done.stdout.splitlines()
    told = re.fullmatch(f"  in random order; this one again: --random ({seed})", said)
    assert told, said
    wanted = f"-p randomly --randomly-seed={told[1]}"
    assert wanted in tests
    assert [word for word in given.split() if word not in tests.split()] == []


ORDERED = "".join(f"def test_{number}(): pass\n" for number in range(20))


def test_the_order_is_that_of_the_files_unless_another_one_is_asked_for(tmp_path: Path) -> None:
    # Given tests, and the settings of pytest that hold here
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "test_many.py").write_text(ORDERED)

    def names(*options: str) -> list[str]:
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *options, "test_many.py"]
        environment = clean_environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # each takes its time to start
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return re.findall(r"test_many\.py::(test_\d+)", done.stdout)

    # When they are run as ever, and with one seed and another
    ordered = [f"test_{number}" for number in range(20)]
    first, again, other = (names("-p", "randomly", f"--randomly-seed={seed}") for seed in (1, 1, 2))
    # Then the order is as ever, that of the seed, and another one
    assert names() == ordered
    assert first == again
    assert sorted(first) == sorted(other) == sorted(ordered)
    assert len({tuple(ordered), tuple(first), tuple(other)}) == 3


@pytest.mark.parametrize("arguments", [["--quick", "--broker", "."], ["--broker", ".", "--quick"]])
def test_quick_and_another_rabbitmq_do_not_go_together(tmp_path: Path, arguments: list[str]) -> None:
    done = quick(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "leave --broker or --quick out" in done.stderr


def test_the_option_of_ops_test_needs_a_directory(tmp_path: Path) -> None:
    for arguments, reason in ((["--broker"], "needs a directory"), (["--broker", "nowhere"], "nowhere")):
        done = subprocess.run([ROOT / "ops" / "test", *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode != 0
        assert reason in done.stderr
