"""A target of any type, opened."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from backup.address import Target
from backup.mirror.mirror import Mirror
from backup.ownership import Ownership
from backup.progress import Progress
from backup.results import Restored, Row, Sent, Verified
from backup.value_check import ValueCheck
from broker.backups.keep_rule import KeepRule


class Backups(Protocol):
    """What can be done with a target. All of it raises `BackupError` and `BadSnapshot`."""

    def send(self, member: str, snapshot: Path, ownership: Ownership, rule: KeepRule) -> Sent:
        """Send a snapshot, verify it at the target, and remove older ones that the rule does not keep."""

    def rows(self, member: str | None) -> list[Row]:
        """The snapshots of a member, or of all, oldest first."""

    def verify(self, member: str, share: float, check: ValueCheck | None) -> Verified:
        """Read a random share (0 to 1) of the newest snapshot back, and compare it."""

    def restore(self, member: str, at: str | None, into: Path) -> Restored:
        """Put the newest snapshot, or the newest not after `at`, into a new directory, verified."""

    def close(self) -> None:
        """Give back what is held."""


def opened(target: Target, rate: int, progress: Progress) -> Backups:
    """The target; `rate` limits what is sent, in bytes per second, 0 is no limit. Raises `BackupError`.

    What a type needs is imported with it: a run begins in a few hundredths of a second.
    """
    if target.type == "directory":
        from backup.mirror.directory import Directory

        return Mirror(Directory(target.address, rate), progress)
    if target.type == "restic":
        from backup.restic import Restic

        return Restic(target, rate, progress)
    from backup.mirror.remote import Remote

    return Mirror(Remote(target, rate), progress)
