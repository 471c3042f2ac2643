"""What a signed address of a node says, and so lets its holder do. No header of a request widens it.

url        the master's host:port: where uploads are committed, and where to ask for another address
life       lifetime of the value, in ms
overwrite  the upload may replace a value
if_match   it may replace the one that this If-Match holds for
size       Content-Length of the upload; another one is refused
"""

from __future__ import annotations

from collections.abc import Mapping

from broker.refusals import BadRequest


def upload(master: str, lifetime_ms: int, overwrite: bool, length: int | None, if_match: str | None) -> dict[str, str]:
    """The parameters of an address to PUT a value at; `length` is None when any is fine."""
    fields = {"url": master}
    if lifetime_ms:
        fields["life"] = str(lifetime_ms)
    if overwrite:
        fields["overwrite"] = "1"
    if if_match is not None:
        fields["if_match"] = if_match
    if length is not None:
        fields["size"] = str(length)
    return fields


def replaces(signed: Mapping[str, str]) -> bool:
    """Whether an upload with these parameters may replace a value."""
    return "overwrite" in signed or "if_match" in signed


def check_length(signed: Mapping[str, str], length: int | None) -> None:
    """Raises `BadRequest` when a body of `length` bytes (None: not known yet) is not the one the address was given for."""
    size = signed.get("size")
    if size is not None and length is not None and size != str(length):
        raise BadRequest(
            f"the body has {length} bytes, and this address is for one of {size} bytes; nothing was stored. "
            "Ask the master again, with the body that is to be stored"
        )
