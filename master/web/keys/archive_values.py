"""The values below a prefix, in the order of their keys, for an archive.

Small values come from the index, or are fetched from the nodes some ahead. A large one is fetched when its turn comes,
and passes in pieces. So what is held in memory does not depend on the number or the size of the values.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import closing, suppress
from typing import NamedTuple

from broker import keys
from broker.clock import now_ms
from broker.http import values
from broker.http.peer_client import PeerFailed
from broker.http.peer_reads import PeerRead, PeerReads
from broker.refusals import Refused
from master.index.index import Entry, Index
from master.web.keys.redirects import Redirects

# Entries looked at in one transaction, on the event loop: about a millisecond. A thread would hold other requests up
# longer, since Python's lock changes hands every 5 ms.
_STRETCH = 128
_STRETCH_BYTES = 1 << 20  # of values in them
_WHOLE_BYTES = 1 << 20  # a value of up to this size is fetched as a whole, and ahead
_AHEAD = 16  # values that are fetched at once
_AHEAD_BYTES = 8 << 20
_TWICE_BYTES = 256 << 20  # a value of up to this size is read twice for its checksum
_TRIES = 3  # to find a value that changes while it is fetched
_AWAY_SECS = 15.0  # a node that could not be reached is not tried again for this time

Row = tuple[str, Entry]


class Member(NamedTuple):
    """A key and its value, or why that is missing."""

    key: str
    entry: Entry
    value: bytes | PeerRead | None  # a `PeerRead` is read before the next member is asked for
    reason: str = ""  # why there is no value
    checksum: int | None = None  # the CRC-32 of what a `PeerRead` reads, if it is known


class ArchiveValues:
    """Reads the values for one archive. A node may stand still for `secs` seconds."""

    def __init__(self, index: Index, redirects: Redirects, secs: float) -> None:
        self._index = index
        self._redirects = redirects
        self._peers = PeerReads(secs, redirects.trusted)
        self._away: dict[str, tuple[float, str]] = {}  # node → until when it is not tried, and why

    async def stretch(self, prefix: str, after: str = "") -> list[Row]:
        """Some live entries below the prefix and behind the key `after`; none at the end."""
        rows: list[Row] = []
        last: str | None = after
        while last is not None and not rows:
            rows, last = self._read_stretch(prefix, last)
            await asyncio.sleep(0)  # other requests have their turn
        return rows

    def _read_stretch(self, prefix: str, after: str) -> tuple[list[Row], str | None]:
        """The live ones of some entries, and the key of the last of these; None at the end."""
        rows: list[Row] = []
        size, now = 0, now_ms()
        with closing(self._index.pages(prefix, after, "")) as pages:  # type: ignore[type-var]
            for looked, (key, entry) in enumerate(pages, 1):
                if isinstance(entry, Entry) and entry.live(now):
                    rows.append((key, entry))
                    size += len(entry.value or b"")
                if looked == _STRETCH or size >= _STRETCH_BYTES:
                    return rows, key
        return rows, None

    async def members(self, prefix: str, first: list[Row], *, summed: bool) -> AsyncGenerator[Member, None]:
        """All members in order, `first` those of the first stretch; `summed`: with checksums where possible."""
        ahead: deque[tuple[str, Entry, asyncio.Task[Member] | None]] = deque()
        rows = deque(first)
        last = first[-1][0] if first else ""
        fetching, size = 0, 0
        try:
            while True:
                while fetching < _AHEAD and size < _AHEAD_BYTES:
                    if not rows:
                        rows.extend(await self.stretch(prefix, last))
                        if not rows:
                            break
                        last = rows[-1][0]
                    key, entry = rows.popleft()
                    if entry.value is not None and not ahead:
                        yield Member(key, entry, entry.value)
                        continue
                    task = None
                    if entry.value is None and entry.size <= _WHOLE_BYTES:
                        task = asyncio.ensure_future(self._whole(key, entry))
                        fetching += 1
                    held = min(entry.size, _WHOLE_BYTES)
                    size += held
                    ahead.append((key, entry, task))
                if not ahead:
                    return
                key, entry, task = ahead.popleft()
                size -= min(entry.size, _WHOLE_BYTES)
                if task is not None:
                    fetching -= 1
                    yield await task
                elif entry.value is not None:
                    yield Member(key, entry, entry.value)
                else:
                    member = await self._fetch(key, entry)
                    if summed:
                        member = await self._summed(member)
                    try:
                        yield member
                    finally:
                        if isinstance(member.value, PeerRead):
                            member.value.close()
        finally:
            tasks = [task for _, _, task in ahead if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._peers.close()

    async def _summed(self, member: Member) -> Member:
        """A member with its checksum, whose value is read a second time; a large one as it is."""
        while isinstance(member.value, PeerRead) and member.entry.size <= _TWICE_BYTES:
            checksum = 0
            with closing(member.value) as read:
                try:
                    async for piece in read.pieces():
                        checksum = zlib.crc32(piece, checksum)
                except PeerFailed as error:
                    return member._replace(value=None, reason=str(error))
            digest = member.entry.digest
            member = await self._fetch(member.key, member.entry)
            if member.entry.digest == digest:
                return member._replace(checksum=checksum)
        return member

    async def _whole(self, key: str, entry: Entry) -> Member:
        """A member with all of its value."""
        for again in (True, False):
            member = await self._fetch(key, entry)
            if not isinstance(member.value, PeerRead):
                return member
            with closing(member.value) as read:
                try:
                    return member._replace(value=await read.body())
                except PeerFailed as error:
                    if not again:
                        return member._replace(value=None, reason=str(error))
        return member

    async def _fetch(self, key: str, entry: Entry) -> Member:
        """A member with its value, or with the response to read it from, or without."""
        reason = ""
        for _ in range(_TRIES):
            if entry.value is not None:
                return Member(key, entry, entry.value)
            status = 0
            for node in self._redirects.order(entry):
                try:
                    read = await self._ask(key, node)
                except (PeerFailed, Refused) as error:
                    status, reason = 0, str(error)
                    continue
                if read.status == 200 and read.headers["ETag"] == values.etag(entry.digest) and read.left == entry.size:
                    return Member(key, entry, read)
                status, reason = read.status, f"node {node} answered with status {read.status}"
                if read.status >= 500:
                    reason += await _message(read)
                read.close()
            if not status:
                return Member(key, entry, None, reason)
            newer = self._index.get(keys.encode(key))
            if newer is None or not newer.live(now_ms()):
                return Member(key, entry, None, "it was deleted meanwhile, or its lifetime has ended")
            if newer.version == entry.version and newer.nodes == entry.nodes and status != 503:
                break
            entry = newer
        return Member(key, entry, None, reason)

    async def _ask(self, key: str, node: str) -> PeerRead:
        """The response of a node to a GET of a key; raises `PeerFailed` or `Unavailable`."""
        until, reason = self._away.get(node, (0.0, ""))
        if time.monotonic() < until:
            raise PeerFailed(reason)
        url = self._redirects.at(key, node)
        try:
            return await self._peers.get(url)
        except PeerFailed as error:
            self._away[node] = time.monotonic() + _AWAY_SECS, f"node {node}: {error}"
            raise PeerFailed(f"node {node}: {error}") from error


async def _message(read: PeerRead) -> str:
    """What a node says of a value that it can't send."""
    with suppress(PeerFailed):  # the status alone has to do
        text = (await read.body()).decode("utf-8", "replace")
        return f": {text.partition(chr(34) + 'msg' + chr(34) + ': ')[2].partition(', ' + chr(34))[0][:200]}"
    return ""
