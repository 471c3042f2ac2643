"""Requests that the data server does not do, each with the HTTP status of its answer.

PulzarError
└── Refused
    ├── BadRequest           400
    ├── Forbidden            403
    ├── NotFound             404
    ├── Unavailable          503  with Retry-After
    └── NoRoom               507
"""

from __future__ import annotations

from broker.errors import PulzarError


class Refused(PulzarError):
    """Raised when a request gets an error answer instead of what it asked for."""

    status = 400
    retry_after: int | None = None  # seconds


class BadRequest(Refused):
    """Raised when a request can't be understood, or its body is not what it says."""


class Forbidden(Refused):
    """Raised when a request is not signed by the master, or no longer."""

    status = 403


class NotFound(Refused):
    """Raised when the node does not hold what was asked for."""

    status = 404


class Unavailable(Refused):
    """Raised when it can't be done just now."""

    status = 503
    retry_after = 1


class NoRoom(Refused):
    """Raised when the disk has no room for an upload."""

    status = 507
