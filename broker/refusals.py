"""Requests that master or node refuse, each with the HTTP status of the response.

PulzarError
└── Refused
    ├── BadRequest           400
    ├── Unauthorized         401  with WWW-Authenticate
    ├── Forbidden            403
    ├── NotFound             404
    ├── MethodNotAllowed     405  with Allow
    ├── SlowClient           408
    ├── Conflict             409
    ├── LengthRequired       411
    ├── ConditionFailed      412
    ├── TooLarge             413
    ├── Misdirected          421
    ├── ServerError          500
    ├── NotSupported         501
    ├── Unavailable          503  with Retry-After
    └── NoRoom               507
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.errors import BadSignature, InvalidKey, LinkDown, PulzarError


class Refused(PulzarError):
    """Raised when a request gets an error response."""

    status = 400
    retry_after: int | None = None  # seconds
    detail = ""  # for the log, mostly a traceback

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Headers of the response."""
        return [] if self.retry_after is None else [("Retry-After", str(self.retry_after))]


class BadRequest(Refused):
    """Raised when a request can't be understood; the message says what was received and what is needed."""


class Unauthorized(Refused):
    """Raised when a request needs a token and has none that is known."""

    status = 401

    @property
    def headers(self) -> list[tuple[str, str]]:
        """How a token may be sent."""
        return [("WWW-Authenticate", 'Bearer realm="pulzar", Basic realm="pulzar"')]


class Forbidden(Refused):
    """Raised when a request lacks a right, is not signed by this cluster, or would write what only nodes write."""

    status = 403


class NotFound(Refused):
    """Raised when what was asked for does not exist."""

    status = 404


class MethodNotAllowed(Refused):
    """Raised when a path has no such method; `path` is shown, `allowed` are those it has."""

    status = 405

    def __init__(self, method: str, path: str, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(allowed)
        super().__init__(f"{method} is not possible on {path}; {self.allowed} is")

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What goes with the answer."""
        return [("Allow", self.allowed)]


class SlowClient(Refused):
    """Raised when a client sends its body, or takes a response, too slowly or not at all."""

    status = 408


class Conflict(Refused):
    """Raised when a key exists already and the request does not replace it."""

    status = 409


class LengthRequired(Refused):
    """Raised when a request may have a body and does not say where it ends."""

    status = 411


class ConditionFailed(Refused):
    """Raised when a condition of the request does not hold."""

    status = 412


class TooLarge(Refused):
    """Raised when a body is longer than the route takes."""

    status = 413


class Misdirected(Refused):
    """Raised when a request is for a host that this server does not know as its own name."""

    status = 421


class ServerError(Refused):
    """Raised when a request fails and its client can do nothing about it; a log says more."""

    status = 500


class NotSupported(Refused):
    """Raised when a request needs a part of HTTP that is not supported."""

    status = 501


class Unavailable(Refused):
    """Raised when a request can't be done at the moment. Nothing was changed, or it is not known whether it was."""

    status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        """`retry_after`: seconds until the same request may be done."""
        super().__init__(message)
        self.retry_after = retry_after


class NoRoom(Refused):
    """Raised when there is no room for a value."""

    status = 507


def refusal(status: int, message: str) -> Refused:
    """The error whose response has this status."""
    kinds = (BadRequest, Forbidden, NotFound, Conflict, ConditionFailed, NoRoom)
    return {kind.status: kind for kind in kinds}.get(status, Unavailable)(message)


def as_refusal(error: Exception) -> Refused | None:
    """The refusal that a client gets for an error; None for an unexpected error."""
    match error:
        case Refused():
            return error
        case InvalidKey():
            return BadRequest(str(error))
        case BadSignature():
            return Forbidden(str(error))
        case LinkDown():
            return Unavailable(str(error))
    return None
