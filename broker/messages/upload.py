"""An upload: what its signed address permits, and the commit by which its node gives it to the master.

A value that is too large for the master goes to a node, at an address that the master has signed (`UploadPermit`). When
the node has all of it, the node asks the master to store it (`UploadCommit`): `POST PATH key ? the signed query`,
with the commit as JSON and an HMAC of that in `SIGNATURE`. The master's response is the client's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, Self

from broker import MOST_REPLICAS, integers
from broker.clock import DAY_MS
from broker.errors import MalformedMessage
from broker.http import signing
from broker.messages import checks
from broker.messages.store import DIGEST_BYTES
from broker.refusals import BadRequest

PATH = "/internal/commit/"  # of a commit; the key follows
SIGNATURE = "X-Pulzar-Signature"  # the header with the HMAC of the commit
MAX_BYTES = 65_536  # of a commit
MAX_LIFETIME_DAYS = 36_500
_FURTHER = "also"  # the parameter of a signed address with further nodes


class FurtherNode(NamedTuple):
    """A further node that is to have an upload: it gets the bytes while they come in."""

    node: str
    url: str  # http://host:port

    @classmethod
    def read(cls, text: str) -> Self:
        """What `text` was made of; raises `ValueError`."""
        node, found, url = text.partition("@")
        if not found:
            raise ValueError(f"{text[:80]!r} is no node with its address")
        return cls(checks.node(node), url)

    def text(self) -> str:
        """What stands in a signed address."""
        return f"{self.node}@{self.url}"


class StagedCopy(NamedTuple):
    """A further node that has an upload, durable."""

    node: str
    staged: str  # the name of the upload there


class UploadPermit(NamedTuple):
    """What a signed address lets its holder do; no header of a request widens it."""

    master: str  # host:port: where the upload is committed, and where to ask for another address
    lifetime_ms: int = 0  # of the value; 0: for ever
    overwrite: bool = False  # a value may be replaced
    length: int | None = None  # of the body in bytes; None: any
    if_match: str | None = None  # the value that this If-Match holds for may be replaced
    by: str = ""  # the name of the token that it was made for
    node: str = ""  # that takes the body
    replicas: int = 0  # on so many nodes it is to be stored; 0: on as many as the settings say
    further: tuple[FurtherNode, ...] = ()  # further nodes that are to have it
    page: str = ""  # the origin whose pages may use the address: that of the master's own page

    @classmethod
    def read(cls, fields: Mapping[str, str]) -> UploadPermit:
        """The permit in the parameters of a signed address; raises `BadRequest`."""
        size = fields.get("size")
        try:
            return cls(
                master=fields.get(signing.MASTER, ""),
                lifetime_ms=integers.parse(fields.get("life", "0"), 0, MAX_LIFETIME_DAYS * DAY_MS),
                overwrite="overwrite" in fields,
                length=None if size is None else integers.parse(size),
                if_match=fields.get("if_match"),
                by=fields.get(signing.BY, ""),
                node=fields.get(signing.NODE, ""),
                replicas=integers.parse(fields.get("replicas", "0"), 0, MOST_REPLICAS),
                further=tuple(map(FurtherNode.read, fields.get(_FURTHER, "").split())),
                page=fields.get(signing.PAGE, ""),
            )
        except ValueError as error:
            raise BadRequest(f"the signed address can't be read: {error}; ask the master for another") from error

    def fields(self) -> dict[str, str]:
        """The parameters of a signed address; what is not said is left out."""
        given = {
            signing.MASTER: self.master,
            "life": self.lifetime_ms or None,
            "overwrite": "1" if self.overwrite else None,
            "if_match": self.if_match,
            "size": self.length,
            "replicas": self.replicas or None,
            _FURTHER: " ".join(other.text() for other in self.further) or None,
            signing.BY: self.by or None,
            signing.NODE: self.node or None,
            signing.PAGE: self.page or None,
        }
        return {name: str(value) for name, value in given.items() if value is not None}

    @property
    def replaces(self) -> bool:
        """Whether the upload may replace a value."""
        return self.overwrite or self.if_match is not None

    def check_length(self, length: int | None) -> None:
        """Raises `BadRequest` when a body of `length` bytes (None: not known yet) is not the one that is permitted."""
        if self.length is not None and length is not None and self.length != length:
            raise BadRequest(
                f"the body has {length} bytes, and this address is for one of {self.length} bytes; nothing was stored. "
                "Ask the master again, with the body that is to be stored"
            )


class UploadCommit(NamedTuple):
    """An upload that a node has, complete and durable, to be stored as the value of its key."""

    node: str
    staged: str  # the name of the upload on its node
    size: int  # bytes
    digest: bytes  # SHA-256
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    if_match: str | None  # conditions that the client gave to the node, as it gave them
    if_none_match: str | None
    if_unmodified_since: str | None
    copies: tuple[StagedCopy, ...] = ()  # further nodes that have it

    def encode(self) -> bytes:
        """The commit as JSON."""
        fields = self._asdict() | {"digest": self.digest.hex()}
        if not self.copies:
            del fields["copies"]  # a master of before takes no other fields than it knows
        return json.dumps(fields).encode("ascii")

    @classmethod
    def decode(cls, body: bytes) -> UploadCommit:
        """The commit that `encode` was given, checked; raises `MalformedMessage`."""
        try:
            fields = json.loads(body.decode("ascii"))
            if not isinstance(fields, dict) or fields.keys() | {"copies"} != set(cls._fields):
                raise ValueError(f"expected an object with {', '.join(cls._fields)}")
            staged = checks.text(fields["staged"])
            checks.token(staged)
            digest = bytes.fromhex(checks.text(fields["digest"]))
            if len(digest) != DIGEST_BYTES:
                raise ValueError(f"a digest has {DIGEST_BYTES} bytes, received {len(digest)}")
            return cls(
                node=checks.node(fields["node"]),
                staged=staged,
                size=checks.number(fields["size"]),
                digest=digest,
                content_type=checks.text(fields["content_type"]),
                if_match=_header(fields["if_match"]),
                if_none_match=_header(fields["if_none_match"]),
                if_unmodified_since=_header(fields["if_unmodified_since"]),
                copies=tuple(map(_copy, checks.items(fields.get("copies", [])))),
            )
        except (TypeError, ValueError, RecursionError) as error:
            raise MalformedMessage(f"bad commit of an upload: {error}") from error


def _copy(fields: object) -> StagedCopy:
    node, staged = checks.items(fields)
    checks.token(checks.text(staged))
    return StagedCopy(checks.node(node), checks.text(staged))


def _header(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"expected the text of a header, received {integers.short(value)}")
    return value
