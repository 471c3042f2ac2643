"""What can go wrong with extensions.

Refused
└── Failed                   a request to an extension has an error as its response
    └── ProcessDied              500: the process of an extension ended, or sent a frame it must not
"""

from __future__ import annotations

from broker.refusals import Refused


class Failed(Refused):
    """Raised when a request to an extension fails. `detail` is for the log, mostly a traceback."""

    def __init__(self, status: int, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class ProcessDied(Failed):
    """Raised when the process of an extension ended before its response was complete."""

    def __init__(self, message: str) -> None:
        super().__init__(500, message)
