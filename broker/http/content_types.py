"""The Content-Type of a value, and the Content-Encoding that it was sent with.

Messages, records and the index keep both in one text, the type first. A line feed stands between them, which no header
can have. Without an encoding the text is the type alone.

A third line says on how many nodes the value is to be. It is there only where the request asked for another number than
the settings have for its key. So logs, backups and the index know it without a field of their own.
"""

from __future__ import annotations

import mimetypes
import re
from functools import lru_cache

from broker.http.environ import Environ
from broker.refusals import BadRequest

DEFAULT_TYPE = "application/octet-stream"
MAX_TYPE, MAX_ENCODING = 200, 100  # characters

_BETWEEN = "\n"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What curl and HTML forms send when nobody has given a type.
_NOT_GIVEN = ("", "application/x-www-form-urlencoded")
_FORM = "multipart/form-data"


def pack(content_type: str, encoding: str) -> str:
    """Both as one text; "" stands for what was not given."""
    return f"{content_type}{_BETWEEN}{encoding}" if encoding else content_type


def unpack(packed: str) -> tuple[str, str]:
    """Content-Type and Content-Encoding that `pack` was given."""
    content_type, _, rest = packed.partition(_BETWEEN)
    return content_type, rest.partition(_BETWEEN)[0]


def replicas(packed: str) -> int:
    """On how many nodes the value is to be; 0: on as many as the settings say for its key."""
    _, _, number = packed.partition(_BETWEEN)[2].partition(_BETWEEN)
    return int(number) if number.isascii() and number.isdecimal() else 0


def with_replicas(packed: str, number: int) -> str:
    """The packed text of a value that is to be on `number` nodes; 0: on as many as the settings say."""
    content_type, encoding = unpack(packed)
    return _BETWEEN.join((content_type, encoding, str(number))) if number else pack(content_type, encoding)


def read(environ: Environ) -> str:
    """The packed text from the headers of a PUT. Raises `BadRequest` for headers of what can't be stored."""
    return _read(environ.get("CONTENT_TYPE", ""), environ.get("HTTP_CONTENT_ENCODING", ""))


@lru_cache(maxsize=1024)
def _read(content_type: str, encoding: str) -> str:
    return check(pack(content_type, encoding))


def check(packed: str) -> str:
    """A packed text, checked and without what has no meaning; raises `BadRequest`."""
    content_type, encoding = unpack(packed)
    return pack(_content_type(content_type.strip()), _encoding(encoding))


def _content_type(given: str) -> str:
    essence = given.partition(";")[0].strip().lower()
    if essence in _NOT_GIVEN:
        return ""
    if essence == _FORM:
        raise BadRequest(
            f"a body of {_FORM} was received, a form with the file in it; nothing was stored. "
            "Send the file itself: curl -T FILE instead of -F, in Python data=open(FILE, 'rb') instead of files="
        )
    if len(given) > MAX_TYPE or not given.isascii() or not given.isprintable():
        raise BadRequest(f"Content-Type is longer than {MAX_TYPE} characters or not printable ASCII")
    return given


def _encoding(given: str) -> str:
    codings = [coding for part in given.split(",") if (coding := part.strip(" \t"))]
    for coding in codings:
        if not _TOKEN.fullmatch(coding):
            raise BadRequest(
                f"Content-Encoding {given[:80]!r} was received; give the names of encodings, such as gzip, "
                "or leave it out"
            )
        if coding.lower() == "aws-chunked":
            raise BadRequest(
                "Content-Encoding aws-chunked was received: the body has checksums and signatures of S3 between "
                "its bytes; nothing was stored. Send the bytes themselves, without that encoding"
            )
    encoding = ", ".join(coding for coding in codings if coding.lower() != "identity")
    if len(encoding) > MAX_ENCODING:
        raise BadRequest(f"Content-Encoding is longer than {MAX_ENCODING} characters")
    return encoding


# The table that comes with Python, so that every machine guesses the same, and additions.
_TYPES = mimetypes.MimeTypes().types_map[True] | {
    ".7z": "application/x-7z-compressed",
    ".br": "application/x-brotli",
    ".bz2": "application/x-bzip2",
    ".conf": "text/plain",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".flac": "audio/flac",
    ".gz": "application/gzip",
    ".log": "text/plain",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".tgz": "application/gzip",
    ".toml": "application/toml",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zst": "application/zstd",
}
# Endings that a name has because of the encoding.
_ENDINGS = {"gzip": ".gz", "x-gzip": ".gz", "br": ".br", "zstd": ".zst"}


def type_of(key: str, packed: str) -> tuple[str, str]:
    """Content-Type and Content-Encoding of a value from its packed text; a type that was not given is guessed."""
    if packed and _BETWEEN not in packed:
        return packed, ""
    content_type, encoding = unpack(packed)
    if not content_type:
        # The type is that of the decoded value.
        content_type = guess_type(key.removesuffix(_ENDINGS.get(encoding.lower(), "")) if encoding else key)
    return content_type, encoding


def guess_type(key: str) -> str:
    """The Content-Type for the ending of a key's name."""
    name = key[key.rfind("/") + 1 :]
    dot = name.rfind(".")
    return _TYPES.get(name[dot:].lower(), DEFAULT_TYPE) if dot > 0 else DEFAULT_TYPE
