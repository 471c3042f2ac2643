"""What of a value is shown on the page of its key. Pure functions.

Text, JSON and CSV become text in the page, whatever they contain. Pictures, sound, films and PDF are elements that get
the value by its address, when its type is one of those that can do nothing else.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
import zlib
from enum import StrEnum
from typing import NamedTuple

SHOWN_BYTES = 65_536  # of a text
_SHOWN_CHARACTERS = 200_000  # of JSON with its lines broken
_ROWS, _COLUMNS, _CELL = 100, 30, 200
_PICTURES = ("apng", "avif", "bmp", "gif", "jpeg", "png", "svg+xml", "webp", "x-icon", "vnd.microsoft.icon")
_MEDIA = re.compile(r"(?:audio|video)/[a-z0-9][\w.-]*", re.ASCII)
_TEXTS = re.compile(
    r"text/.*|application/(?:json|xml|yaml|x-yaml|toml|javascript|x-sh|sql|x-ndjson|jsonl|x-tex|.*\+(?:json|xml))"
)
_UNKNOWN = ("application/octet-stream", "")
_CHARSETS = re.compile(
    r"latin-?1|iso-8859-\d{1,2}|windows-125\d|cp\d{3,4}|utf-16(?:[lb]e)?|koi8-[ru]|shift_jis|gb18030|big5"
)
_NO_TEXT = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


class Kind(StrEnum):
    """How a value is shown."""

    TEXT = "text"
    JSON = "json"  # with its lines broken
    CSV = "csv"  # as a table
    PICTURE = "picture"
    SOUND = "sound"
    FILM = "film"
    PDF = "pdf"
    NONE = "none"


class Preview(NamedTuple):
    """What is shown."""

    kind: Kind
    text: str = ""
    table: tuple[list[str], ...] = ()
    cut: bool = False  # there is more of it
    note: str = ""  # why there is nothing


def embedded(content_type: str) -> Kind:
    """How an element shows a value of this type; `NONE` when no element does, or it could do more than show it."""
    essence = content_type.partition(";")[0].strip().lower()
    main, _, sub = essence.partition("/")
    if main == "image" and sub in _PICTURES:
        return Kind.PICTURE
    if essence == "application/pdf":
        return Kind.PDF
    if _MEDIA.fullmatch(essence):
        return Kind.SOUND if main == "audio" else Kind.FILM
    return Kind.NONE


def wants_text(content_type: str) -> bool:
    """Whether the beginning of a value of this type is worth a look."""
    essence = content_type.partition(";")[0].strip().lower()
    return essence in _UNKNOWN or _TEXTS.fullmatch(essence) is not None


def of_text(content_type: str, encoding: str, beginning: bytes, size: int) -> Preview:
    """What the beginning of a value of `size` bytes shows, if it is text."""
    cut = len(beginning) < size
    if encoding:
        if encoding.lower() not in ("gzip", "x-gzip"):
            return Preview(Kind.NONE, note=f"It is encoded as {encoding}.")
        try:
            unpacking = zlib.decompressobj(31)
            beginning = unpacking.decompress(beginning, SHOWN_BYTES)
        except zlib.error:
            return Preview(Kind.NONE, note="It is said to be encoded as gzip, and is not.")
        cut = not unpacking.eof
    essence, _, parameters = content_type.partition(";")
    essence = essence.strip().lower()
    text = _decoded(beginning, parameters)
    if essence in _UNKNOWN and (text is None or _NO_TEXT.search(text)):
        return Preview(Kind.NONE)
    if text is None:
        text = beginning.decode("utf-8", "replace")
    if (essence == "application/json" or essence.endswith("+json")) and not cut:
        return _json(text)
    if essence in ("text/csv", "text/tab-separated-values"):
        return _csv(text, cut)
    return Preview(Kind.TEXT, text, cut=cut)


def _decoded(beginning: bytes, parameters: str) -> str | None:
    """The text in its encoding, UTF-8 unless it is given; None when it is in another one."""
    match = re.search(r"charset\s*=\s*\"?([\w.:-]{1,40})", parameters, re.ASCII | re.IGNORECASE)
    name = match[1].lower() if match else ""
    # Python knows others by name that unpack, and of which a few bytes make much.
    charset = name if _CHARSETS.fullmatch(name) else "utf-8-sig"
    try:
        return codecs.getincrementaldecoder(charset)().decode(beginning)  # its last character may be cut
    except (LookupError, UnicodeError):
        return None  # the caller shows what can be read of it


def _json(text: str) -> Preview:
    try:
        value = json.loads(text)
        pieces, length = [], 0
        for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
            pieces.append(piece)
            length += len(piece)
            if length > _SHOWN_CHARACTERS:  # a few brackets can make much of it
                return Preview(Kind.TEXT, text)
        return Preview(Kind.JSON, "".join(pieces))
    except (ValueError, RecursionError):
        return Preview(Kind.TEXT, text)


def _csv(text: str, cut: bool) -> Preview:
    first = text.partition("\n")[0]
    delimiter = max(",;\t|", key=first.count)
    rows: list[list[str]] = []
    try:
        for row in csv.reader(text.splitlines(), delimiter=delimiter):
            if len(rows) == _ROWS:
                return Preview(Kind.CSV, table=tuple(rows), cut=True)
            if row:
                rows.append([cell if len(cell) <= _CELL else cell[:_CELL] + "…" for cell in row[:_COLUMNS]])
    except csv.Error:
        return Preview(Kind.TEXT, text, cut=cut)
    if cut and len(rows) > 1:
        rows.pop()  # its end may be missing
    return Preview(Kind.CSV, table=tuple(rows), cut=cut) if rows else Preview(Kind.TEXT, text, cut=cut)
