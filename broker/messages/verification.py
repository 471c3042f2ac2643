"""What a node says of its values when they are verified."""

from __future__ import annotations

from typing import NamedTuple


class NodeValue(NamedTuple):
    """A value that the node has, as its `GET /internal/verify` says. Times in ms since the epoch."""

    key: str
    version: int
    seq: int  # in the log
    size: int
    expires: int  # 0: never
    digest: str  # SHA-256 in hexadecimal, "" when it was not read
    fault: str  # "" when the value is good, or was not read
