"""RabbitMQ's part: a virtual host of Pulzar's own, and a user with the rights that master and nodes need."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from broker.rights import rights
from ops.installer import commands, services
from ops.installer.commands import say
from ops.installer.errors import InstallError
from ops.installer.places import NAME

_SALT_BYTES = 4


def definitions(password: str, salt: bytes) -> dict[str, Any]:
    """What RabbitMQ imports: its user without the password itself, the virtual host, the rights."""
    digest = hashlib.sha256(salt + password.encode()).digest()
    user = {
        "name": NAME,
        "password_hash": base64.b64encode(salt + digest).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": [],
    }
    permission = {"user": NAME, "vhost": NAME, **rights()._asdict()}
    return {"users": [user], "vhosts": [{"name": NAME}], "permissions": [permission]}


def give_rights(password: str) -> None:
    """Make the user and the virtual host in the RabbitMQ of this machine. Raises `InstallError`."""
    if not password or not is_installed():
        return
    if services.systemd_runs():
        commands.run("starting RabbitMQ", "systemctl", "start", "rabbitmq-server")
    if not answers():
        raise InstallError("RabbitMQ does not run here. Start it, then run the same command again to go on.")
    # A file, so that no list of processes shows the password: rabbitmqctl of 4.0 does not read it from standard input.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "definitions.json"
        file.touch(0o600)
        file.write_text(json.dumps(definitions(password, os.urandom(_SALT_BYTES))), encoding="utf-8")
        for path in (file, Path(folder)):
            shutil.chown(path, "rabbitmq")
        commands.run(
            f"giving RabbitMQ's user {NAME} its rights",
            *("rabbitmqctl", "-q", "import_definitions", file),
            advice=f"RabbitMQ did not take its user {NAME}; the reason is above.",
        )


def remove_user() -> None:
    """Delete the virtual host and the user."""
    if not is_installed():
        return
    if not answers():
        say(f"RabbitMQ does not run: its user and virtual host {NAME} stay")
        return
    for command, what in (("delete_vhost", "virtual host"), ("delete_user", "user")):
        status, _ = commands.attempt("rabbitmqctl", "-q", command, NAME)
        if status != 0:
            say(f"RabbitMQ has no {what} {NAME}")


def is_installed() -> bool:
    """Whether this machine has a RabbitMQ."""
    return shutil.which("rabbitmqctl") is not None


def answers() -> bool:
    """Whether the RabbitMQ of this machine runs, after up to 20 seconds."""
    status, _ = commands.attempt("rabbitmqctl", "-q", "--timeout", "20", "await_startup")
    return status == 0
