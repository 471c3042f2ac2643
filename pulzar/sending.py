"""Values on their way to the store: their bytes, made anew for each try, and their SHA-256."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from queue import Empty, Queue

from pulzar.errors import BadRequest
from pulzar.wire.connection import CHUNK_BYTES, Body

SMALL_BYTES = 1 << 20  # a file of up to this size is sent from memory
_AHEAD = 4  # pieces that are hashed behind the one that is sent

Told = Callable[[int], None]  # gets the number of bytes that were sent or received just now


def nobody(_: int) -> None:
    """Nobody wants to know how far it is."""


class Digester:
    """The SHA-256 of pieces, on a thread of its own: a processor hashes while the other one sends.

    A piece that was handed over must not change until the digest is asked for, or `AHEAD` further ones are handed over.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._pieces: Queue[bytes | memoryview | None] = Queue(_AHEAD)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def update(self, piece: bytes | memoryview) -> None:
        """Hand over the next piece."""
        self._pieces.put(piece)

    def hexdigest(self) -> str:
        """The digest of all pieces; no more may follow."""
        self._pieces.put(None)
        self._thread.join()
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """End without a digest."""
        while self._thread.is_alive():
            try:
                self._pieces.get_nowait()
            except Empty:  # the thread has taken all
                self._pieces.put(None)
                self._thread.join(0.1)

    def _run(self) -> None:
        while (piece := self._pieces.get()) is not None:
            self._digest.update(piece)


class LargeFile:
    """A file that is sent piece by piece. Each try begins at its start."""

    def __init__(self, path: Path, told: Told) -> None:
        """Raises `OSError`."""
        self.path = path
        self.size = os.stat(path).st_size
        self.digest = ""  # of what the last try has sent, when it has sent all
        self._told = told

    def body(self) -> Body:
        """The body of one try."""
        return Body(self._pieces(), self.size)

    def _pieces(self) -> Iterator[memoryview]:
        """Buffers are used again once the thread that hashes has let go of them."""
        self.digest = ""
        digester = Digester()
        buffers = [bytearray(CHUNK_BYTES) for _ in range(_AHEAD + 3)]
        left, number = self.size, 0
        try:
            with self.path.open("rb", buffering=0) as file:
                while left:
                    piece = _fill(file, memoryview(buffers[number % len(buffers)])[: min(left, CHUNK_BYTES)])
                    digester.update(piece)
                    left -= len(piece)
                    number += 1
                    yield piece
                    self._told(len(piece))
            self.digest = digester.hexdigest()
        except OSError as error:
            raise BadRequest(f"{self.path} can't be read: {error.strerror or error}") from error
        finally:
            digester.abandon()


def _fill(file: FileIO, space: memoryview) -> memoryview:
    got = file.readinto(space)
    if not got:
        raise BadRequest(f"{file.name} became shorter while it was sent")
    return space[:got]


class Stream:
    """Pieces of a value whose length is not known. They are sent once."""

    def __init__(self, pieces: Iterable[bytes], told: Told) -> None:
        self._source = pieces
        self._told = told
        self._digest = hashlib.sha256()
        self.size = 0

    def body(self) -> Body:
        """The body, which goes out in chunks."""
        return Body(self._pieces(), None)

    @property
    def digest(self) -> str:
        """Of all that was sent."""
        return self._digest.hexdigest()

    def _pieces(self) -> Iterator[bytes]:
        for piece in self._source:
            self._digest.update(piece)
            self.size += len(piece)
            yield piece
            self._told(len(piece))


def digest_of_file(path: str | os.PathLike[str], size: int = -1) -> str:
    """The SHA-256 of a file in hex, or of its first `size` bytes; raises `OSError`."""
    with open(path, "rb", buffering=0) as file:
        if size < 0:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while size and (piece := file.read(min(size, CHUNK_BYTES))):
            digest.update(piece)
            size -= len(piece)
        return digest.hexdigest()
