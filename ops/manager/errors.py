"""What can go wrong for the operator.

PulzarError
└── ManageError          something can't be done; the message is for a person
    ├── WrongUse         the arguments make no sense
    └── Answered         the master answers with an error status
        └── Conflicting  the master refuses something in its state, or in that of a node (409)
"""

from __future__ import annotations

from broker.errors import PulzarError


class ManageError(PulzarError):
    """Raised when something can't be done; the message is for a person."""


class WrongUse(ManageError):
    """Raised when the arguments make no sense."""


class Answered(ManageError):
    """Raised when the master answers with an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message if status == 409 else f"the master says: {message}")
        self.status = status


class Conflicting(Answered):
    """Raised when the master refuses something in its state, or in that of a node (status 409)."""
