"""What a run of the engine gives back, whatever the target."""

from __future__ import annotations

from typing import NamedTuple

from broker.snapshot_files import SnapshotHead


class Sent(NamedTuple):
    """What a backup has done."""

    head: SnapshotHead
    name: str  # of the snapshot
    files: int  # that were sent, since the target did not have them
    bytes: int
    removed: list[str]  # snapshots
    warnings: list[str]  # in words; the backup is good all the same


class Row(NamedTuple):
    """A snapshot at the target."""

    member: str
    name: str
    time: str  # ISO 8601, UTC
    files: int
    bytes: int
    complete: bool


class Verified(NamedTuple):
    """What a verification has found."""

    name: str  # of the snapshot
    files: int  # objects that were read back
    bytes: int
    of_bytes: int  # of all objects of the snapshot
    values: int  # that were compared with the node's index
    faults: list[str]  # one line for each file or value
    damaged: tuple[str, ...] = ()  # digests of the objects that have other bytes than they had, of a mirror


class Restored(NamedTuple):
    """What was restored."""

    head: SnapshotHead
    name: str  # of the snapshot
    files: int
    bytes: int
