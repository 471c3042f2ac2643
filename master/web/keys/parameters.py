"""Reads and checks the parameters and conditions of requests to the key routes.

Everything here raises `BadRequest` with a message that says what was received and how to put it right.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs

from broker import MOST_REPLICAS, integers, keys
from broker.clock import DAY_MS
from broker.http import browsers, conditions, dates, request_fields, values
from broker.http.environ import Environ
from broker.messages.upload import MAX_LIFETIME_DAYS, UploadCommit, UploadPermit
from broker.refusals import BadRequest, ConditionFailed, Forbidden, NotFound
from master.index.index import Entry
from master.security.gate import NAME
from master.store.writer import Check

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS}
_TTL = re.compile(r"([0-9]{1,12})([smhd])")
_MATCH_CHARS = 4_000  # of an If-Match that becomes a part of an address
_FLAG = {"1": True, "true": True, "0": False, "false": False, "": True}


def parameters(query: str) -> dict[str, str]:
    """The parameters of a query; of one given several times, the last."""
    return {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()} if query else {}


def writable_key(environ: Environ, path: str) -> str:
    """The key of a request that changes it, behind `path`; raises `InvalidKey`, or `Forbidden` as `writable` does."""
    return writable(request_fields.key_of(environ, path))


def writable(key: str) -> str:
    """A key that clients may write; raises `Forbidden` for names that only nodes write."""
    if keys.is_system_name(key):
        raise Forbidden(
            f"{key[:100]!r} is a name for the log or output of a job, jobs/<id>/…, which only its node writes"
        )
    return key


def prefix_of(environ: Environ, path: str) -> str:
    """The prefix of keys that stands in the request's path behind `path`; a leading slash counts for nothing."""
    return prefix(environ["PATH_INFO"][len(path) :])


def prefix(text: str) -> str:
    """A prefix of keys, without its leading slash; raises `BadRequest` when no key can begin so."""
    prefix = text.removeprefix("/")
    if len(prefix) > keys.MAX_BYTES or not prefix.isascii() or not prefix.isprintable():
        raise BadRequest(f"the prefix is no printable ASCII text of up to {keys.MAX_BYTES} characters")
    return prefix


def nothing_below(prefix: str) -> NotFound:
    """The error for a prefix that no key has."""
    return NotFound(f"no key begins with {prefix!r}" if prefix else "there are no keys")


def lifetime(parameters: dict[str, str]) -> int:
    """The lifetime of the value in ms; 0: for ever."""
    days, ttl = parameters.get("temporal"), parameters.get("ttl")
    if days is not None and ttl is not None:
        raise BadRequest("temporal and ttl were both given; give one of them")
    if days is not None:
        try:
            return integers.parse(days, 1, MAX_LIFETIME_DAYS) * DAY_MS
        except ValueError:
            raise BadRequest(
                f"temporal={days[:40]!r} is no number of days; give an integer from 1 to {MAX_LIFETIME_DAYS}"
            ) from None
    if ttl is not None:
        match = _TTL.fullmatch(ttl)
        length = integers.parse(match[1]) * _UNITS_MS[match[2]] if match else 0
        if not 0 < length <= MAX_LIFETIME_DAYS * DAY_MS:
            raise BadRequest(f"ttl={ttl[:40]!r} is no lifetime; give one like 90s, 15m, 12h or 7d")
        return length
    return 0


def integer(name: str, text: str | None, default: int, most: int) -> int:
    """The parameter `name`, an integer from 1 to `most`; `default` when it was not given."""
    if text is None:
        return default
    try:
        return integers.parse(text, 1, most)
    except ValueError as error:
        raise BadRequest(f"{name}={error}") from error


def flag(name: str, given: str | None) -> bool:
    """The parameter `name`, 1 or 0; false when it was not given."""
    if given is None:
        return False
    if given.lower() not in _FLAG:
        raise BadRequest(f"{name}={given[:40]!r} is neither 1 nor 0")
    return _FLAG[given.lower()]


def permit(master: str, environ: Environ, parameters: dict[str, str]) -> UploadPermit:
    """The permit in an address for an upload: it has the length of a PUT's body, and its If-Match."""
    if_match = environ.get("HTTP_IF_MATCH")
    if if_match is not None and len(if_match) > _MATCH_CHARS:
        raise BadRequest(
            f"If-Match has {len(if_match)} characters; with a value that goes to a node {_MATCH_CHARS} is the limit"
        )
    told = environ["REQUEST_METHOD"] == "PUT" and environ.get("CONTENT_LENGTH")
    length = request_fields.content_length(environ) if told else None
    return UploadPermit(
        master,
        lifetime(parameters),
        overwrite(parameters),
        length,
        if_match,
        environ.get(NAME, ""),
        replicas=replicas(parameters),
        page=browsers.own_origin(environ),
    )


def sent_on(environ: Environ) -> str:
    """The message for a client whose PUT gets the address of a node."""
    what = "send it" if environ["PATH_INFO"].startswith("/get_node/") else "this value is large, send it"
    return f"nothing is stored yet: {what} to data.node (curl: -L; httpx: follow_redirects=True)"


def overwrite(parameters: dict[str, str]) -> bool:
    """Whether the request may replace the value of a key that exists."""
    return flag("overwrite", parameters.get("overwrite"))


def replicas(parameters: dict[str, str]) -> int:
    """On how many nodes the request wants its value stored; 0: on as many as the settings say."""
    return integer("replicas", parameters.get("replicas"), 0, MOST_REPLICAS)


def check(if_match: str | None, if_none_match: str | None, if_unmodified_since: str | None = None) -> Check:
    """A function that raises `ConditionFailed` when the conditions do not hold for an entry.

    Raises `BadRequest` for a malformed If-None-Match: it would guard nothing.
    """
    if if_none_match is not None and not conditions.is_list(if_none_match):
        raise BadRequest(f"If-None-Match {if_none_match[:80]!r} is neither * nor a list of entity tags")

    def holds(entry: Entry | None) -> None:
        etag = None if entry is None else values.etag(entry.digest)
        modified = None if entry is None else entry.created // 1000
        # With If-Match the date does not count.
        if if_match is None and not conditions.unmodified_since(if_unmodified_since, modified):
            raise ConditionFailed(
                f"If-Unmodified-Since {if_unmodified_since} does not hold: the key {_state(etag)}, "
                f"stored on {dates.write(modified or 0)}"
            )
        if if_match is not None and not conditions.matches(if_match, etag, strong=True):
            raise ConditionFailed(f"If-Match {if_match[:80]} does not hold: the key " + _state(etag))
        if if_none_match is not None and conditions.matches(if_none_match, etag, strong=False):
            raise ConditionFailed(f"If-None-Match {if_none_match[:80]} does not hold: the key " + _state(etag))

    return holds


def check_of(environ: Environ) -> Check:
    """As `check`, for the conditions of a request."""
    get = environ.get
    return check(get("HTTP_IF_MATCH"), get("HTTP_IF_NONE_MATCH"), get("HTTP_IF_UNMODIFIED_SINCE"))


def check_commit(permit: UploadPermit, commit: UploadCommit) -> Check:
    """As `check`, for an upload that a node has: what is permitted must hold, and what the client said to the node."""
    first = check(permit.if_match, None)
    second = check(commit.if_match, commit.if_none_match, commit.if_unmodified_since)

    def holds(entry: Entry | None) -> None:
        first(entry)
        second(entry)

    return holds


def _state(etag: str | None) -> str:
    return "does not exist" if etag is None else f"exists with ETag {etag}"
