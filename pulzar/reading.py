"""Values on their way from the store. What breaks off goes on where it was, and the SHA-256 is compared at the end."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pulzar.errors import BadRequest, Changed, Damaged, PulzarError, ServerError, Unavailable
from pulzar.sending import Told, nobody
from pulzar.wire import addresses
from pulzar.wire.connection import CHUNK_BYTES, Broken, Response
from pulzar.wire.exchange import Ask, Exchange, tries

RESUMED_BYTES = 8 << 20  # a download of at least this size leaves its part, and goes on with it the next time
_TRIES = 5  # in a row without a byte
_SHA256 = re.compile(r'"([0-9a-f]{64})"')
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Value:
    """The value of a key, from a byte on. Read it once, as bytes or piece by piece, and close it.

    `size` is that of the whole value in bytes, `digest` its SHA-256 in hex.
    """

    def __init__(self, exchange: Exchange, key: str, start: int = 0, etag: str = "") -> None:
        """Ask for the value; raises `PulzarError`. With an `etag`, raises `Changed` for another value."""
        self.key = key
        self._exchange = exchange
        self._etag = etag
        self._at = start
        self._hash = hashlib.sha256() if not start else None
        self._response = self._ask()
        headers = self._response.headers
        found = _SHA256.fullmatch(headers.get("etag", ""))
        if found is None:
            self._response.close()
            raise ServerError(f"the response for {key} has no ETag that is a SHA-256", self._response.status)
        self._etag, self.digest = found[0], found[1]
        self.content_type = headers.get("content-type", "")
        whole = _RANGE.fullmatch(headers.get("content-range", ""))
        self.size = int(whole[2]) if whole else int(headers.get("content-length", "0"))

    def start_with(self, digest: hashlib._Hash) -> None:
        """Take over the digest of the bytes before the first one, so that the whole can be compared."""
        self._hash = digest

    def pieces(self, most: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Pieces of up to `most` bytes. Raises `Damaged` at the end when the value has another SHA-256.

        Raises `Changed` when the value was replaced meanwhile, and `Unavailable` when it can't be read on.
        """
        failures = 0
        pauses = tries()
        while self._at < self.size:
            try:
                piece = self._response.read(min(most, self.size - self._at))
                if not piece:
                    raise Broken("the response ended before the value", True)
            except Broken as error:
                failures += 1
                if failures == _TRIES:
                    raise Unavailable(
                        f"{self.key} broke off {failures} times at byte {self._at} of {self.size}: {error}"
                    ) from error
                time.sleep(next(pauses))
                self._response = self._ask()
                continue
            failures, pauses = 0, tries()
            self._at += len(piece)
            if self._hash:
                self._hash.update(piece)
            yield piece
        came = self._hash.hexdigest() if self._hash else self.digest
        if came != self.digest:
            raise Damaged(f"{self.key}: the bytes that came have the SHA-256 {came}, not {self.digest}")

    def read(self) -> bytes:
        """The whole value; raises as `pieces` does."""
        return b"".join(self.pieces())

    def _ask(self) -> Response:
        headers = {}
        if self._at:
            headers["Range"] = f"bytes={self._at}-"
        if self._etag:
            headers["If-Range" if self._at else "If-Match"] = self._etag
        try:
            response = self._exchange.open(Ask("GET", addresses.target("get_key", self.key), headers))
        except PulzarError as error:
            if error.status == 412:
                raise Changed(f"{self.key} was replaced meanwhile", 412) from error
            raise
        if self._at and response.status != 206:
            response.close()
            raise Changed(f"{self.key} was replaced while it was read")
        begun = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if self._at and (begun is None or int(begun[1]) != self._at):
            response.close()
            raise ServerError(f"{self.key}: byte {self._at} was asked for, and another range came")
        return response

    def close(self) -> None:
        """Give up what was not read."""
        self._response.close()

    def __enter__(self) -> Value:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fetch(exchange: Exchange, key: str, path: Path, told: Told = nobody) -> Value:
    """Write the value of a key to a file, which is replaced when the whole value is there and its SHA-256 is right.

    A large download that is interrupted leaves `NAME.DIGEST.part`; the next one goes on with it. Raises `PulzarError`,
    and `BadRequest` when the file can't be written.
    """
    for _ in range(_TRIES):
        try:
            return _fetch(exchange, key, path, told)
        except Changed as error:  # once more, for the new value
            changed = error
        except OSError as error:
            raise BadRequest(f"{path} can't be written: {error.strerror or error}") from error
    raise changed


def _fetch(exchange: Exchange, key: str, path: Path, told: Told) -> Value:
    value = Value(exchange, key)
    with value:
        part = path.with_name(f"{path.name}.{value.digest[:16]}.part")
        begun = _begun(part, value.size) if value.size >= RESUMED_BYTES else 0
        if begun:
            value.close()
            value = Value(exchange, key, begun, f'"{value.digest}"')
            value.start_with(_digest(part, begun))
            told(begun)
        complete = False
        try:
            with part.open("ab" if begun else "wb", buffering=0) as file:
                _write(value, file, told)
            os.replace(part, path)
            complete = True
        except (Changed, Damaged):
            part.unlink(missing_ok=True)
            raise
        finally:
            value.close()
            if not complete and value.size < RESUMED_BYTES:
                part.unlink(missing_ok=True)
    if value.size >= RESUMED_BYTES:
        _tidy(path)
    return value


def _write(value: Value, file: BinaryIO, told: Told) -> None:
    for piece in value.pieces():
        view = memoryview(piece)
        while view:
            view = view[file.write(view) :]
        told(len(piece))


def _begun(part: Path, size: int) -> int:
    """Bytes that an interrupted download has left. With all of them, the last one is asked for again."""
    try:
        found = part.stat().st_size
    except FileNotFoundError:
        return 0
    if found >= size:
        os.truncate(part, size - 1)
        return size - 1
    return found


def _digest(part: Path, size: int) -> hashlib._Hash:
    digest = hashlib.sha256()
    with part.open("rb", buffering=0) as file:
        while size and (piece := file.read(min(size, CHUNK_BYTES))):
            digest.update(piece)
            size -= len(piece)
    return digest


def _tidy(path: Path) -> None:
    """Remove what interrupted downloads of former values of this file have left."""
    name = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.part")
    for other in path.parent.iterdir():
        if name.fullmatch(other.name):
            other.unlink(missing_ok=True)
