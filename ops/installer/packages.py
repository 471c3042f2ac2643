"""What an installation needs of Debian: packages, a user and a setting of the kernel."""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import shutil
from collections.abc import Iterable
from pathlib import Path

from ops.installer import commands, files
from ops.installer.commands import say
from ops.installer.errors import CommandFailed
from ops.installer.places import Places

RABBITMQ = Path("usr/lib/rabbitmq/bin/rabbitmq-server")  # below the root

CARRIERS = {"sftp": "rclone", "s3": "rclone", "rclone": "rclone", "restic": "restic"}  # by [backup] type

_APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")
_BROKER = b"""\
# Made by Pulzar. For nodes on other machines: an address that they reach.
listeners.tcp.1 = 127.0.0.1:5672
"""
# Read by RabbitMQ and by rabbitmqctl. The name of the machine may be an address that others reach.
_BROKER_ENVIRONMENT = b"""\
# Made by Pulzar: what Erlang programs say to each other stays on this machine. A cluster of RabbitMQ needs other lines.
NODENAME=rabbit@localhost
SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}"
export ERL_EPMD_ADDRESS=127.0.0.1
"""
_EPMD = b"""\
# Made by Pulzar: Erlang's name server, for programs of this machine alone.
[Socket]
ListenStream=
ListenStream=127.0.0.1:4369
"""
_SYSCTL = b"""\
# Made by Pulzar: connections that wait for a web worker that ends go to another one.
-net.ipv4.tcp_migrate_req = 1
"""
_MIGRATION = Path("proc/sys/net/ipv4/tcp_migrate_req")


def missing(places: Places, own_broker: bool, extensions: bool, backup: str) -> list[str]:
    """Names of the packages that are needed and not there; `backup` is `[backup] type`."""
    packages = []
    if not importlib.util.find_spec("ensurepip"):
        packages.append("python3-venv")
    if own_broker and not (places.root / RABBITMQ).exists():
        packages.append("rabbitmq-server")
    if extensions and not shutil.which("tesseract"):
        packages.append("tesseract-ocr")
    if extensions and not shutil.which("isql"):
        packages.append("unixodbc")
    carrier = CARRIERS.get(backup)
    if carrier and not shutil.which(carrier):
        packages.append(carrier)
    return packages


def install(places: Places, packages: list[str]) -> None:
    """Install packages with apt. Raises `CommandFailed`."""
    if not packages:
        return
    if "rabbitmq-server" in packages and not places.broker.exists():
        keep_local(places)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        commands.run("refreshing the package lists", *_APT, "update", environment=environment)
    except CommandFailed as error:
        say(f"trying with the lists at hand: {error}")
    names = " ".join(packages)
    commands.run(
        f"installing {names} with apt",
        *_APT,
        # A file of RabbitMQ's package that is there already stays as it is.
        *("-o", "Dpkg::Options::=--force-confold"),
        "install",
        "--no-install-recommends",
        *packages,
        advice=f"apt could not install {names}; the reason is above.",
        environment=environment,
    )


def keep_local(places: Places) -> None:
    """Have a RabbitMQ that is installed next listen on this machine alone, from its first start on.

    By itself it listens on every address, and so does what Erlang programs say to each other.
    """
    files.write(places.broker, _BROKER, 0o644)
    files.write(places.epmd, _EPMD, 0o644)
    if files.read(places.broker_environment) is None:
        files.write(places.broker_environment, _BROKER_ENVIRONMENT, 0o644)


def make_users(places: Places, roles: Iterable[str]) -> None:
    """Make the users and groups of the services. Raises `CommandFailed`."""
    if not has_group(places.group):
        commands.run(f"making the group {places.group}", "groupadd", "--system", places.group)
    options: list[str | Path] = [
        "--system",
        "--no-create-home",
        "--shell",
        "/usr/sbin/nologin",
        "--home-dir",
        places.data,
    ]
    if not has_user(places.user):
        commands.run(f"making the user {places.user}", "useradd", *options, "--gid", places.group, places.user)
    if "node" in roles and not has_user(places.jobs):
        commands.run(f"making the user {places.jobs}", "useradd", *options, "--user-group", places.jobs)
    if "master" in roles and not has_user(places.master):
        groups = ["--user-group", "--groups", places.group]
        commands.run(f"making the user {places.master}", "useradd", *options, *groups, places.master)


def has_user(name: str) -> bool:
    """Whether this machine has a user of that name."""
    try:
        pwd.getpwnam(name)
    except KeyError:  # there is none
        return False
    return True


def has_group(name: str) -> bool:
    """Whether this machine has a group of that name."""
    try:
        grp.getgrnam(name)
    except KeyError:  # there is none
        return False
    return True


def set_kernel(places: Places) -> None:
    """Let connections outlive a web worker of the master, now and after each boot; kernels before 5.14 can't."""
    files.write(places.sysctl, _SYSCTL, 0o644)
    setting = places.root / _MIGRATION
    try:
        if setting.read_text().strip() == "0":
            setting.write_text("1\n")
    except FileNotFoundError:
        return
    except OSError:
        say("net.ipv4.tcp_migrate_req can't be set now; it will be 1 after the next boot")
