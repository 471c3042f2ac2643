"""Who this node is: a name that stays with its data directory."""

from __future__ import annotations

import os
import re
import secrets
import socket
from pathlib import Path

from broker.errors import SettingsError
from broker.messages import checks
from broker.settings import Settings
from node.storage.disk import files

_FILE = "node-id"


def load(settings: Settings) -> str:
    """The node's name: the one kept in its data directory, made at the first start.

    Raises `SettingsError` when `[volume] node` names another one, or the directory can't be used.
    """
    directory = Path(settings.volume.dir)
    wanted = settings.volume.node
    if wanted and not checks.is_node_name(wanted):
        raise SettingsError(f"[volume] node = {wanted!r}: letters, digits, '.', '_' and '-' are needed, at most 100")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        kept = _kept(directory) or _keep(directory, wanted or _made())
    except OSError as error:
        raise SettingsError(f"[volume] dir = {str(directory)!r} can't be used: {error.strerror or error}") from error
    if not checks.is_node_name(kept):
        raise SettingsError(f"{directory / _FILE} has no node's name: {kept[:100]!r}")
    if wanted and kept != wanted:
        raise SettingsError(
            f"[volume] node = {wanted!r}, but {directory} belongs to the node {kept!r}: "
            f"use that name or another directory"
        )
    return kept


def _kept(directory: Path) -> str:
    try:
        return (directory / _FILE).read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def _keep(directory: Path, name: str) -> str:
    """Write the name down, unless another process was quicker; the one that is kept now."""
    new = directory / f"{_FILE}.{secrets.token_hex(4)}"
    try:
        with new.open("w", encoding="ascii") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(new, directory / _FILE)
        files.sync_directory(directory)
    except FileExistsError:
        return _kept(directory)
    finally:
        new.unlink(missing_ok=True)
    return name


def _made() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:60]
    return f"{host or 'node'}-{secrets.token_hex(2)}"
