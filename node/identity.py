"""The name of the node. It stays with the data directory."""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path

from broker import topology
from broker.errors import SettingsError
from broker.http import signing
from broker.link import roles
from broker.messages import checks
from broker.settings import Settings
from node.storage.disk import files

_FILE = "node-id"


def load(settings: Settings) -> str:
    """The node's name in its data directory; the first start writes it there.

    It is that of `[volume] node`, else that of its user in RabbitMQ, else a new one. Raises `SettingsError` when
    setting or user have another name than the directory, or the directory can't be used.
    """
    directory = Path(settings.volume.dir)
    wanted = settings.volume.node
    if wanted and not checks.is_node_name(wanted):
        raise SettingsError(f"[volume] node = {wanted!r}: letters, digits, '.', '_' and '-' are needed, at most 100")
    of_user = topology.node_of(roles.user(settings.broker.url))
    if of_user and not checks.is_node_name(of_user):
        raise SettingsError(f"[broker] url: {of_user[:100]!r}, in the name of its user, can't be a node's name")
    wanted = wanted or of_user
    _require_other(wanted, "[volume] node, or the user in [broker] url, has")
    if wanted:
        roles.of_node(settings, wanted)  # before it stays in the directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        name = _read(directory) or _write(directory, wanted or _new_name())
    except OSError as error:
        raise SettingsError(f"[volume] dir = {str(directory)!r} can't be used: {error.strerror or error}") from error
    if not checks.is_node_name(name):
        raise SettingsError(f"{directory / _FILE} has no node's name: {name[:100]!r}")
    _require_other(name, f"{directory / _FILE} has")
    if settings.volume.node and name != wanted:
        raise SettingsError(
            f"[volume] node = {wanted!r}, but {directory} belongs to the node {name!r}: "
            f"use that name or another directory"
        )
    roles.of_node(settings, name)
    return name


def _require_other(name: str, where: str) -> None:
    """Raises `SettingsError` for the name that stands for the master in backups and signed addresses."""
    if name == signing.AT_MASTER:
        raise SettingsError(f"{where} the node's name {name!r}, which is the master's own; give the node another one")


def _read(directory: Path) -> str:
    try:
        return (directory / _FILE).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""  # the first start


def _write(directory: Path, name: str) -> str:
    """Write the name, unless another process was quicker; returns the name in the directory."""
    new = directory / f"{_FILE}.{secrets.token_hex(4)}"
    try:
        with new.open("w", encoding="ascii") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(new, directory / _FILE)
        files.sync_directory(directory)
    except FileExistsError:
        return _read(directory)
    finally:
        new.unlink(missing_ok=True)
    return name


def _new_name() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:60]
    return f"{host or 'node'}-{secrets.token_hex(2)}"
