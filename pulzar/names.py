"""Names of files as keys and back, and patterns of keys. Pure functions.

Keys are printable ASCII. Any other byte of a file's name is written `%C3`, as in URLs. A `%` that would be read as such
a byte is written `%25`. So every name comes back as it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

_BYTE = re.compile(r"%(25|[01][0-9A-F]|7F|[89A-F][0-9A-F])")  # what `key_of` writes, and nothing else
_WILD = re.compile(r"[*?\[]")


def key_of(name: str) -> str:
    """The key for the name of a file, which may have slashes."""
    return ascii_key(_BYTE.sub(lambda found: f"%25{found[1]}", name))


def ascii_key(text: str) -> str:
    """The text with every character that no key has written as bytes: `ü` is `%C3%BC`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if " " <= each <= "~" else _bytes(each) for each in text)


def _bytes(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in os.fsencode(character))


def name_of(key: str) -> str:
    """The name of the file for a key."""
    if "%" not in key:
        return key
    return os.fsdecode(_BYTE.sub(lambda found: chr(int(found[1], 16)), key).encode("latin-1"))


def is_pattern(text: str) -> bool:
    """Whether a text has `*`, `?` or `[`."""
    return bool(_WILD.search(text))


def pattern(text: str) -> tuple[str, Callable[[str], bool]]:
    """The beginning that all keys of a pattern have, and what tells whether a key fits.

    `*` and `?` stand for characters but slashes, `**` for any, `[a-c]` for one of them, `[!a-c]` for one of the others.
    """
    found = _WILD.search(text)
    beginning = text[: found.start()] if found else text
    expression = re.compile(_expression(text))
    return beginning, lambda key: expression.fullmatch(key) is not None


def _expression(text: str) -> str:
    parts = []
    at = 0
    while at < len(text):
        end = text.find("]", at + 2) if text[at] == "[" else -1
        if text.startswith("**", at):
            parts.append(".*")
            at += 2
        elif end > 0:
            inside = text[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[").replace("^", "\\^")
            parts.append(f"[^/{inside[1:]}]" if inside[0] == "!" else f"[{inside}]")
            at = end + 1
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(text[at], re.escape(text[at])))
            at += 1
    return "".join(parts)
