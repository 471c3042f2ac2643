"""The systemd units: systemd takes them, they harden, they fit what ops/install makes, and the installer refuses what makes no sense."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from broker import settings
from broker.server.web_server import STOP_SECS
from ops.installer.places import Places
from ops.installer.release import PARTS
from tests.support import ROOT

UNITS = {"master": ROOT / "ops/systemd/pulzar-master.service", "node": ROOT / "ops/systemd/pulzar-node.service"}
INSTALLER = ROOT / "ops" / "install"
CODE = "/opt/pulzar/current"
# Tenths; an unhardened service has 96. The node makes namespaces for its jobs and changes to their user.
MOST_EXPOSURE = {"master": 20, "node": 31}
GRACE = settings.load(None, {}).jobs.grace

needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd-analyze: apt-get install systemd (ops/test does)"
)


def unit(role: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS[role])
    return parser


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)


@needs_systemd
@pytest.mark.parametrize("role", UNITS)
def test_systemd_finds_nothing_wrong(role: str, tmp_path: Path) -> None:
    # Given the unit as it is, but for where the code is: systemd looks for the program that is started
    program = tmp_path / "venv/bin/python"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "README.md").touch()
    copy = tmp_path / UNITS[role].name
    copy.write_text(UNITS[role].read_text().replace(CODE, str(tmp_path)))
    # Then nothing is said of it
    done = analyze("verify", "--man=no", copy)
    assert (done.returncode, [line for line in done.stdout.splitlines() if copy.name in line]) == (0, []), done.stdout
    # And something would be, of a line that systemd does not know
    copy.write_text(copy.read_text().replace("OOMPolicy=", "OOMPolice="))
    assert "OOMPolice" in analyze("verify", "--man=no", copy).stdout


@needs_systemd
@pytest.mark.parametrize("role", UNITS)
def test_it_is_exposed_to_little(role: str) -> None:
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSURE[role]}", UNITS[role])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("role", UNITS)
def test_it_starts_what_the_installer_makes(role: str) -> None:
    known = unit(role)["Service"]
    places = Places()
    assert known["ExecStart"] == f"{CODE}/venv/bin/python -m {role} --config /etc/pulzar/server.conf"
    # What all share, and then what is the role's alone
    lines = re.findall(r"^EnvironmentFile=(.*)$", UNITS[role].read_text(), re.MULTILINE)
    assert lines == [str(places.environment), f"-{places.role_environment(role)}"]
    assert known["User"] == known["Group"] == {"master": places.master, "node": places.user}[role]
    if role == "master":
        assert known["SupplementaryGroups"] == places.group
    assert [str(places.code / "current"), str(places.settings)] == [CODE, known["ExecStart"].rpartition(" ")[2]]
    # And it may write where its data are by default
    section = {"master": "server", "node": "volume"}[role]
    directory = getattr(settings.load(None, {}), section).dir
    assert directory in [f"/var/lib/{name}" for name in known["StateDirectory"].split()]


@pytest.mark.parametrize("role", UNITS)
def test_it_has_time_to_stop_and_is_not_started_again_in_vain(role: str) -> None:
    known = unit(role)["Service"]
    assert known["Restart"] == "on-failure"
    assert known["RestartPreventExitStatus"] == "2"  # bad configuration, see docs/quickstart.md
    assert int(known["TimeoutStopSec"]) > 2 * (STOP_SECS + GRACE)
    assert unit(role)["Unit"]["StartLimitIntervalSec"] == "0"  # a broker or a disk may be away for long


def test_both_differ_only_where_it_is_said_why() -> None:
    different = dict(unit("master")["Service"].items() ^ unit("node")["Service"].items())
    own = {"ExecStart", "EnvironmentFile", "StateDirectory", "User", "Group", "SupplementaryGroups"}
    fence = {"AmbientCapabilities", "CapabilityBoundingSet", "Delegate", "ProtectControlGroups", "RestrictNamespaces"}
    assert set(different) == own | fence | {"TasksMax", "ProtectProc", "RestrictAddressFamilies", "SystemCallFilter"}


def test_a_node_may_make_the_calls_that_its_fence_needs() -> None:
    # @privileged, which is taken away, has capset and @chown; what comes after it is given back.
    lines = re.findall(r"^SystemCallFilter=(.*)$", (ROOT / "ops/systemd/pulzar-node.service").read_text(), re.MULTILINE)
    given_back = lines[lines.index("~@privileged") + 1].split()
    assert {"capset", "@chown", "@setuid", "@mount"} <= set(given_back)


def test_every_part_that_is_installed_is_there() -> None:
    assert not [part for part in PARTS if not (ROOT / part).exists()]


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ("", 2, "--master --node"),
        ("--without-extensions", 2, "--master --node"),
        ("--help", 0, "--broker-url URL"),
        ("--maste", 1, "--maste is no option"),
        ("--upgrade --remove", 1, "only one of these at a time"),
        ("--master --upgrade", 1, "only one of these at a time"),
        ("--master --purge", 1, "--purge goes with --remove"),
        ("--master --broker-url", 1, "--broker-url needs a URL"),
        ("--master --broker-url http://x", 1, "is no URL like amqp://user:password@host:5672/vhost"),
        ("--remove --broker-url amqp://x", 1, "--broker-url does not go with --remove"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_happens(
    arguments: str, status: int, reason: str
) -> None:
    done = subprocess.run([INSTALLER, *arguments.split()], capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert reason in done.stdout + done.stderr
