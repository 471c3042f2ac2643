"""Signed URLs: proof for a node that the master has sent a client to it.

A signed query is `name=value&…&kid=HEX&until=SECONDS&signature=HEX`. `kid` says which secret has signed it. The
HMAC-SHA256 covers the method, the key, every parameter and the end of its life; the signature is the last parameter and
nothing may follow it. Each parameter is there once. They can be read by anyone and never hold a secret;
`broker.messages.upload` says what those of an upload mean.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from urllib.parse import parse_qsl, quote

from broker.errors import BadSignature, Expired

MASTER = "url"  # the parameter with the master's host:port
BY = "by"  # the name of the token that an address was made for
NODE = "node"  # the node that an address is for; no other one takes it
PAGE = "page"  # the origin of the master's page that an address was made for, which may then use it
VERSION = "version"  # the version that the master knew, where a value is on several nodes
NEXT = "next"  # the address of the same value at another node, for when this one does not have it
BACK = "back"  # the query of the link that led to an address at a node: who comes too late goes there again

# The first one signs, all of them verify. So a new one can be made known everywhere before it is used.
Secrets = tuple[bytes, ...]
RUN = "pzr_"  # how tokens of runs begin
_RUN_DIGITS = 48
_RUN = re.compile(rf"{RUN}([1-9][0-9]{{0,18}})_([1-9][0-9]{{0,8}})_([0-9a-f]{{{_RUN_DIGITS}}})", re.ASCII)
_UNNAMED_RUN = re.compile(rf"{RUN}([0-9a-f]{{32}})_([1-9][0-9]{{0,10}})_([0-9a-f]{{{_RUN_DIGITS}}})", re.ASCII)
AT_MASTER = "master"  # in place of a node's name: the address is for the master
_KEY_ID = "kid"
_KEY_ID_DIGITS = 8
CALLER = "pze_"  # how tokens begin that extensions act with
_CALLER = re.compile(rf"{CALLER}([0-9]{{1,12}})_([A-Za-z0-9._()-]{{1,64}})_([0-9a-f]{{{_RUN_DIGITS}}})", re.ASCII)
_SIGNATURE = "&signature="
_HEX_DIGITS = 32  # 128 bits of the HMAC
_SECONDS = re.compile(r"[0-9]{1,18}")
_PLAIN = re.compile(r"[\w.~:,-]*", re.ASCII)


def sign(secret: bytes, method: str, key: str, parameters: Mapping[str, str], until: int) -> str:
    """A signed query; `until`, in seconds since the epoch, is when it expires."""
    query = _query([*parameters.items(), (_KEY_ID, key_id(secret)), ("until", str(until))])
    return query + _SIGNATURE + _url_digest(secret, method, key, query)


@lru_cache(maxsize=64)
def key_id(secret: bytes) -> str:
    """The name of a secret. It tells nothing of the secret itself."""
    return hashlib.sha256(b"pulzar key id\0" + secret).hexdigest()[:_KEY_ID_DIGITS]


def verify(
    secrets: bytes | Secrets, method: str, key: str, query: str, now: float, *, node: str | None = None
) -> dict[str, str]:
    """The parameters of a signed query; raises `BadSignature` with the reason, `Expired` when it is too old at `now`.

    One for an upload has `MASTER`. `node`: whom it must be for; None: it may be for any, or for none.
    """
    signed, found, signature = query.rpartition(_SIGNATURE)
    if not found:
        raise BadSignature("the URL is not signed; ask the master where to send this request")
    if "&" in signature:
        raise BadSignature("the URL has parameters after its signature; give them to the master instead")
    try:
        given = parse_qsl(signed, keep_blank_values=True, strict_parsing=True)
    except ValueError as error:
        raise BadSignature("the URL was changed: its query can't be read") from error
    # Written again in our way: a client may have encoded it in another way.
    query = _query(given)
    parameters = dict(given)
    digest = _url_digest(_secret_of(secrets, parameters), method, key, query)
    if not hmac.compare_digest(digest.encode(), signature.encode()):
        raise BadSignature("the URL was changed, or signed by another cluster's master")
    if len(parameters) < len(given):
        raise BadSignature("the URL has one of its parameters twice; ask the master for another")
    del parameters[_KEY_ID]
    until = parameters.pop("until", "")
    if not _SECONDS.fullmatch(until):
        raise BadSignature("the URL does not say until when it is good; ask the master for another")
    if method == "PUT" and not parameters.get(MASTER):
        raise BadSignature("the URL does not say which master sent it here; ask the master for another")
    if node is not None and parameters.get(NODE) != node:
        raise BadSignature(f"the URL is for {_named(parameters.get(NODE))}, and this is {_named(node)}")
    if int(until) < now:
        raise Expired(f"the URL expired {now - int(until):.0f} s ago; ask the master again", parameters)
    return parameters


def _secret_of(secrets: bytes | Secrets, parameters: Mapping[str, str]) -> bytes:
    """The secret that has signed a query, as the query itself says. Raises `BadSignature`."""
    wanted = parameters.get(_KEY_ID)
    if wanted is None:
        raise BadSignature("the URL was changed, or is an older version's: it has no kid; ask the master for another")
    for secret in _each(secrets):
        if key_id(secret) == wanted:
            return secret
    known = ", ".join(map(key_id, _each(secrets)))
    raise BadSignature(
        f"the URL was changed, or signed with the secret {wanted[:20]!r}, which is not known here ({known} is): "
        "[general] secret must be the same everywhere, and keep an old secret until what it has signed is over"
    )


def _named(node: str | None) -> str:
    return "no node" if node is None else "the master" if node == AT_MASTER else f"the node {node}"


def sign_body(secret: bytes, body: bytes) -> str:
    """The HMAC of a body: proof that a request comes from a node or master of this cluster."""
    return hmac.digest(secret, b"body\n" + body, "sha256").hex()


def verify_body(secrets: bytes | Secrets, body: bytes, signature: str | None) -> None:
    """Raises `BadSignature` unless `signature` is what `sign_body` made of the body."""
    if signature is None:
        raise BadSignature("the request is not signed; only nodes of this cluster may make it")
    if not any(hmac.compare_digest(sign_body(secret, body).encode(), signature.encode()) for secret in _each(secrets)):
        raise BadSignature("the request is not signed by a node of this cluster, or was changed")


def sign_run(secret: bytes, job: int, attempt: int) -> str:
    """The token of a run: by it, the master knows for whom the run acts. It is worth nothing when the run is over."""
    return f"{RUN}{job}_{attempt}_{_run_digest(secret, job, attempt)}"


def run_of(secrets: bytes | Secrets, token: str) -> tuple[int, int] | None:
    """Job and attempt of the run with this token; None for what is none."""
    match = _RUN.fullmatch(token)
    if match is None:
        return None
    job, attempt, given = int(match[1]), int(match[2]), match[3]
    good = any(hmac.compare_digest(_run_digest(secret, job, attempt), given) for secret in _each(secrets))
    return (job, attempt) if good else None


def sign_unnamed_run(secret: bytes, run: str, begun: int) -> str:
    """The token of a run whose job was published by hand: its node knows no id of the job when the run begins.

    `begun`: when that is, in seconds since the epoch.
    """
    return f"{RUN}{run}_{begun}_{_run_digest(secret, run, begun)}"


def unnamed_run_of(secrets: bytes | Secrets, token: str) -> tuple[str, int] | None:
    """The run with such a token, and when it began; None for what is none."""
    match = _UNNAMED_RUN.fullmatch(token)
    if match is None:
        return None
    run, begun, given = match[1], int(match[2]), match[3]
    good = any(hmac.compare_digest(_run_digest(secret, run, begun), given) for secret in _each(secrets))
    return (run, begun) if good else None


def sign_caller(secret: bytes, name: str, until: int) -> str:
    """The token that an extension acts with for who called it: for the token `name`, until a time."""
    return f"{CALLER}{until}_{name}_{_run_digest(secret, 'caller', until, name)}"


def caller_of(secrets: bytes | Secrets, token: str, now: float) -> str | None:
    """The name of the token that an extension acts for at `now`; None for what is no such token, or not any more."""
    match = _CALLER.fullmatch(token)
    if match is None or int(match[1]) < now:
        return None
    until, name, given = int(match[1]), match[2], match[3]
    digests = (_run_digest(secret, "caller", until, name) for secret in _each(secrets))
    return name if any(hmac.compare_digest(digest, given) for digest in digests) else None


def _run_digest(secret: bytes, *run: object) -> str:
    text = "\n".join(map(str, ("run", *run)))
    return hmac.digest(secret, text.encode(), "sha256").hex()[:_RUN_DIGITS]


def _each(secrets: bytes | Secrets) -> Secrets:
    return (secrets,) if isinstance(secrets, bytes) else secrets


def _url_digest(secret: bytes, method: str, key: str, query: str) -> str:
    # Neither a method nor a key nor a query can have a newline.
    return hmac.digest(secret, f"url\n{method}\n{key}\n{query}".encode(), "sha256").hex()[:_HEX_DIGITS]


def _query(parameters: Iterable[tuple[str, str]]) -> str:
    return "&".join([f"{_quoted(name)}={_quoted(value)}" for name, value in parameters])


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else quote(value, ":,")
