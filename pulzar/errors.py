"""What can go wrong with a request.

PulzarError
├── BadRequest           the request is not one that can be carried out (400, 411, 413 and the like)
├── NotFound             the key, job or script is unknown (404)
├── Conflict             the key exists, a condition does not hold, or a job has ended (409, 412)
│   └── Changed              a value was replaced while it was read
├── Forbidden            the token is missing, unknown, or lacks a right (401, 403)
├── Damaged              the bytes are not those that were stored
├── Unavailable          the cluster can't be reached, or can't do it now (503, no response)
│   ├── Full                 no node has room, or a quota is used up (507)
│   └── UnknownOutcome       it is not known whether the request took effect
└── ServerError          the server failed (500 and the like), or something else responds there
"""

from __future__ import annotations


class PulzarError(Exception):
    """Base of everything that this package raises on purpose. `status` is that of HTTP, 0 without a response."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class BadRequest(PulzarError):
    """Raised when a request is not one that can be carried out; the message says how to put it right."""


class NotFound(PulzarError):
    """Raised when a key, a job or a script is unknown, or the lifetime of a key is over."""


class Conflict(PulzarError):
    """Raised when a key exists, a condition does not hold, or a job has ended already."""


class Changed(Conflict):
    """Raised when a value was replaced while it was read, after some of its bytes were handed out."""


class Forbidden(PulzarError):
    """Raised when the token is missing, unknown or too old, or lacks a right."""


class Damaged(PulzarError):
    """Raised when bytes are not those that were stored: at the node, or on their way."""


class Unavailable(PulzarError):
    """Raised when the cluster can't be reached, or can't do it now."""


class Full(Unavailable):
    """Raised when no node has room for a value, or a quota is used up."""


class UnknownOutcome(Unavailable):
    """Raised when a request may have taken effect or not, and trying again could do harm."""


class ServerError(PulzarError):
    """Raised when the server failed, or when what responds is no Pulzar."""


_KINDS: dict[int, type[PulzarError]] = {
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    412: Conflict,
    503: Unavailable,
    507: Full,
}


def of_status(status: int, message: str) -> PulzarError:
    """The error for a response with this status and text."""
    kind = _KINDS.get(status) or (BadRequest if 400 <= status < 500 else ServerError)
    return kind(message, status)
