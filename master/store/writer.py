"""The write path: one PUT or DELETE from the look at the index to the commit.

A value is durable on its node and its entry committed before `put` returns. A tombstone is durable and
the entry gone before `delete` returns. An error means that nothing was stored; `Unavailable`, that it may have been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from broker import keys, logs
from broker.clock import now_ms
from broker.errors import LinkDown
from broker.messages.horizon import Horizon
from broker.messages.store import Delete, Status, Store
from broker.refusals import Conflict, NoRoom, Refused, Unavailable
from master.cluster.nodes import Nodes, missing
from master.index.index import Entry, Index
from master.store.dispatcher import Command, Dispatcher, Failure, Ticket
from master.store.key_locks import KeyLocks
from master.store.versions import Versions

log = logs.get(__name__)

# A node that does not answer gets this share of the time a client waits; then another one is tried.
_ATTEMPT_SHARE = 0.4

# Raises `ConditionFailed` when the request's conditions do not hold for the live entry (None: no such key).
Check = Callable[[Entry | None], None]


class Put(NamedTuple):
    """A value to store, and under which conditions."""

    key: bytes
    size: int
    digest: bytes
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    expires: int  # ms since the epoch, 0: never
    overwrite: bool
    check: Check
    value: bytes | None = None
    node: str | None = None  # where the staged upload is
    staged: str = ""

    def command(self, ticket: int, version: int, created: int) -> Store:
        """The command that stores it; `created` is in ms since the epoch."""
        about = self.expires, self.content_type, self.digest, self.size, self.value, self.staged
        return Store(ticket, self.key, version, created, *about)


class StoredValue(NamedTuple):
    """Where it was stored, and as what."""

    node: str
    version: int
    created: int


class Writer:
    """Stores and deletes values for one web worker, on its event loop. A request takes at most `timeout` seconds."""

    def __init__(
        self, index: Index, nodes: Nodes, dispatcher: Dispatcher, locks: KeyLocks, versions: Versions, *, timeout: float
    ) -> None:
        self._index = index
        self._nodes = nodes
        self._dispatcher = dispatcher
        self._locks = locks
        self._versions = versions
        self._timeout = timeout

    async def put(self, put: Put) -> StoredValue:
        """Store a value; raises `Conflict`, `ConditionFailed`, `NoRoom` or `Unavailable`."""
        deadline = time.monotonic() + self._timeout
        async with self._locks.hold(put.key, self._timeout / 2) as held:
            if not held:
                raise Unavailable("another client is writing this key; try again")
            entry, newest = self.admit(put.key, put.check, put.overwrite)
            return await self._attempts(put, entry, newest, deadline)

    def admit(self, key: bytes, check: Check, overwrite: bool) -> tuple[Entry | None, int]:
        """The live entry of a key that may be written now, and the newest version known of it.

        Raises `Conflict`, `ConditionFailed` or `Unavailable` when it may not. It stays so only under the key's lock.
        """
        entry = self._index.get(key)
        newest = entry.version if entry else 0
        if entry and not entry.live(now_ms()):
            entry = None
        check(entry)
        if entry and not overwrite:
            raise Conflict(f"the key {keys.decode(key)} exists; ?overwrite=1 replaces it")
        if entry is None and self._nodes.may_lack_keys():
            raise missing(keys.decode(key), self._nodes)
        return entry, newest

    async def _attempts(self, put: Put, entry: Entry | None, newest: int, deadline: float) -> StoredValue:
        tried: set[str] = set()
        abandoned: list[tuple[str, int]] = []
        full, reason = False, ""
        try:
            while time.monotonic() < deadline and put.node not in tried:
                newest = version = self._versions.next(newest)
                created = now_ms()
                make = partial(put.command, version=version, created=created)
                ticket = await self._send(make, put.node or self._holder(entry, tried), tried, deadline)
                node, status = ticket.node, ticket.status
                if node and status is Status.DONE:
                    return StoredValue(node, version, created)
                if status is Failure.NO_NODE:
                    full |= not tried  # or nobody is there at all: `_refusal` looks
                    break
                reason = ticket.reason
                if status is Status.STALE and newest <= (known := self._newest(put.key)):
                    newest = known  # a deletion from a time when the clock was ahead; once more, above it
                    continue
                if node:
                    tried.add(node)
                if status is Status.FULL:
                    full = True
                elif node and status is not Status.STALE and status is not Status.MISSING:
                    abandoned.append((node, version))
                log.warning("store failed", key=put.key, version=version, node=node, status=status, reason=reason)
        except LinkDown as error:
            reason = str(error)
        if entry is None:
            # Nobody is told that these exist, so they must not; they may be on their way to the log, though.
            for node, version in abandoned:
                self._dispatcher.forget(node, put.key, version)
        raise self._refusal(full and not abandoned, reason)

    def _newest(self, key: bytes) -> int:
        """The newest version of a key that the index knows of, deletions included; none from beyond the horizon."""
        with self._index.read() as tables:
            known = tables.entry(key), tables.deletion(key)
        highest = Horizon.now().version
        return max((row.version for row in known if row and row.version <= highest), default=0)

    def _holder(self, entry: Entry | None, tried: Collection[str]) -> str | None:
        """The node that has the key's value, where a new version goes: a client on its way there finds one of the two.

        None when there is no value, or that node was tried or is not heard from.
        """
        return entry.node if entry and entry.node not in tried and self._nodes.alive(entry.node) else None

    async def _send(
        self, make: Callable[[int], Command], node: str | None, tried: Collection[str], deadline: float
    ) -> Ticket:
        """Send a command, to any node that was not tried for None, and wait for its outcome."""
        ticket = self._dispatcher.send(make, node, tuple(tried))
        patience = min(self._timeout * _ATTEMPT_SHARE, deadline - time.monotonic())
        if await ticket.wait(patience) is None:
            self._dispatcher.abandon(ticket)
            who = f"node {ticket.node} did not answer" if ticket.node else "no node was free"
            ticket.reason = f"{who} within {patience:.1f} s"
        return ticket

    def _refusal(self, full: bool, reason: str) -> Refused:
        if full and self._nodes.any_alive():
            return NoRoom("no node has room for this value")
        return Unavailable(f"it could not be stored just now: {reason or Failure.NO_NODE.value}")

    async def delete(self, key: bytes, check: Check) -> None:
        """Delete a key; raises `NotFound`, `ConditionFailed` or `Unavailable`."""
        deadline = time.monotonic() + self._timeout
        async with self._locks.hold(key, self._timeout / 2) as held:
            if not held:
                raise Unavailable("another client is writing this key; try again")
            with self._index.read() as tables:
                entry, deletion = tables.entry(key), tables.deletion(key)
            if entry is None or not entry.live(now_ms()):
                raise missing(keys.decode(key), self._nodes)
            check(entry)
            version = self._versions.next(max(entry.version, deletion.version if deletion else 0))
            make = partial(Delete, key=key, version=version)
            tried: set[str] = set()
            reason = ""
            while time.monotonic() < deadline:
                # A tombstone is as good on another node when the one with the value can't be reached.
                node = self._holder(entry, tried) or self._nodes.any_alive(tried)
                if node is None:
                    break
                tried.add(node)
                try:
                    ticket = await self._send(make, node, tried, deadline)
                except LinkDown as error:
                    raise Unavailable(str(error)) from error
                if ticket.status is Status.DONE:
                    return
                reason = ticket.reason
                log.warning("delete failed", key=key, version=version, node=node, status=ticket.status, reason=reason)
            raise Unavailable(f"it could not be deleted just now: {reason or 'no node was heard from lately'}")
