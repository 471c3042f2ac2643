"""The layout of a data directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NAMES = ("log", "values", "staging", "index", "tmp", "digests", "snapshots")


@dataclass(frozen=True)
class Layout:
    """The paths of a data directory."""

    root: Path
    log: Path
    values: Path
    staging: Path
    index: Path
    tmp: Path
    digests: Path
    snapshots: Path

    @classmethod
    def of(cls, root: Path) -> Layout:
        """The paths of the data directory `root`."""
        return cls(root, *(root / name for name in _NAMES))
