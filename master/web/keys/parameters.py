"""Reads and checks the parameters and conditions of requests to the key routes.

Everything here raises `BadRequest` with a message that says what was received and how to put it right.
"""

from __future__ import annotations

from urllib.parse import parse_qs

from broker import MOST_REPLICAS, keys
from broker.clock import DAY_MS
from broker.contract.kinds import Beginning, Flag, Integer, Key, Seconds, Span, Text
from broker.contract.parameters import Parameter, header, path
from broker.http import browsers, conditions, dates, request_fields, values
from broker.http.environ import Environ
from broker.messages.upload import MAX_LIFETIME_DAYS, UploadCommit, UploadPermit
from broker.refusals import BadRequest, ConditionFailed, Forbidden, NotFound
from master.index.index import Entry
from master.security.gate import NAME
from master.store.writer import Check

_MATCH_CHARS = 4_000  # of an If-Match that becomes a part of an address

VISIBLE = r"(?:[!-~](?:[ -~]*[!-~])?)?"  # what may stand in a header
MOST_WAIT_SECS = 300.0
MAX_LIFETIME_MS = MAX_LIFETIME_DAYS * DAY_MS
KEY = path(
    "key",
    Key(),
    f"A path of printable ASCII, up to {keys.MAX_BYTES} bytes; slashes stand as they are, other characters "
    "percent-encoded where URLs need it.",
    "",
)
PREFIX = Beginning()
BELOW = path("prefix", PREFIX, "What the keys begin with: a folder with its slash, or any text.", "")
TEMPORAL = Parameter(
    "temporal",
    Integer(MAX_LIFETIME_DAYS, needed=f"is no number of days; give an integer from 1 to {MAX_LIFETIME_DAYS}"),
    "The value lives so many days. Not with ttl.",
    0,
)
TTL = Parameter("ttl", Span(MAX_LIFETIME_MS), "The value lives so long: 90s, 15m, 12h or 7d. Not with temporal.", 0)
OVERWRITE = Parameter("overwrite", Flag(), "1: replace the value of a key that exists.", False)
WAIT = Parameter(
    "wait",
    Seconds(MOST_WAIT_SECS),
    "Seconds to wait for another value than the client has: while the response would be 304, or, without a condition, "
    "while the key is unknown. Then the response is that of a plain read. 503 when the master is stopped meanwhile, or "
    "too many wait.",
    0.0,
)
REPLICAS = Parameter(
    "replicas",
    Integer(MOST_REPLICAS),
    f"On so many nodes the value is to be stored, from 1 to {MOST_REPLICAS}; by default on as many as [general] "
    "replicas says.",
    0,
)
IF_MATCH = header(
    "If-Match", Text(_MATCH_CHARS, VISIBLE), "Only when the key exists with one of these ETags, or with any: *"
)
IF_NONE_MATCH = header(
    "If-None-Match",
    Text(pattern=conditions.LIST, what="list of entity tags"),
    "Only when the key does not exist (*), or with none of these ETags.",
)
IF_UNMODIFIED_SINCE = header(
    "If-Unmodified-Since",
    Text(pattern=VISIBLE),
    "412 when the value that is there is newer; a date that can't be read, and one beside If-Match, count for nothing.",
)
CHANGE_CONDITIONS = (IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE)
UPLOAD = (TEMPORAL, TTL, OVERWRITE, REPLICAS, *CHANGE_CONDITIONS)


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
    try:
        return PREFIX.of_text(text)
    except ValueError as error:
        raise BadRequest(f"the prefix {error}") from None


def nothing_below(prefix: str) -> NotFound:
    """The error for a prefix that no key has."""
    return NotFound(f"no key begins with {prefix!r}" if prefix else "there are no keys")


def lifetime(parameters: dict[str, str]) -> int:
    """The lifetime of the value in ms; 0: for ever."""
    if TEMPORAL.name in parameters and TTL.name in parameters:
        raise BadRequest("temporal and ttl were both given; give one of them")
    return TEMPORAL.read(parameters) * DAY_MS or TTL.read(parameters)


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
    return OVERWRITE.read(parameters)


def replicas(parameters: dict[str, str]) -> int:
    """On how many nodes the request wants its value stored; 0: on as many as the settings say."""
    return REPLICAS.read(parameters)


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
