"""RabbitMQ's part: a virtual host of Pulzar's own, and users with the rights that they need."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from broker.rights import definitions
from ops.installer import commands, services
from ops.installer.commands import say
from ops.installer.errors import InstallError
from ops.installer.places import NAME

_SALT_BYTES = 4
_PAUSE_SECS = 0.2
_GUEST = "guest"


def give_rights(passwords: Mapping[str, str]) -> None:
    """Make users and the virtual host in the RabbitMQ of this machine. Raises `InstallError`."""
    if not passwords or not is_installed():
        return
    if services.systemd_runs():
        commands.run("starting RabbitMQ", "systemctl", "start", "rabbitmq-server")
    if not answers():
        raise InstallError("RabbitMQ does not run here. Start it, then run the same command again to go on.")
    # A file, so that no list of processes shows the password: rabbitmqctl of 4.0 does not read it from standard input.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "definitions.json"
        file.touch(0o600)
        file.write_text(json.dumps(definitions(NAME, passwords, os.urandom(_SALT_BYTES))), encoding="utf-8")
        for path in (file, Path(folder)):
            shutil.chown(path, "rabbitmq")
        commands.run(
            f"giving RabbitMQ's users their rights: {' '.join(passwords)}",
            *("rabbitmqctl", "-q", "import_definitions", file),
            advice="RabbitMQ did not take its users; the reason is above.",
        )


def remove_users(users: Iterable[str]) -> None:
    """Delete the virtual host and these users."""
    if not is_installed():
        return
    if not answers():
        say(f"RabbitMQ does not run: its users and virtual host {NAME} stay")
        return
    if commands.attempt("rabbitmqctl", "-q", "delete_vhost", NAME)[0] != 0:
        say(f"RabbitMQ has no virtual host {NAME}")
    for user in users:
        if not delete_user(user):
            say(f"RabbitMQ has no user {user}")


def delete_user(user: str) -> bool:
    """Delete a user; whether there was one."""
    return commands.attempt("rabbitmqctl", "-q", "delete_user", user)[0] == 0


def remove_guest(ours: bool) -> None:
    """Delete RabbitMQ's user guest, whose password everybody knows.

    Where RabbitMQ is not `ours`, somebody else may need it, and its owner is told.
    """
    if not is_installed() or commands.attempt("rabbitmqctl", "-q", "authenticate_user", _GUEST, _GUEST)[0] != 0:
        return
    if not ours:
        say("RabbitMQ has its user guest, whose password everybody knows: rabbitmqctl delete_user guest")
    elif delete_user(_GUEST):
        say("RabbitMQ's user guest, whose password everybody knows, is deleted")


def wait_empty(queue: str, timeout: float) -> None:
    """Wait until a queue has no messages. Raises `InstallError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        command = ("rabbitmqctl", "-q", "-s", "-p", NAME, "list_queues", "name", "messages")
        status, output = commands.attempt(*command)
        counts = dict(line.split("\t", 1) for line in output.splitlines() if "\t" in line)
        if status == 0 and int(counts.get(queue, "0")) == 0:
            return
        if time.monotonic() > deadline:
            raise InstallError(f"the queue {queue} does not become empty: {output}\nRun the same command again.")
        time.sleep(_PAUSE_SECS)


def is_installed() -> bool:
    """Whether this machine has a RabbitMQ."""
    return shutil.which("rabbitmqctl") is not None


def answers() -> bool:
    """Whether the RabbitMQ of this machine runs, after up to 20 seconds."""
    status, _ = commands.attempt("rabbitmqctl", "-q", "--timeout", "20", "await_startup")
    return status == 0
