"""The key of a request, and the length of its body."""

from __future__ import annotations

from urllib.parse import quote

from broker import integers, keys
from broker.errors import InvalidKey
from broker.http.environ import Environ
from broker.refusals import BadRequest

# Characters that need no encoding in a path. Not "+": too many programs take it for a space.
_SAFE = "/~!$&'()*,;=:@"


def content_length(environ: Environ) -> int | None:
    """The length of a request's body in bytes; None for a chunked one, 0 without a body. Raises `BadRequest`."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    # The server lets only digits through, and equal lengths when there are several.
    try:
        return integers.parse(environ.get("CONTENT_LENGTH") or "0")
    except ValueError as error:
        raise BadRequest(f"Content-Length: {error}") from error


def has_body(environ: Environ) -> bool:
    """Whether a request has a body, also one with a malformed length."""
    return "HTTP_TRANSFER_ENCODING" in environ or environ.get("CONTENT_LENGTH", "0").strip("0") != ""


def key_of(environ: Environ, prefix: str) -> str:
    """The key in the request's path after `prefix`; raises `InvalidKey` with the reason.

    The path has no percent-encoding any more, and its bytes are latin-1, as in WSGI. A plus is a plus.
    """
    key = environ["PATH_INFO"][len(prefix) :]
    try:
        return keys.check(key)
    except InvalidKey:
        if key.isascii():
            raise
    try:
        return keys.check(key.encode("latin-1").decode("utf-8"))  # so that the reason shows what was meant
    except UnicodeError as error:
        raise InvalidKey("the key has bytes that are not ASCII; only printable ASCII can be used") from error


def quote_key(key: str) -> str:
    """The key as it stands in a URL."""
    return quote(key, _SAFE)
