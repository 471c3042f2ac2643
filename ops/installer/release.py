"""Releases: code with its own virtual environment, beside the one that runs."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ops.installer import commands, files
from ops.installer.errors import CommandFailed
from ops.installer.places import Places

# What is installed of a checkout.
PARTS = (
    "backup",
    "broker",
    "master",
    "node",
    "jobs",
    "extensions",
    "requirements.txt",
    "requirements.lock",
    "requirements-extensions.txt",
    "requirements-extensions.lock",
    "README.md",
    "docs",
    "ops/__init__.py",
    "ops/install",
    "ops/installer",
    "ops/manage.py",
    "ops/tokens.py",
    "ops/manager",
    "ops/server.conf",
    "ops/systemd",
)


def content(source: Path) -> Iterator[Path]:
    """Every file of the parts, relative to the checkout, in one order."""
    for part in sorted(PARTS):
        path = source / part
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (each.relative_to(source) for each in found if each.is_file() and "__pycache__" not in each.parts)


def name(places: Places, extensions: bool) -> str:
    """The name of a release: it changes with the code, the packages and the Python that it is made of."""
    digest = hashlib.sha256(f"{extensions} {places.root}\0".encode())
    for path in content(places.source):
        data = (places.source / path).read_bytes()
        digest.update(f"{path}\0{_mode(places.source / path):o}\0{len(data)}\0".encode() + data)
    digest.update(files.read(places.requirements) or b"")
    return f"{digest.hexdigest()[:12]}-{sys.version_info[0]}.{sys.version_info[1]}"


def make(places: Places, extensions: bool) -> Path:
    """Make the release of this checkout unless it is there; its folder. Raises `CommandFailed`."""
    folder = places.code / name(places, extensions)
    complete = folder / "complete"
    if complete.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    for path in content(places.source):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(places.source / path, folder / path)
        (folder / path).chmod(_mode(places.source / path))
    python = folder / "venv/bin/python"
    commands.run(f"making {folder}/venv", sys.executable, "-m", "venv", folder / "venv")
    _pip(python, folder / "requirements.lock", "--require-hashes")
    if extensions:
        again = " Run the same command again to go on, or with --without-extensions."
        _pip(python, folder / "requirements-extensions.lock", "--require-hashes", again=again)
    if places.requirements.exists():
        _pip(python, places.requirements)
    # The services may not write here.
    commands.run("compiling", python, "-m", "compileall", "-q", folder)
    status, output = commands.attempt("sync", "-f", folder)
    if status != 0:
        raise CommandFailed(f"{folder} can't be written to the disk: {output}")
    complete.touch()
    return folder


def switch(places: Places, folder: Path) -> bool:
    """Point `current` to a release, keep the one before it and delete all others; False when it is current already."""
    current, new = places.code / "current", places.code / ".current"
    before = os.readlink(current) if current.is_symlink() else ""
    if before == folder.name:
        return False
    new.unlink(missing_ok=True)
    new.symlink_to(folder.name)
    new.replace(current)
    for other in places.code.glob("*-*"):
        if other.name not in (folder.name, before):
            shutil.rmtree(other)
    return True


def _mode(path: Path) -> int:
    return 0o755 if os.access(path, os.X_OK) else 0o644


def _pip(python: Path, requirements: Path, *options: str, again: str = " Run the same command again to go on.") -> None:
    commands.run(
        f"installing {requirements.name}",
        python,
        *("-m", "pip", "install", "-q", "--disable-pip-version-check", *options, "-r", str(requirements)),
        advice=f"pip could not install {requirements}; the reason is above.{again}",
    )
