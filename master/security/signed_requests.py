"""Requests to the master whose address itself says that they may be made: links, and what nodes have signed.

A link is made by `POST /sign` for somebody without a token. It has the name of the token that it was made with, and is
good as long as that token is and has the right. No header of a request widens it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from broker import integers, keys
from broker.errors import BadSignature, Expired
from broker.http import request_fields, signing
from broker.http.environ import Environ
from broker.http.signing import Secrets
from broker.refusals import BadRequest, Forbidden, LengthRequired, TooLarge
from master.security.gate import LINK_END, NAME
from master.security.rights import Right
from master.security.tokens import TokenFile

READ, WRITE, ARCHIVE = "/get_key/", "/add_key/", "/archive/"
MAX_BYTES = "max_bytes"  # the parameter with the largest body of an upload
OF_ARCHIVE = "ARCHIVE"  # in place of the method, for all values below a prefix
_UNTIL = "until"
_KINDS = {(READ, "GET"): ("GET", "read"), (READ, "HEAD"): ("GET", "read"), (WRITE, "PUT"): ("PUT", "write")}
# Another method than that of a key: a beginning of keys may be called like one of them.
_KINDS |= {(ARCHIVE, "GET"): (OF_ARCHIVE, "read"), (ARCHIVE, "HEAD"): (OF_ARCHIVE, "read")}


def sign(secret: bytes, method: str, key: str, parameters: Mapping[str, str], until: int) -> str:
    """The query of a link for GET, PUT or `OF_ARCHIVE`.

    An address at a node is signed otherwise, so neither stands for the other.
    """
    return signing.sign(secret, f"LINK {method}", key, parameters, until)


class SignedRequests:
    """Looks at signed addresses. Used on the thread of the tokens."""

    def __init__(self, secrets: Secrets, tokens: TokenFile | None) -> None:
        self._secrets = secrets
        self._tokens = tokens

    def verify(self, environ: Environ) -> Mapping[str, str] | None:
        """What an address says of its request, see `gate.Verify`. Raises `BadSignature`, `InvalidKey` or `Refused`."""
        path = environ["PATH_INFO"]
        prefix = path[: path.find("/", 1) + 1]
        if (prefix, environ["REQUEST_METHOD"]) not in _KINDS:
            return None
        method, kind = _KINDS[prefix, environ["REQUEST_METHOD"]]
        key = keys.beginning(path[len(prefix) :]) if prefix == ARCHIVE else request_fields.key_of(environ, prefix)
        query = environ["QUERY_STRING"]
        now = time.time()
        if method == "GET":
            try:  # nodes read so what jobs work on; they have no token
                fields = signing.verify(self._secrets, method, key, query, now, node=signing.AT_MASTER)
                return {NAME: fields.get(signing.BY, "")}
            except Expired:
                raise
            except BadSignature:  # then it may be a link
                pass
        fields = signing.verify(self._secrets, f"LINK {method}", key, query, now)
        name = fields.get(signing.BY, "")
        self._check_maker(name, Right(kind, key), now)
        if method == "PUT":
            _check_upload(environ, fields)
        return {NAME: name, LINK_END: f"&{query}".rpartition(f"&{_UNTIL}=")[2].partition("&")[0]}

    def _check_maker(self, name: str, right: Right, now: float) -> None:
        """Raises `BadSignature` when the token that a link was made with could not make it now."""
        if self._tokens is None:
            return
        token = self._tokens.named(name)
        if token is None or now >= token.ends or not token.rights.allow(right):
            raise BadSignature(f"the link was made with the token {name!r}, which has no such right any more")


def _check_upload(environ: Environ, fields: Mapping[str, str]) -> None:
    """Raises `Refused` for an upload that a link does not permit."""
    if "HTTP_IF_MATCH" in environ and "overwrite" not in fields:
        raise Forbidden("the link permits no other value in place of one that is there, so If-Match is not possible")
    if MAX_BYTES not in fields:
        return
    try:
        most = integers.parse(fields[MAX_BYTES])
    except ValueError as error:
        raise BadRequest(f"the link can't be read: {error}; ask for another") from error
    length = request_fields.content_length(environ)
    if length is None:
        raise LengthRequired(f"the link is for up to {most} bytes, so the body needs a Content-Length")
    if length > most:
        raise TooLarge(f"the body has {length} bytes, and the link is for up to {most}; nothing was stored")
