"""Locks: each package with its version and the SHA-256 of its files, as `ops/lock` writes and pip reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ops.cluster.processes import ROOT
from ops.locks.errors import Unreadable

# Files of requirements, each with those that are installed beside it: what they share has one version.
SOURCES = {
    "requirements.txt": (),
    "requirements-extensions.txt": ("requirements.txt",),
    "requirements-dev.txt": ("requirements.txt", "requirements-extensions.txt"),
    "requirements-libraries.txt": (),
}
PRODUCT = ("requirements.lock", "requirements-extensions.lock")
"""What is installed where Pulzar runs."""

_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]*?))?\s*\\")
_DIGEST = re.compile(r"\s+--hash=sha256:([0-9a-f]{64})(?:\s*\\)?")
_VIA = re.compile(r"\s+#\s+(?:via\s*)?(?P<who>\S.*)?")


@dataclass(frozen=True)
class Locked:
    """A package of a lock."""

    name: str
    """In lower case, with hyphens, as package indexes have it."""
    version: str
    marker: str
    """Where it is installed, as pip reads it; empty for everywhere."""
    digests: tuple[str, ...]
    """Of the files that may be installed: SHA-256 in hexadecimal."""
    wanted_by: tuple[str, ...]
    """Names of packages that need it, and files of requirements that name it."""


def lock_of(source: str) -> str:
    """The name of the lock that is made of a file of requirements."""
    return source.removesuffix(".txt") + ".lock"


def normalized(name: str) -> str:
    """The name of a package as package indexes have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read(name: str, top: Path = ROOT) -> list[Locked]:
    """The packages of a lock. Raises `Unreadable`."""
    try:
        text = (top / name).read_text(encoding="utf-8")
    except OSError as error:
        raise Unreadable(f"{name} can't be read: {error.strerror or error}") from error
    return parsed(text, name)


def parsed(text: str, name: str) -> list[Locked]:
    """The packages in the text of a lock. Raises `Unreadable`."""
    found: list[Locked] = []
    blocks = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)
    for line in blocks[0].splitlines():
        if line and not line.startswith("#"):
            raise Unreadable(f"{name}: no line of a lock: {line}")
    for block in blocks[1:]:
        head, *rest = block.splitlines()
        package = _PACKAGE.fullmatch(head)
        if not package:
            raise Unreadable(f"{name}: NAME==VERSION with digests is needed, not: {head}")
        digests, wanted_by = [], []
        for line in filter(str.strip, rest):
            if digest := _DIGEST.fullmatch(line):
                digests.append(digest[1])
            elif via := _VIA.fullmatch(line):
                wanted_by.append(_wanting(via["who"] or ""))
            else:
                raise Unreadable(f"{name}: no line of a lock: {line}")
        if not digests:
            raise Unreadable(f"{name}: {package['name']} has no digest")
        wanting = tuple(who for who in wanted_by if who)
        made = Locked(normalized(package["name"]), package["version"], package["marker"] or "", tuple(digests), wanting)
        found.append(made)
    return found


def _wanting(text: str) -> str:
    """Who needs a package, of a line of a lock; nobody for a constraint."""
    if text.startswith("-c "):
        return ""
    return text.removeprefix("-r ") if text.startswith("-r ") else normalized(text)
