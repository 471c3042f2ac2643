"""The names in a plain mirror. Below the target's root, each member has a folder:

<member>/OWNER                        which node or master made the folder: a random id
<member>/objects/ab/<SHA-256>         each file once, by the digest of its bytes
<member>/snapshots/<time>/SNAPSHOT    what the snapshot is of
<member>/snapshots/<time>/MANIFEST    its files; it comes last, and without it there is no snapshot
<member>/incoming/                    what is not whole yet
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker import snapshot_files
from broker.snapshot_files import HEAD, MANIFEST

OWNER = "OWNER"
OBJECTS = "objects"
SNAPSHOTS = "snapshots"
INCOMING = "incoming"

_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_member(name: str) -> bool:
    """Whether a member can have this name."""
    return _MEMBER.fullmatch(name) is not None


def is_digest(name: str) -> bool:
    """Whether this is a SHA-256 in hexadecimal digits."""
    return _DIGEST.fullmatch(name) is not None


def object_path(digest: str) -> str:
    """The path of an object below the member's folder."""
    return f"{OBJECTS}/{digest[:2]}/{digest}"


def snapshot_path(name: str, file: str) -> str:
    """The path of a file of a snapshot below the member's folder."""
    return f"{SNAPSHOTS}/{name}/{file}"


@dataclass
class Listing:
    """What a member's folder has. Names that are not ours are left out, and so never touched."""

    owned: bool = False  # there is an OWNER
    objects: dict[str, int] = field(default_factory=dict)  # digest -> bytes
    heads: dict[str, int] = field(default_factory=dict)  # snapshot -> bytes of its SNAPSHOT
    manifests: dict[str, int] = field(default_factory=dict)  # snapshot -> bytes of its MANIFEST
    incoming: list[str] = field(default_factory=list)  # paths of what a run has left that was interrupted

    def add(self, path: str, size: int) -> None:
        """Note a file below the member's folder."""
        folder, _, rest = path.partition("/")
        first, _, last = rest.partition("/")
        if path == OWNER:
            self.owned = True
        elif folder == OBJECTS and is_digest(last) and last[:2] == first:
            self.objects[last] = size
        elif folder == SNAPSHOTS and snapshot_files.is_name(first) and last in (HEAD, MANIFEST):
            (self.heads if last == HEAD else self.manifests)[first] = size
        elif folder == INCOMING and _is_ours(rest):
            self.incoming.append(path)

    @property
    def is_empty(self) -> bool:
        """Whether nothing of ours is there."""
        return not (self.owned or self.objects or self.heads or self.manifests)

    @property
    def complete(self) -> list[str]:
        """The snapshots that have both files."""
        return [name for name in self.manifests if name in self.heads]


def _is_ours(rest: str) -> bool:
    """Whether a path below INCOMING is one that a run makes."""
    parts = rest.split("/")
    name = parts[-1]
    if name in (HEAD, MANIFEST):
        return len(parts) == 2 and snapshot_files.is_name(parts[0])
    return rest == OWNER or (is_digest(name) and parts[:-1] in ([], [name[:2]]))


def listing(files: Iterable[tuple[str, int]]) -> Listing:
    """The listing of paths and sizes."""
    made = Listing()
    for path, size in files:
        made.add(path, size)
    return made
