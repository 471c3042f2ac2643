"""Files and folders with their owners and modes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def make_folder(path: Path, mode: int, *, user: str = "", group: str = "") -> None:
    """Make a folder unless it is there; give it the mode and the owners either way."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if user:
        shutil.chown(path, user=user)
    if group:
        shutil.chown(path, group=group)


def read(path: Path) -> bytes | None:
    """The content of a file; None without the file."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write(path: Path, content: bytes, mode: int, group: str = "") -> None:
    """Replace a file at once: a reader sees the old or the new one. Makes its folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.installing")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        if group:
            shutil.chown(temporary, group=group)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
