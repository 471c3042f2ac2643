"""`GET /internal/verify` on a node: what it has, read and compared with what was written, in pages of keys.

`after` and `upto` bound a page, `limit` is its most keys, and with `read=1` every value is read. `files=1` has LMDB's
file audited instead. The query is signed. A page ends after two seconds, in the middle of a large value if need be. The
next page goes on there.

One thread reads, of low priority and half of the time, so that clients who read values hardly notice.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from broker import integers, keys
from broker.clock import now_ms
from broker.http import internal_addresses, responses
from broker.http.responses import Response
from broker.http.signing import Secrets
from broker.messages.store import Kind
from broker.messages.verification import NodeValue
from broker.refusals import BadRequest, Unavailable
from broker.server.request import Request
from node.errors import StorageError, StorageUnavailable
from node.storage.disk.damages import DamageReport, DamageReports
from node.storage.reader import Reader, StoredValue
from node.storage.value_files import BLOCK_BYTES

MOST_KEYS = 10_000
PAGE_SECS = 2.0
_CHUNK_BYTES = 8 * BLOCK_BYTES
_SLICE_SECS = 0.005  # of work between two pauses of the same length
_BYTES_A_SEC = 128 << 20
_NICE = 10
_MOST_WAITING = 4
_MOST_HALF_READ = 16  # large values


class _HalfRead(NamedTuple):
    """A large value that the last page did not come to the end of."""

    digest: hashlib._Hash
    done: int  # bytes


class Verification:
    """The handler of one data directory's verification."""

    def __init__(self, reader: Reader, secrets: Secrets, node: str, damages: DamageReports) -> None:
        self._reader = reader
        self._damages = damages
        self._node = node
        self._secrets = secrets
        self._thread = ThreadPoolExecutor(1, "verify", initializer=_lower_priority)
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self._half_read: OrderedDict[tuple[bytes, int], _HalfRead] = OrderedDict()

    async def __call__(self, request: Request) -> Response:
        """Respond to one request. Raises `Refused`, `BadSignature` or `StorageError`."""
        given = internal_addresses.check(self._secrets, request.environ, self._node)
        work = _Page.of(given)
        if not self._waiting.acquire(blocking=False):
            raise Unavailable("other verifications are running on this node; try again later")
        try:
            task = self._audit if given.get("files") == "1" else self._read
            data = await asyncio.get_running_loop().run_in_executor(self._thread, task, work)
        finally:
            self._waiting.release()
        return responses.make_plain(200, data, "ok", (), compact=True)

    def _audit(self, _page: _Page) -> dict[str, object]:
        return {"files": [{"file": "index", "faults": self._reader.index_faults()}]}

    def _read(self, page: _Page) -> dict[str, object]:
        with self._reader.view() as view:
            seq = view.seq()
            entries = view.entries(keys.encode(page.after), page.limit + 1)
        more = len(entries) > page.limit
        rows: list[NodeValue] = []
        pace = _Pace()
        reached: str | None = None
        within: dict[str, object] | None = None
        for encoded, entry in entries[: page.limit]:
            key = keys.decode(encoded)
            if page.upto and key > page.upto:
                more = False
                break
            if entry.kind == Kind.PUT and not entry.expired and not (0 < entry.expires <= now_ms()):
                told = NodeValue(key, entry.version, entry.seq, entry.size, entry.expires, "", "")
                row, half = self._checked(encoded, told, pace) if page.read else (told, None)
                if row is not None and row.fault:
                    self._damages.report(DamageReport(encoded, row.version, row.fault))
                if half is not None:
                    within = {"key": key, "done": half.done, "size": entry.size}
                    more = True
                    break
                if row is not None:
                    rows.append(row)
            reached = key
            if pace.over:
                more = more or key != keys.decode(entries[-1][0])
                break
        return {"seq": seq, "keys": rows, "next": reached if more else None, "more": more, "within": within}

    def _checked(self, encoded: bytes, row: NodeValue, pace: _Pace) -> tuple[NodeValue | None, _HalfRead | None]:
        """The row of a value that was read, None for one that is gone; or how far it was read when time is up."""
        try:
            found = self._reader.get(encoded)
        except StorageUnavailable:
            raise
        except StorageError as error:
            return row._replace(fault=str(error)), None
        if found is None:
            return None, None
        seq = row.seq if found.version == row.version else integers.MAX  # another one, written just now
        row = NodeValue(row.key, found.version, seq, found.size, found.expires, found.digest.hex(), "")
        try:
            half = self._digest(encoded, found, pace)
        except StorageError as error:
            return row._replace(fault=str(error)), None
        finally:
            found.close()
        if half.done < found.size:
            return None, half
        if half.digest.digest() != found.digest:
            row = row._replace(fault="its bytes have another SHA-256 than they had")
        return row, None

    def _digest(self, encoded: bytes, found: StoredValue, pace: _Pace) -> _HalfRead:
        name = (encoded, found.version)
        digest, done = self._half_read.pop(name, _HalfRead(hashlib.sha256(), 0))
        while done < found.size:
            piece = found.pread(_CHUNK_BYTES, done)
            digest.update(piece)
            done += len(piece)
            pace.spend(len(piece))
            if pace.over and done < found.size:
                self._half_read[name] = _HalfRead(digest, done)
                if len(self._half_read) > _MOST_HALF_READ:
                    self._half_read.popitem(last=False)
                break
        return _HalfRead(digest, done)


class _Page(NamedTuple):
    """What a request asks for."""

    after: str
    upto: str  # "": no bound
    limit: int
    read: bool

    @classmethod
    def of(cls, given: dict[str, str]) -> _Page:
        try:
            limit = integers.parse(given.get("limit", "1000"), 1, MOST_KEYS)
        except ValueError as error:
            raise BadRequest(f"limit={error}") from error
        for name in ("after", "upto"):
            if not given.get(name, "").isascii():
                raise BadRequest(f"{name} is no ASCII text")
        return cls(given.get("after", ""), given.get("upto", ""), limit, given.get("read") == "1")


class _Pace:
    """Keeps a page within its time, and this thread to half of it and to a rate."""

    def __init__(self) -> None:
        self._end = time.monotonic() + PAGE_SECS
        self._since = time.monotonic()
        self._owed = 0

    @property
    def over(self) -> bool:
        """Whether the page's time is up."""
        return time.monotonic() >= self._end

    def spend(self, count: int) -> None:
        """Count bytes that were read, and sleep if need be."""
        self._owed += count
        took = time.monotonic() - self._since
        if took >= _SLICE_SECS:
            time.sleep(max(took, self._owed / _BYTES_A_SEC - took))
            self._since, self._owed = time.monotonic(), 0


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)  # of this thread alone
