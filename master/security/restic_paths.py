"""The paths of restic's REST protocol, and the keys that its files have.

`/restic/laptop/data/0f3c…` is the file of that name and kind in the repository `laptop`, and so is the key without the
first slash. A repository may be a path, like `office/laptop`.
Source: restic's documentation, "REST Backend".
"""

from __future__ import annotations

import re
from typing import NamedTuple

from broker.refusals import BadRequest

PREFIX = "/restic/"
CONFIG = "config"
LOCKS = "locks"
KINDS = ("data", "index", "keys", LOCKS, "snapshots")
_SEGMENT = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,63}")
_SEGMENTS = 4  # of the path of a repository, at most
NAME = r"[0-9a-f]{64}"
_NAME = re.compile(NAME)
_PART = rf"(?!(?:{'|'.join((*KINDS, CONFIG))})(?:/|$)){_SEGMENT.pattern}"
REPOSITORY = rf"{_PART}(?:/{_PART}){{0,{_SEGMENTS - 1}}}"
MOST = 64 * _SEGMENTS + _SEGMENTS - 1  # characters of a repository's path


class Place(NamedTuple):
    """What a request is about."""

    repository: str
    kind: str = ""  # one of `KINDS`, `CONFIG`, or "" for the repository itself
    name: str = ""  # of a file, the SHA-256 of its bytes; "" for all files of a kind, and for `CONFIG`

    @property
    def is_file(self) -> bool:
        """Whether it is a file; otherwise all files of a kind, or the repository."""
        return bool(self.name) or self.kind == CONFIG

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that it has, besides OPTIONS."""
        if self.is_file:
            return ("DELETE", "GET", "HEAD", "POST")
        return ("GET", "HEAD") if self.kind else ("POST",)

    @property
    def key(self) -> str:
        """The key of a file, or what the keys of all files there begin with."""
        folder = f"{PREFIX[1:]}{self.repository}/"
        if self.kind == CONFIG:
            return folder + CONFIG
        return f"{folder}{self.kind}/{self.name}" if self.kind else folder


def methods(path: str) -> tuple[str, ...]:
    """The methods of a path. Raises `BadRequest`."""
    return parse(path).methods


def parse(path: str) -> Place:
    """What the path of a request is about. Raises `BadRequest` for one that is none of restic's."""
    parts = path.removeprefix(PREFIX).removesuffix("/").split("/")
    kind = name = ""
    if len(parts) > 2 and parts[-2] in KINDS:
        kind, name = parts[-2:]
        parts = parts[:-2]
    elif len(parts) > 1 and parts[-1] in (*KINDS, CONFIG):
        kind = parts.pop()
    if name and not _NAME.fullmatch(name):
        raise BadRequest(f"{name[:80]!r} is no name of a file in {kind}; restic names it by 64 digits of SHA-256")
    wrong = next((part for part in parts if part in (*KINDS, CONFIG) or not _SEGMENT.fullmatch(part)), None)
    if wrong is not None or len(parts) > _SEGMENTS:
        what = f"{wrong[:80]!r} can't stand in it" if wrong is not None else f"it has {len(parts)} parts"
        raise BadRequest(
            f"{path[:200]!r} is no path of a restic repository: {what}; give rest:http://HOST:PORT{PREFIX}NAME/, "
            f"with a name of letters, digits and ._@-, or up to {_SEGMENTS} of them with slashes"
        )
    return Place("/".join(parts), kind, name)
