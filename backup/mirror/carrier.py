"""What a carrier does: it brings files to a plain mirror and back. Paths are those of `layout`.

Everything here raises `TargetError` when the target can't be used at the moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from backup.mirror.layout import Listing


class Upload(NamedTuple):
    """A file to be sent as an object."""

    source: Path
    digest: str
    size: int


class Download(NamedTuple):
    """An object that can be read here."""

    digest: str
    path: Path | None  # None: it is not at the target
    movable: bool  # whether the file is the caller's to move away


class Carrier(Protocol):
    """Brings files to a mirror and back."""

    def members(self) -> list[str]:
        """The folders at the root that can be members."""

    def listing(self, member: str) -> Listing:
        """What a member's folder has."""

    def room(self) -> int | None:
        """Free bytes at the target; None when it can't tell."""

    def clear(self, member: str, listing: Listing) -> None:
        """Remove what an interrupted run has left that is not whole."""

    def send(self, member: str, uploads: list[Upload], done: Callable[[int], None]) -> None:
        """Send objects. Each has its name only when it is whole.

        Raises `Damaged` when a source does not have its digest; the others are sent all the same.
        """

    def write(self, member: str, path: str, source: Path) -> None:
        """Send a small file, whole or not at all, in the place of one that is there."""

    def read(self, member: str, path: str) -> bytes:
        """A small file that the listing has."""

    def fetch(self, member: str, objects: Iterable[tuple[str, int]], scratch: Path) -> Iterator[Download]:
        """Objects by digest and size, in their order. What is put into `scratch` and not moved away is removed."""

    def remove(self, member: str, paths: list[str]) -> None:
        """Remove files."""

    def tidy(self, member: str) -> None:
        """Remove what a run needed meanwhile and is empty now."""

    def close(self) -> None:
        """Give back what is held."""
