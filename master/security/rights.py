"""Rights: what a token allows. `read:reports/` is one; a token has some."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

# With a beginning of keys; an empty one is that of all keys.
ON_KEYS = ("read", "write", "delete")
# With a name, in which `*` stands for any text.
ON_NAMES = ("launch", "extension")
# For a part of the administration; `admin` has all of them.
PARTS = ("jobs", "metrics", "backup")
ADMIN = "admin"
KINDS = (*ON_KEYS, *ON_NAMES, *PARTS, ADMIN)
# How people write one, see `Right.make`.
PATTERN = (
    rf"(?:{'|'.join((*PARTS, ADMIN))})|(?:{'|'.join(ON_KEYS)}):(?:(?!/)[ -~]*[ -)+-~])?|(?:{'|'.join(ON_NAMES)}):[ -~]+"
)
ALL_RIGHTS = "read: write: delete: launch:* extension:* admin"  # as the file of tokens has them

_SAFE = "/-._~!$&'()*+,;=:@"


class Right(NamedTuple):
    """One right, or what one request asks for."""

    kind: str  # one of `KINDS`
    name: str = ""  # a beginning of keys, a script or an extension

    def __str__(self) -> str:
        """As in the file of tokens: what would end a word there is percent-encoded."""
        return self.kind if self.kind in (*PARTS, ADMIN) else f"{self.kind}:{quote(self.name, _SAFE)}"

    @classmethod
    def parse(cls, text: str) -> Right:
        """The right that `str` made, raises `ValueError` with what is needed."""
        kind, colon, name = text.partition(":")
        return cls.make(kind, unquote(name, errors="strict") if colon else None)

    @classmethod
    def make(cls, kind: str, name: str | None) -> Right:
        """A right, checked; raises `ValueError` with what is needed."""
        if kind not in KINDS:
            raise ValueError(f"{kind[:40]!r} is no right; those are {', '.join(KINDS)}")
        if kind in (*PARTS, ADMIN):
            if name is not None:
                raise ValueError(f"{kind} stands alone, without :{name[:40]}")
            return cls(kind)
        if name is None:
            raise ValueError(f"{kind} needs a colon and {_NEEDED[kind]}")
        if not name.isascii() or not name.isprintable():
            raise ValueError(f"{kind}:{name[:40]!r}: only printable ASCII can be in it")
        if kind in ON_KEYS and name.endswith("*"):
            raise ValueError(f"{kind}:{name[:40]}: a beginning of keys needs no *; {kind}: alone means all keys")
        if kind in ON_KEYS and name.startswith("/"):
            raise ValueError(f"{kind}:{name[:40]}: keys have no leading slash")
        if kind in ON_NAMES and not name:
            raise ValueError(f"{kind}: needs {_NEEDED[kind]}")
        return cls(kind, name)


_NEEDED = {
    **dict.fromkeys(ON_KEYS, "a beginning of keys, like read:reports/; a colon alone means all keys"),
    "launch": "a script, like launch:reports/daily, launch:reports/* or launch:*",
    "extension": "a name, like extension:search or extension:*",
}


class Rights:
    """The rights of one token."""

    def __init__(self, rights: Iterable[Right]) -> None:
        self.all = tuple(rights)
        self._kinds = {right.kind for right in self.all}
        if ADMIN in self._kinds:
            self._kinds.update(PARTS)
        self._beginnings = {kind: tuple(right.name for right in self.all if right.kind == kind) for kind in ON_KEYS}
        self._patterns = {
            kind: tuple(_pattern(right.name) for right in self.all if right.kind == kind) for kind in ON_NAMES
        }

    def allow(self, asked: Right) -> bool:
        """Whether they allow what is asked for. For a beginning of keys: for all keys that begin so."""
        kind, name = asked
        if kind in ON_KEYS:
            return name.startswith(self._beginnings[kind])
        if kind in ON_NAMES:
            return any(pattern.fullmatch(name) for pattern in self._patterns[kind])
        return kind in self._kinds

    def on_key(self, kind: str, key: str) -> bool:
        """The same for one key; `kind` is one of `ON_KEYS`. Every request for a key asks."""
        return key.startswith(self._beginnings[kind])


@lru_cache(maxsize=256)
def parse(text: str) -> Rights:
    """Rights from a text with blanks between them; raises `ValueError`."""
    return Rights(map(Right.parse, text.split()))


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part) for part in name.split("*")), re.DOTALL)
