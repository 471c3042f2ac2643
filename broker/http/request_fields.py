"""What a request says of its key and of its body."""

from __future__ import annotations

from urllib.parse import quote

from broker import integers, keys
from broker.errors import InvalidKey
from broker.http.environ import Environ
from broker.refusals import BadRequest

# What may stand in a path as it is. Not "+": too many programs take it for a space.
_SAFE = "/~!$&'()*,;=:@"


def content_length(environ: Environ) -> int | None:
    """The length of a request's body in bytes; None for a chunked one, 0 without a body. Raises `BadRequest`."""
    if "HTTP_TRANSFER_ENCODING" in environ:
        return None
    # The server lets only digits through, and every length that is given twice is given the same.
    try:
        return integers.parse(environ.get("CONTENT_LENGTH") or "0")
    except ValueError as error:
        raise BadRequest(f"Content-Length: {error}") from error


def has_body(environ: Environ) -> bool:
    """Whether a request has a body, be its length said in a good way or not."""
    return "HTTP_TRANSFER_ENCODING" in environ or environ.get("CONTENT_LENGTH", "0").strip("0") != ""


def key_of(environ: Environ, prefix: str) -> str:
    """The key in the request's path after `prefix`; raises `InvalidKey` with the reason.

    The server has undone the percent-encoding and gives bytes as latin-1, as WSGI says. A plus is a plus.
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
