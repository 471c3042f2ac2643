"""Checksums that a client gives for its body: Content-MD5 and X-Checksum-Sha256."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from broker.http.environ import Environ
from broker.refusals import BadRequest

MD5, SHA256 = "[A-Za-z0-9+/]{22}==", "[0-9A-Fa-f]{64}"  # how they are written
_SHA256 = re.compile(SHA256)


class BadChecksum(BadRequest):
    """Raised when a checksum is malformed, or differs from that of the body."""


class Checksums(NamedTuple):
    """The checksums of a request; None for one that it does not have."""

    md5: bytes | None
    sha256: bytes | None

    def compare(self, md5: bytes, sha256: bytes) -> None:
        """Raises `BadChecksum` when the digests of the body differ from the checksums."""
        if self.sha256 is not None and self.sha256 != sha256:
            raise BadChecksum(
                f"the body's SHA-256 is {sha256.hex()}, not what X-Checksum-Sha256 says; nothing was stored"
            )
        if self.md5 is not None and self.md5 != md5:
            shown = base64.b64encode(md5).decode("ascii")
            raise BadChecksum(f"the body's MD5 is {shown}, not what Content-MD5 says; nothing was stored")


def read(environ: Environ) -> Checksums:
    """The checksums in a request's headers; raises `BadChecksum` when one is malformed."""
    md5, sha256 = environ.get("HTTP_CONTENT_MD5"), environ.get("HTTP_X_CHECKSUM_SHA256")
    return Checksums(None if md5 is None else _md5(md5), None if sha256 is None else _sha256(sha256))


def _md5(given: str) -> bytes:
    try:
        raw = base64.b64decode(given.strip(), validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != 16:
        raise BadChecksum(f"Content-MD5 {given[:60]!r} is no MD5; give its 16 bytes in base64")
    return raw


def _sha256(given: str) -> bytes:
    if not _SHA256.fullmatch(given.strip()):
        raise BadChecksum(f"X-Checksum-Sha256 {given[:80]!r} is no SHA-256; give its 64 hexadecimal digits")
    return bytes.fromhex(given.strip())
