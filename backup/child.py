"""Programs of others that the engine runs."""

from __future__ import annotations

import os
import shutil

from backup.address import Target
from backup.errors import BadAddress
from broker import process


def program(name: str, target: Target) -> str:
    """The path of a program. Raises `BadAddress` when it is not installed."""
    found = shutil.which(name)
    if not found:
        raise BadAddress(f"a target of type {target.type} needs {name}, which is not here: apt-get install {name}")
    return found


def environment() -> dict[str, str]:
    """The environment without Pulzar's settings, which have passwords."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PULZAR_")}


def die_with_parent() -> None:
    """The new process ends with the engine, also when that is killed."""
    process.die_with_parent()
