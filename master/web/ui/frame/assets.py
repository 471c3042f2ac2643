"""Styles and scripts of the web page: read once, sent compressed, kept by browsers for good.

The address of an asset has a part of its digest, so another version has another address.
"""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import NamedTuple

from broker.http.environ import Environ

FOLDER = Path(__file__).parents[1] / "static"
FOR_GOOD = "public, max-age=31536000, immutable"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_SHOWN_DIGITS = 8


class Vendored(NamedTuple):
    """An asset that others have made. A test compares the file with the digest."""

    source: str  # package of npm and its version
    licence: str  # SPDX
    sha256: str


VENDORED = {
    "htmx-2.0.11.min.js": Vendored(
        "htmx.org 2.0.11", "0BSD", "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717"
    ),
    "pico-2.1.1.min.css": Vendored(
        "@picocss/pico 2.1.1", "MIT", "fbc9a63fc9fc9f72d12fd7fc9806e11fa9f77ae4f9cad146b27003a1119ba3db"
    ),
}


class Asset(NamedTuple):
    """A file as it is sent."""

    content: bytes
    compressed: bytes
    media_type: str
    version: str


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    version = hashlib.sha256(content).hexdigest()[:_SHOWN_DIGITS]
    return Asset(content, gzip.compress(content, 9, mtime=0), _TYPES[path.suffix], version)


ASSETS = {path.name: _read(path) for path in sorted(FOLDER.iterdir()) if path.suffix in _TYPES}


def address(name: str) -> str:
    """The address of an asset below the web page's root; raises `KeyError`."""
    return f"static/{name}?{ASSETS[name].version}"


def takes_gzip(environ: Environ) -> bool:
    """Whether a client takes compressed responses."""
    given = environ.get("HTTP_ACCEPT_ENCODING", "").lower().replace(" ", "").split(",")
    return any(name in given for name in ("gzip", "*")) or any(
        part.startswith("gzip;q=") and part not in ("gzip;q=0", "gzip;q=0.0") for part in given
    )
