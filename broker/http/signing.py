"""Signed URLs: proof for a node that the master has sent a client to it.

A signed query is `name=value&…&until=SECONDS&signature=HEX`. The HMAC-SHA256 covers the method, the key, every
parameter and the end of its life; the signature is the last parameter and nothing may follow it. Each parameter
is there once. They can be read by anyone and never hold a secret; `broker.messages.upload` says what
those of an upload mean.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote

from broker.errors import BadSignature, Expired

MASTER = "url"  # the parameter with the master's host:port
_SIGNATURE = "&signature="
_HEX_DIGITS = 32  # 128 bits of the HMAC
_SECONDS = re.compile(r"[0-9]{1,18}")
_PLAIN = re.compile(r"[\w.~:,-]*", re.ASCII)


def sign(secret: bytes, method: str, key: str, parameters: Mapping[str, str], until: int) -> str:
    """A signed query; `until`, in seconds since the epoch, is when it expires."""
    query = _query([*parameters.items(), ("until", str(until))])
    return query + _SIGNATURE + _url_digest(secret, method, key, query)


def verify(secret: bytes, method: str, key: str, query: str, now: float) -> dict[str, str]:
    """The parameters of a signed query; raises `BadSignature` with the reason, `Expired` when it is too old at `now`.

    One for an upload has `MASTER`.
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
    if not hmac.compare_digest(_url_digest(secret, method, key, query).encode(), signature.encode()):
        raise BadSignature("the URL was changed, or signed by another cluster's master")
    parameters = dict(given)
    if len(parameters) < len(given):
        raise BadSignature("the URL has one of its parameters twice; ask the master for another")
    until = parameters.pop("until", "")
    if not _SECONDS.fullmatch(until):
        raise BadSignature("the URL does not say until when it is good; ask the master for another")
    if method == "PUT" and not parameters.get(MASTER):
        raise BadSignature("the URL does not say which master sent it here; ask the master for another")
    if int(until) < now:
        raise Expired(f"the URL expired {now - int(until):.0f} s ago; ask the master again", parameters)
    return parameters


def sign_body(secret: bytes, body: bytes) -> str:
    """The HMAC of a body: proof that a request comes from a node or master of this cluster."""
    return hmac.digest(secret, b"body\n" + body, "sha256").hex()


def verify_body(secret: bytes, body: bytes, signature: str | None) -> None:
    """Raises `BadSignature` unless `signature` is what `sign_body` made of the body."""
    if signature is None:
        raise BadSignature("the request is not signed; only nodes of this cluster may make it")
    if not hmac.compare_digest(sign_body(secret, body).encode(), signature.encode()):
        raise BadSignature("the request is not signed by a node of this cluster, or was changed")


def _url_digest(secret: bytes, method: str, key: str, query: str) -> str:
    # Neither a method nor a key nor a query can have a newline.
    return hmac.digest(secret, f"url\n{method}\n{key}\n{query}".encode(), "sha256").hex()[:_HEX_DIGITS]


def _query(parameters: Iterable[tuple[str, str]]) -> str:
    return "&".join([f"{_quoted(name)}={_quoted(value)}" for name, value in parameters])


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else quote(value, ":,")
