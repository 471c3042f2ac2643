"""Conditional requests: entity tags and the order of preconditions (RFC 9110, sections 8.8.3 and 13)."""

from __future__ import annotations

import re
from enum import Enum

from broker.http import dates
from broker.http.environ import Environ

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
LIST = r'\*|(?:W/)?"[!#-~]*"(?:, ?(?:W/)?"[!#-~]*")*'  # of entity tags, as clients write it
# One element of a list, which may be empty, and its end. There is one way to match, so no backtracking.
_ELEMENT = re.compile(rf"[ \t]*(?:({_TAG})[ \t]*)?(?:,|\Z)")


class Outcome(Enum):
    """The result of the preconditions of a request."""

    GO_ON = 0  # they hold, or there are none
    NOT_MODIFIED = 304  # the client has it already
    FAILED = 412  # they do not hold


def given(environ: Environ) -> bool:
    """Whether a request has any precondition."""
    return (
        "HTTP_IF_NONE_MATCH" in environ
        or "HTTP_IF_MODIFIED_SINCE" in environ
        or "HTTP_IF_MATCH" in environ
        or "HTTP_IF_UNMODIFIED_SINCE" in environ
    )


def matches(header: str, etag: str | None, *, strong: bool) -> bool:
    """Whether `etag` (None: nothing is there) is in the list of an If-Match (strong) or If-None-Match header.

    A header that is no list of entity tags matches nothing.
    """
    if header.strip(" \t") == "*":
        return etag is not None
    if etag is None:
        return False
    if strong:
        return not etag.startswith("W/") and etag in _tags(header)
    opaque = etag.removeprefix("W/")
    return any(tag.removeprefix("W/") == opaque for tag in _tags(header))


def is_list(header: str) -> bool:
    """Whether an If-Match or If-None-Match header is `*` or a list of entity tags."""
    return header.strip(" \t") == "*" or bool(_tags(header))


def _tags(header: str) -> list[str]:
    """The entity tags of a list; none when it is malformed."""
    tags: list[str] = []
    at = 0
    while at < len(header):
        match = _ELEMENT.match(header, at)
        if match is None:
            return []
        if match[1]:
            tags.append(match[1])
        at = match.end()
    return tags


def unmodified_since(header: str | None, modified: int | None) -> bool:
    """Whether If-Unmodified-Since holds; `modified` is in seconds since the epoch, None when nothing is there.

    A header that is no date is ignored, and so is any header when nothing is there (section 13.1.4).
    """
    if header is None:
        return True
    limit = dates.read(header.strip())
    return limit is None or modified is None or modified <= limit


def evaluate(environ: Environ, etag: str | None, modified: int | None) -> Outcome:
    """Evaluate the preconditions of a request, in the order of section 13.2.2.

    `etag` and `modified` (seconds since the epoch) are those of the value, None when there is none.
    """
    reading = environ["REQUEST_METHOD"] in ("GET", "HEAD")
    if_match = environ.get("HTTP_IF_MATCH")
    if if_match is not None:
        if not matches(if_match, etag, strong=True):
            return Outcome.FAILED
    elif not unmodified_since(environ.get("HTTP_IF_UNMODIFIED_SINCE"), modified):
        return Outcome.FAILED
    if_none_match = environ.get("HTTP_IF_NONE_MATCH")
    if if_none_match is not None:
        if matches(if_none_match, etag, strong=False):
            return Outcome.NOT_MODIFIED if reading else Outcome.FAILED
    elif reading and modified is not None and "HTTP_IF_MODIFIED_SINCE" in environ:
        limit = dates.read(environ["HTTP_IF_MODIFIED_SINCE"].strip())
        if limit is not None and modified <= limit:
            return Outcome.NOT_MODIFIED
    return Outcome.GO_ON


def wants_range(if_range: str | None, etag: str, modified: int, now: float) -> bool:
    """Whether a Range header counts, given If-Range: the entity tag (strongly) or the exact date of the value.

    Within its own second a date is not sure: there may have been two values (section 8.8.2.2).
    `modified` and `now` are in seconds since the epoch.
    """
    if if_range is None:
        return True
    if_range = if_range.strip()
    if '"' in if_range:
        return if_range == etag and not etag.startswith("W/")
    return modified + 1 <= now and dates.read(if_range) == modified
