"""What an installation needs of Debian: packages, a user and a setting of the kernel."""

from __future__ import annotations

import grp
import importlib.util
import os
import pwd
import shutil
from pathlib import Path

from ops.installer import commands, files
from ops.installer.commands import say
from ops.installer.errors import CommandFailed
from ops.installer.places import Places

RABBITMQ = Path("usr/lib/rabbitmq/bin/rabbitmq-server")  # below the root

_APT = ("apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")
_BROKER = b"""\
# Made by Pulzar. For nodes on other machines: an address that they reach.
listeners.tcp.1 = 127.0.0.1:5672
"""
_SYSCTL = b"""\
# Made by Pulzar: connections that wait for a web worker that ends go to another one.
-net.ipv4.tcp_migrate_req = 1
"""
_MIGRATION = Path("proc/sys/net/ipv4/tcp_migrate_req")


def missing(places: Places, own_broker: bool, extensions: bool) -> list[str]:
    """Names of the packages that are needed and not there."""
    packages = []
    if not importlib.util.find_spec("ensurepip"):
        packages.append("python3-venv")
    if own_broker and not (places.root / RABBITMQ).exists():
        packages.append("rabbitmq-server")
    if extensions and not shutil.which("tesseract"):
        packages.append("tesseract-ocr")
    if extensions and not shutil.which("isql"):
        packages.append("unixodbc")
    return packages


def install(places: Places, packages: list[str]) -> None:
    """Install packages with apt. Raises `CommandFailed`."""
    if not packages:
        return
    # By itself RabbitMQ listens on every address, from its first start on.
    if "rabbitmq-server" in packages and not places.broker.exists():
        files.write(places.broker, _BROKER, 0o644)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        commands.run("refreshing the package lists", *_APT, "update", environment=environment)
    except CommandFailed as error:
        say(f"trying with the lists at hand: {error}")
    names = " ".join(packages)
    commands.run(
        f"installing {names} with apt",
        *_APT,
        "install",
        "--no-install-recommends",
        *packages,
        advice=f"apt could not install {names}; the reason is above.",
        environment=environment,
    )


def make_user(places: Places) -> None:
    """Make the user and the group of the services. Raises `CommandFailed`."""
    if not has_group(places.group):
        commands.run(f"making the group {places.group}", "groupadd", "--system", places.group)
    if not has_user(places.user):
        options = ["--system", "--gid", places.group, "--no-create-home", "--shell", "/usr/sbin/nologin"]
        commands.run(f"making the user {places.user}", "useradd", *options, "--home-dir", places.data, places.user)


def has_user(name: str) -> bool:
    """Whether this machine has a user of that name."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def has_group(name: str) -> bool:
    """Whether this machine has a group of that name."""
    try:
        grp.getgrnam(name)
    except KeyError:
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
