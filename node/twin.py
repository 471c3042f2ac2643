"""Refuses to be a second process of the same node: one that was started on a copy of a running node's directory.

Where the other one listened is in the directory, and so in its copy. A copy on another machine, which does not reach
that address, is noticed by RabbitMQ: only one connection consumes a node's queue. A connection that is dead holds it,
too, until RabbitMQ has missed its heartbeats.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from pathlib import Path

from broker import tls
from broker.errors import SettingsError
from broker.settings import Settings

FILE = "node-address"
REMEDY = "stop one of the two; a copy of a node's directory can only take its place, or be used when the node is gone"
PATIENCE_SECS = 90.0  # RabbitMQ notices within this time that the connection of a machine that lost power is dead
LOOK_SECS = 1.0
_DYING_SECS = 5.0  # a process of this very node that was killed may still answer
_ANSWER_SECS = 2.0
_PAUSE_SECS = 0.2


def check(config: Settings, node: str) -> None:
    """Note in the directory where this process listens. Raises `SettingsError` when the node is running elsewhere."""
    file = Path(config.volume.dir) / FILE
    own = config.url(config.volume)
    trusted = tls.trust(config.security.ca)
    try:
        known = file.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        known = ""
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} can't be read: {error}") from error
    deadline = time.monotonic() + _DYING_SECS
    while known and _answers(known, node, trusted):
        if time.monotonic() > deadline:
            raise SettingsError(f"the node {node} is running at {known}, and {file.parent} is its directory: {REMEDY}")
        time.sleep(_PAUSE_SECS)
    if known != own:
        _write(file, own)


def _answers(known: str, node: str, trusted: ssl.SSLContext) -> bool:
    """Whether the node of this name listens at a URL; in directories of older versions it is `host:port`."""
    try:
        url = known if "://" in known else f"http://{known}"
        _, body = tls.get(url, "/autodiscovery", _ANSWER_SECS, trusted)
        return bool(json.loads(body)["data"]["node"] == node)
    except (OSError, ValueError, LookupError, TypeError):
        return False  # nobody is there, or somebody else


def _write(file: Path, own: str) -> None:
    new = file.with_name(f"{FILE}.new")
    try:
        new.write_text(own + "\n", encoding="utf-8")
        os.replace(new, file)
    except OSError as error:
        raise SettingsError(f"{file} can't be written: {error}") from error
