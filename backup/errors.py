"""The errors of backups. Each message says in words what is wrong, and is shown to the operator as it is.

BackupError
├── BadAddress           the target's address can't be used
├── Busy                 another run of the same member is at work
├── NoBackup             the target has no such member, snapshot or time
├── WrongOwner           the member's folder at the target belongs to another node
├── SourceUnreadable     a file of this machine can't be read
├── Damaged              bytes are missing or are not those that were backed up
└── TargetError          the target can't be used at the moment
    ├── TargetFull           it has no room
    ├── TargetReadOnly       it can't be written
    ├── LoginRefused         it does not accept the user and the password or key
    ├── HostKeyRefused       its host key is unknown or has changed
    └── TargetGone           it can't be reached
"""

from __future__ import annotations

from broker.errors import PulzarError


class BackupError(PulzarError):
    """Base of everything that ends a run of the engine on purpose."""


class BadAddress(BackupError):
    """Raised when the address, type or user of a target can't be used."""


class Busy(BackupError):
    """Raised when another run of the same member is at work."""


class NoBackup(BackupError):
    """Raised when the target has no such member, no snapshot of it, or none of that time."""


class WrongOwner(BackupError):
    """Raised when the member's folder at the target was made by another node or master of the same name."""


class SourceUnreadable(BackupError):
    """Raised when a file of this machine can't be read; the message names it."""


class Damaged(BackupError):
    """Raised when bytes are missing or wrong, in the snapshot or at the target."""

    def __init__(self, message: str, faults: list[str]) -> None:
        super().__init__(message)
        self.faults = faults  # one line for each file


class TargetError(BackupError):
    """Raised when the target can't be used at the moment."""


class TargetFull(TargetError):
    """Raised when the target has no room for what is to be sent."""


class TargetReadOnly(TargetError):
    """Raised when the target can't be written."""


class LoginRefused(TargetError):
    """Raised when the target does not accept the user and the password or key."""


class HostKeyRefused(TargetError):
    """Raised when the host key of the target is unknown, or is not the known one."""


class TargetGone(TargetError):
    """Raised when the target can't be reached, or went away."""
