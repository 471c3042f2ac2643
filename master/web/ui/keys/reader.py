"""Reads values, or parts of them, from the index and from nodes, for browsers that see the master alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from broker.http import values
from broker.http.peer_client import PeerFailed
from broker.http.peer_reads import PeerRead, PeerReads
from broker.http.ranges import Span
from broker.refusals import Unavailable
from master.index.index import Entry
from master.web.keys.redirects import Redirects

READER = "pulzar ui reader"  # key of the `ValueReader` in the web page's extensions


class ValueReader:
    """Reads values; for the event loop of a web worker. All methods raise `Unavailable`."""

    def __init__(self, redirects: Redirects, secs: float) -> None:
        """A node may stand still for `secs` seconds."""
        self._redirects = redirects
        self._peers = PeerReads(secs, redirects.trusted)

    async def beginning(self, key: str, entry: Entry, most: int) -> bytes:
        """The first bytes of a value, `most` of them at most."""
        if entry.value is not None:
            return entry.value[:most]
        return b"".join([piece async for piece in self.pieces(key, entry, Span(0, min(most, entry.size)))])

    async def pieces(self, key: str, entry: Entry, span: Span) -> AsyncGenerator[bytes, None]:
        """A range of a value that is not in the index; also `Unavailable` when the key has another value by now."""
        if span.start == span.stop:
            return
        start = span.start
        problem: Exception | None = None
        for url in self._redirects.each(key, entry):
            try:
                read = await self._peers.get(url, [("Range", f"bytes={start}-{span.stop - 1}")])
                try:
                    _check(read, key, entry)
                    async for piece in read.pieces():
                        start += len(piece)
                        yield piece
                    return
                finally:
                    read.close()
            except (PeerFailed, Unavailable) as error:
                problem = error  # another node may have the rest
        if isinstance(problem, PeerFailed):
            raise Unavailable(f"the value of {key} can't be read from its node just now: {problem}") from problem
        assert problem is not None
        raise problem


def _check(read: PeerRead, key: str, entry: Entry) -> None:
    """Raises `Unavailable` unless a response has a part of the value."""
    if read.status != 206:
        raise Unavailable(f"the node answered with status {read.status}; try again")
    if read.headers["ETag"] != values.etag(entry.digest):
        raise Unavailable(f"{key} has just got another value; try again")
