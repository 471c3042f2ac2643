"""What can go wrong with extensions.

Refused
└── Failed                   an extension's request gets an error answer
    └── ProcessDied              500: the process of an extension ended, or said what it must not
ClientGone                   nobody waits for the answer any more
"""

from __future__ import annotations

from broker.errors import PulzarError
from broker.refusals import Refused


class Failed(Refused):
    """Raised when a request to an extension gets an error answer; `detail` is more for the log, a traceback mostly."""

    def __init__(self, status: int, message: str, detail: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class ProcessDied(Failed):
    """Raised when the process of an extension ended before it had answered."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message)


class ClientGone(PulzarError):
    """Raised when the client went away before it was answered."""
