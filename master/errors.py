"""What can go wrong in the master. Those with a status are answers to a client.

PulzarError
├── IndexUnusable            the index can't be opened or has no room
└── Refused                  a request that gets an error answer; `status` is its HTTP status
    ├── BadRequest           400
    ├── NotFound             404
    ├── Conflict             409  the key exists
    ├── ConditionFailed      412  If-Match or If-None-Match does not hold
    ├── Unavailable          503  with Retry-After
    └── NoRoom               507  every node is full
"""

from __future__ import annotations

from broker.errors import PulzarError


class IndexUnusable(PulzarError):
    """Raised when the index can't be opened, read or written; the message says how to mend it."""


class Refused(PulzarError):
    """Raised when a request gets an error answer instead of what it asked for."""

    status = 400
    retry_after: int | None = None  # seconds


class BadRequest(Refused):
    """Raised when a request can't be understood; the message says what was received and what is needed."""


class NotFound(Refused):
    """Raised when what was asked for does not exist."""

    status = 404


class Conflict(Refused):
    """Raised when a key exists already and the request does not replace it."""

    status = 409


class ConditionFailed(Refused):
    """Raised when a condition of the request does not hold."""

    status = 412


class Unavailable(Refused):
    """Raised when it can't be done just now: nothing was changed, or it can't be said whether it was."""

    status = 503
    retry_after = 1


class NoRoom(Refused):
    """Raised when no node has room for the value."""

    status = 507
