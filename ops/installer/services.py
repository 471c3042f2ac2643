"""The services of systemd."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path

from broker.settings import Settings, reachable
from ops.installer import commands, files
from ops.installer.commands import say
from ops.installer.errors import CommandFailed, InstallError
from ops.installer.places import Places

ROLES = ("master", "node")
START_SECS = 60.0
_PAUSE_SECS = 0.1


def systemd_runs() -> bool:
    """Whether systemd is this machine's first process."""
    return Path("/run/systemd/system").is_dir()


def installed(places: Places) -> tuple[str, ...]:
    """The roles whose units are installed."""
    return tuple(role for role in ROLES if places.unit(role).exists())


def install(places: Places, roles: Iterable[str], *, enable: bool) -> bool:
    """Install the units, with `enable` for every boot; whether one changed. Raises `CommandFailed`."""
    changed = False
    for role in roles:
        unit = places.unit(role)
        content = (places.source / "ops/systemd" / unit.name).read_bytes()
        if content != files.read(unit):
            files.write(unit, content, 0o644)
            changed = True
        if systemd_runs():
            control("daemon-reload")
        if enable:
            control("-q", "enable", unit.name)
    return changed


def start(places: Places, roles: Iterable[str], known: Settings, *, restart: bool, only_active: bool) -> None:
    """Start the services and wait until they listen.

    `restart`: services that run are restarted, else they are let alone. `only_active`: a service that was stopped
    stays so. Raises `InstallError` when one does not answer.
    """
    for role in roles:
        unit = places.unit(role).name
        if not systemd_runs():
            say(f"systemd does not run here; {unit} will start at the next boot")
            continue
        if only_active and not is_active(unit):
            say(f"{unit} does not run, and is not started")
            continue
        commands.run(f"starting {unit}", "systemctl", "restart" if restart else "start", unit)
        own = known.server if role == "master" else known.volume
        with commands.step(f"waiting for {unit}"):
            wait(reachable(own.host), own.port, unit)


def hand_over(places: Places, directory: Path) -> None:
    """Give the master's directory to its user, if it is of a release whose master and node were one user.

    systemd does this for a directory below /var/lib/pulzar, and nobody for another one. Raises `CommandFailed`.
    """
    unit = places.unit("master").name
    if not directory.exists() or directory.owner() != places.user or directory.is_relative_to(places.data):
        return
    active = is_active(unit)
    if active:
        stop(unit)
    commands.run(f"giving {directory} to {places.master}", "chown", "-R", f"{places.master}:{places.master}", directory)
    if active:
        commands.run(f"starting {unit}", "systemctl", "start", unit)


def stop(unit: str) -> None:
    """Stop a service. Raises `CommandFailed`."""
    commands.run(f"stopping {unit}", "systemctl", "stop", unit)


def wait(host: str, port: int, unit: str, timeout: float = START_SECS) -> None:
    """Wait until somebody listens on the address, at most `timeout` seconds. Raises `InstallError`."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            reason = error
        if commands.attempt("systemctl", "-q", "is-failed", unit)[0] == 0 or time.monotonic() > deadline:
            raise InstallError(
                f"nobody listens on {host}:{port}: {reason}\n{unit} does not answer. Its log: journalctl -u {unit}"
            )
        time.sleep(_PAUSE_SECS)


def is_active(unit: str) -> bool:
    """Whether a service runs."""
    return commands.attempt("systemctl", "-q", "is-active", unit)[0] == 0


def control(*arguments: str) -> None:
    """Run `systemctl` without a line of its own. Raises `CommandFailed`."""
    status, output = commands.attempt("systemctl", *arguments)
    if status != 0:
        raise CommandFailed(f"systemctl {' '.join(arguments)} ended with {status}: {output}")
