"""One word for what has become of a request: from what the client told its user and from what is stored."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

BROKEN = re.compile(
    r"broken ?pipe|EPIPE|ECONNRESET|\breset\b|shut ?down|aborted|closed|hung up|failed to fetch"
    r"|network ?error|error writing|writing to server|send failure|failed writing|connection.{0,20}(lost|ended)",
    re.IGNORECASE,
)


class Seen(NamedTuple):
    """What the user of a client sees in the end."""

    status: int | None  # of the last answer; None if there was none
    said: str
    hangs: bool = False
    done: bool = False  # it has checked by itself what it read


def digest(value: bytes | None) -> str:
    """SHA-256 in hexadecimal, or nothing of nothing."""
    return "" if value is None else hashlib.sha256(value).hexdigest()


def of_put(seen: Seen, sent: bytes, before: bytes | None, stored: bytes | None) -> str:
    """The word for a PUT; `before` is the key's value before it, and `stored` the one after it."""
    if before is not None and digest(stored) == digest(before):
        return _told(seen)
    if stored is None:
        return _told(seen)
    if digest(stored) != digest(sent):
        if not stored:
            return "empty"
        return "tail" if sent.endswith(stored) else "wrong"
    if seen.status is not None and 200 <= seen.status < 300 and not seen.hangs:
        return "ok"
    return _told(seen)  # stored, and the user does not know


def of_get(seen: Seen, value: bytes, read: bytes | None) -> str:
    """The word for a GET of the value."""
    if seen.done or (not seen.hangs and digest(read) == digest(value)):
        return "ok"
    if seen.hangs or seen.status is None or seen.status >= 300:
        return _told(seen)
    if not read:
        return "empty"
    return "tail" if value.endswith(read) else "wrong"


def of_head(seen: Seen, size: int) -> str:
    """The word for a HEAD of a value of so many bytes."""
    if seen.status == 200 and re.search(rf"\b{size}\b", seen.said):
        return "ok"
    return "empty" if seen.status == 200 else _told(seen)


def of_again(seen: Seen, value: bytes, read: bytes, stored: bytes | None) -> str:
    """The word for a PUT that was refused, and a GET after it. `read` must be the value, which is still stored."""
    if digest(stored) != digest(value):
        return "wrong"
    if seen.status != 200 or seen.hangs:
        return _told(seen)
    return "ok" if "409" in seen.said and digest(read) == digest(value) else "wrong"


def _told(seen: Seen) -> str:
    """Of a request that has changed nothing, or whose user thinks so."""
    if seen.hangs:
        return "hangs"
    if seen.status is not None:
        return "lost" if 200 <= seen.status < 300 else str(seen.status)
    return "EPIPE" if BROKEN.search(seen.said) else "error"
