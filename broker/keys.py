"""The rules of a key, and its encoding in the index and on disk.

A key is a path of printable ASCII, `folder/sub/name.ext`, of up to 383 bytes. It is kept as base64 with an alphabet in
ASCII order. So encoded keys sort as the keys do, and all keys under a prefix are one range. 383 bytes make 511
characters, the longest key that LMDB takes.
"""

from __future__ import annotations

import base64
import binascii
import re

from broker.errors import InvalidKey

MAX_BYTES = 383

_STANDARD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_ORDERED = bytes(sorted(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"))
_TO_ORDERED = bytes.maketrans(_STANDARD, _ORDERED)
TO_STANDARD = bytes.maketrans(_ORDERED, _STANDARD)  # from encoded keys to plain base64, for `bytes.translate`

# No empty segment, no "." or "..", printable ASCII only.
PATTERN = r"(?!\.{1,2}(?:/|$))[ -.0-~]+(?:/(?!\.{1,2}(?:/|$))[ -.0-~]+)*"
_GOOD = re.compile(PATTERN)

_GOOD_BYTES = re.compile(_GOOD.pattern.encode())

_SYSTEM = re.compile(r"jobs/[0-9]+/")


def check(key: str) -> str:
    """The key without its leading slash; raises `InvalidKey` with the reason when it breaks a rule."""
    if key[:1] == "/":
        key = key[1:]
    if len(key) <= MAX_BYTES and _GOOD.fullmatch(key):
        return key
    raise InvalidKey(_reason(key))


def is_system_name(key: str) -> bool:
    """Whether only nodes write this key: the log or output of a job, `jobs/<id>/…`."""
    return _SYSTEM.match(key) is not None


def beginning(text: str) -> str:
    """A prefix, or a key to go on from, without the leading slash, as `check` gives keys."""
    return text.removeprefix("/")


def encode(key: str) -> bytes:
    """The encoded key: base64 without padding, with an alphabet in ASCII order."""
    return base64.b64encode(key.encode("ascii")).rstrip(b"=").translate(_TO_ORDERED)


def decode(encoded: bytes) -> str:
    """The key that `encode` was given; raises `InvalidKey` for any other bytes."""
    try:
        raw = base64.b64decode(encoded.translate(TO_STANDARD) + b"=" * (-len(encoded) % 4), validate=True)
        return raw.decode("ascii")
    except ValueError as error:
        raise InvalidKey(f"{encoded!r} is no encoded key") from error


def check_encoded(encoded: bytes) -> None:
    """Raises `InvalidKey` for bytes that are no encoded key, or that of a key which breaks a rule.

    As `check(decode(encoded))`, in half the time: the controller does this with each of millions of records.
    """
    try:
        raw = binascii.a2b_base64(encoded.translate(TO_STANDARD) + _PADDING[len(encoded) & 3], strict_mode=True)
    except ValueError:
        raw = b""
    if len(raw) > MAX_BYTES or not _GOOD_BYTES.fullmatch(raw):
        check(decode(encoded))


_PADDING = (b"", b"===", b"==", b"=")  # by the length of the encoded key, modulo 4


def plain(encoded: bytes) -> bytes:
    """The bytes of the key that `encode` was given; raises `InvalidKey` for what is no base64."""
    try:
        return binascii.a2b_base64(encoded.translate(TO_STANDARD) + b"=" * (-len(encoded) % 4), strict_mode=True)
    except ValueError as error:
        raise InvalidKey(f"{encoded!r} is no encoded key") from error


def _reason(key: str) -> str:
    if not key:
        return "the key is empty; a key is a path like folder/name.ext"
    if not key.isascii():
        bad = next(character for character in key if ord(character) > 126)
        return f"the key has the character {bad!r}; only ASCII can be used"
    if any(ord(character) < 32 or ord(character) == 127 for character in key):
        return f"the key {_shown(key)} has a control character"
    if len(key) > MAX_BYTES:
        return f"the key has {len(key)} bytes; {MAX_BYTES} is the limit"
    segments = key.split("/")
    if "" in segments:
        return f"the key {_shown(key)} has an empty segment; use single slashes between names, none at the end"
    return f"the key {_shown(key)} has a segment . or .., which keys can't have"


def _shown(key: str) -> str:
    return repr(key if len(key) <= 100 else key[:97] + "...")
