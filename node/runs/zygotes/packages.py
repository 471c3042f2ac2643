"""The installed packages, looked at as files: nothing here is imported."""

from __future__ import annotations

import importlib.machinery
import os
import sys
from collections.abc import Mapping
from contextlib import suppress

_SITES = ("site-packages", "dist-packages")
_SUFFIXES = (".py", *importlib.machinery.EXTENSION_SUFFIXES, "/__init__.py")

Stamps = Mapping[str, tuple[int, int]]  # modification time in ns, size


def paths() -> list[str]:
    """Where packages are installed, for this process and for runs."""
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    found = [path for path in sys.path if os.path.basename(path) in _SITES]
    return list(dict.fromkeys([*given, *found]))


def folders(name: str) -> list[str] | None:
    """The folders of a package, none for a single module; None where it is not installed."""
    spec = importlib.machinery.PathFinder.find_spec(name, paths())
    if spec is None:
        return None
    return list(spec.submodule_search_locations or ())


def module(imported: str) -> str:
    """The module that an import loads, written `module`, or `module:name` for `from module import name`."""
    above, _, name = imported.partition(":")
    if not name:
        return above
    top, *inner = above.split(".")
    for folder in folders(top) or ():
        place = os.path.join(folder, *inner, name)
        if any(os.path.exists(f"{place}{suffix}") for suffix in _SUFFIXES):
            return f"{above}.{name}"
    return above


def stamps(files: list[str]) -> Stamps:
    """The states of some files and folders; those that are gone have none."""
    found: dict[str, tuple[int, int]] = {}
    for file in files:
        with suppress(OSError):  # it is gone, and so its state differs
            status = os.stat(file)
            found[file] = status.st_mtime_ns, status.st_size
    return found


def installation() -> Stamps:
    """The state of all that is installed: installers make or remove a folder in it each time."""
    return stamps([*paths(), os.path.join(sys.prefix, "pyvenv.cfg")])
