"""`GET|HEAD /get_key/{key}` on a node: the bytes of a value, as RFC 9110 wants them served.

Every byte is checked before it is sent: the record of a value in the log as a whole, a value file block by block.
What can be checked in little time is checked before the answer begins, so that damage shows as a 500. Damage
farther on in a large value ends the answer short of its Content-Length and closes the connection.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from broker import addresses, http, keys, logs
from broker.errors import BadSignature
from broker.http import Plan
from broker.ranges import Span
from broker.refusals import Forbidden, NotFound
from node.errors import StorageError
from node.reader import Found, Reader
from node.values import BLOCK_BYTES

log = logs.get(__name__)

CHUNK_BYTES = 8 * BLOCK_BYTES  # read and sent at once
WHOLE_BYTES = 2 * CHUNK_BYTES  # an answer of up to this size is put together in memory
CHECKED_FIRST_BYTES = 64 << 20  # an answer of up to this size is checked in full before it begins


class Downloads:
    """Answers reads from one data directory."""

    def __init__(self, reader: Reader, secret: bytes, open_reads: bool, cors: str) -> None:
        self._reader = reader
        self._secret = secret
        self._open = open_reads
        self._cors = cors

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request. Raises `Refused`, `InvalidKey` or `StorageError`."""
        key = http.key_of(environ, "/get_key/")
        cors = http.cors_headers(addresses.allowed_origin(self._secret, environ, self._cors))
        if back := self._way_back(key, environ["QUERY_STRING"]):
            head = environ["REQUEST_METHOD"] == "HEAD"
            return http.give(start_response, http.elsewhere(back, cors, head=head))
        found = self._reader.get(keys.encode(key))
        if found is None:
            raise NotFound(f"this node has no key {key}")
        try:
            plan = http.plan(environ, http.resource(key, found))
            body = _body(found, plan)
        except BaseException:
            found.close()
            raise
        start_response(http.STATUS_LINES[plan.status], [*plan.headers, *cors])
        return body

    def _way_back(self, key: str, query: str) -> str | None:
        """Where the client is to go instead, None when the value may be read here."""
        try:
            return addresses.way_back(self._secret, key, query, time.time(), self._open)
        except BadSignature as error:
            raise Forbidden(str(error)) from error


def _body(found: Found, plan: Plan) -> Iterable[bytes]:
    """What to send: a list when it is small, else an iterator that closes the value at its end."""
    if not plan.ranges or found.data is not None:
        found.close()
        return [plan.body(found.data)]
    length = sum(stop - start for start, stop in plan.ranges)
    if length <= WHOLE_BYTES:
        pieces = [found.pread(p.stop - p.start, p.start) if isinstance(p, Span) else p for p in plan.pieces()]
        found.close()
        return pieces
    if length <= CHECKED_FIRST_BYTES:
        for span in plan.ranges:
            for start, stop in _chunks(span):
                found.pread(stop - start, start)
    return Stream(found, plan)


def _chunks(span: Span) -> Iterator[Span]:
    """A stretch in pieces that end where blocks end, so that each block is read and checked once."""
    start, stop = span
    while start < stop:
        end = min(stop, start - start % BLOCK_BYTES + CHUNK_BYTES)
        yield Span(start, end)
        start = end


class Stream:
    """The body of a large answer, a chunk at a time."""

    def __init__(self, found: Found, plan: Plan) -> None:
        self._found = found
        self._pieces = self._run(plan)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """Called by the server when all is sent, or the client has gone."""
        self._pieces.close()
        self._found.close()

    def _run(self, plan: Plan) -> Generator[bytes, None, None]:
        for piece in plan.pieces():
            if not isinstance(piece, Span):
                yield piece
                continue
            for start, stop in _chunks(piece):
                try:
                    chunk = self._found.pread(stop - start, start)
                except StorageError as error:
                    # Too late for a 500. The client has fewer bytes than promised, and so knows.
                    log.error("value damaged; answer cut short", key=self._found.key, version=self._found.version,
                              at=start, reason=error)  # fmt: skip
                    return
                yield chunk
