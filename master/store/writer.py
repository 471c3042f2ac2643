"""The write path: one PUT or DELETE from the look at the index to the commit.

A value is durable on its node and its entry committed before `put` returns; a tombstone is durable and
the entry gone before `delete` returns. Anything that is raised means not stored, `Unavailable`: perhaps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from broker import keys, logs
from broker.clock import now_ms
from broker.errors import LinkDown
from broker.messages.horizon import Horizon
from broker.messages.store import Delete, Status, Store
from broker.refusals import Conflict, NoRoom, Refused, Unavailable
from master.cluster.nodes import Nodes, missing
from master.index.index import Entry, Index
from master.store.dispatcher import NOWHERE, Dispatcher
from master.store.key_locks import KeyLocks
from master.store.versions import Versions

log = logs.get(__name__)

# A node that does not answer gets this share of the time a client waits; then another one is tried.
_ATTEMPT_SHARE = 0.4

# Raises `ConditionFailed` when the request's conditions do not hold for the live entry (None: no such key).
Check = Callable[[Entry | None], None]


class Put(NamedTuple):
    """What shall be stored."""

    key: bytes
    size: int
    digest: bytes
    content_type: str  # and Content-Encoding, see `broker.http.content_types`
    expires: int  # ms since the epoch, 0: never
    overwrite: bool
    check: Check
    value: bytes | None = None
    node: str = ""  # where the staged upload is
    staged: str = ""


class Stored(NamedTuple):
    """Where it was stored, and as what."""

    node: str
    version: int
    created: int


class Writer:
    """Of one web worker, on its event loop."""

    def __init__(
        self,
        index: Index,
        network: Nodes,
        dispatcher: Dispatcher,
        locks: KeyLocks,
        versions: Versions,
        timeout: float,
    ) -> None:
        self._index = index
        self._network = network
        self._dispatcher = dispatcher
        self._locks = locks
        self._versions = versions
        self._timeout = timeout

    async def put(self, put: Put) -> Stored:
        """Store a value; raises `Conflict`, `ConditionFailed`, `NoRoom` or `Unavailable`."""
        deadline = time.monotonic() + self._timeout
        async with self._locks.hold(put.key, self._timeout / 2) as held:
            if not held:
                raise Unavailable("another client is writing this key; try again")
            entry, newest = self.admit(put.key, put.check, put.overwrite)
            return await self._attempts(put, entry, newest, deadline)

    def admit(self, key: bytes, check: Check, overwrite: bool) -> tuple[Entry | None, int]:
        """The live entry of a key that may be written now, and the newest version known of it.

        Raises `Conflict`, `ConditionFailed` or `Unavailable` when it may not. Only under the key's lock does it stay so.
        """
        entry = self._index.get(key)
        newest = entry.version if entry else 0
        if entry and not entry.live(now_ms()):
            entry = None
        check(entry)
        if entry and not overwrite:
            raise Conflict(f"the key {keys.decode(key)} exists; ?overwrite=1 replaces it")
        if entry is None and self._network.restoring:
            raise missing(keys.decode(key), self._network)
        return entry, newest

    async def _attempts(self, put: Put, entry: Entry | None, newest: int, deadline: float) -> Stored:
        tried: set[str] = set()
        abandoned: list[tuple[str, int]] = []
        full, reason = False, ""
        try:
            while time.monotonic() < deadline:
                node = self._next_node(put, entry, tried)
                if node is None:
                    break
                newest = version = self._versions.next(newest)
                created = now_ms()

                def make(ticket: int, version: int = version, created: int = created) -> Store:
                    return Store(
                        ticket,
                        put.key,
                        version,
                        created,
                        put.expires,
                        put.content_type,
                        put.digest,
                        put.size,
                        put.value,
                        put.staged,
                    )

                node, status, reason = await self._send(node, make, deadline)
                if status is Status.DONE:
                    return Stored(node, version, created)
                if reason == NOWHERE:
                    full = True  # or nobody is there at all: `_refusal` looks
                    break
                if status is Status.STALE and newest <= (known := self._newest(put.key)):
                    newest = known  # a deletion from a time when the clock was ahead; once more, above it
                    continue
                tried.add(node)
                if status is Status.FULL:
                    full = True
                elif node and status is not Status.STALE and status is not Status.MISSING:
                    abandoned.append((node, version))
                log.warning("store failed", key=put.key, version=version, node=node, status=status, reason=reason)
        except LinkDown as error:
            reason = str(error)
        if entry is None:
            # Nobody is told that these exist, so they shall not: they may be on their way to the log, though.
            for node, version in abandoned:
                self._dispatcher.forget(node, put.key, version)
        raise self._refusal(full and not abandoned, reason)

    def _newest(self, key: bytes) -> int:
        """The newest version of a key that the index knows of, deletions included; none from beyond the horizon."""
        entry, tomb = self._index.get_with_tomb(key)
        highest = Horizon.now().version
        return max(version for version in (entry.version if entry else 0, tomb, 0) if version <= highest)

    def _next_node(self, put: Put, entry: Entry | None, tried: set[str]) -> str | None:
        """The node for the next attempt, "" for any, None when there is no other."""
        if put.node:
            return put.node if put.node not in tried else None
        # A new version goes where the old one is: a client on its way there finds one of the two.
        if entry and entry.node not in tried and self._network.alive(entry.node):
            return entry.node
        return self._network.choose(put.size, tried) if tried else ""

    async def _send(
        self, node: str, make: Callable[[int], Store | Delete], deadline: float
    ) -> tuple[str, Status | None, str]:
        """Where the command went, and what became of it."""
        number, ticket = self._dispatcher.send(node, make)
        patience = min(self._timeout * _ATTEMPT_SHARE, deadline - time.monotonic())
        status = await ticket.wait(patience)
        if status is None:
            self._dispatcher.abandon(number)
            return ticket.node, None, f"node {ticket.node} did not answer within {patience:.1f} s"
        return ticket.node, status, ticket.reason

    def _refusal(self, full: bool, reason: str) -> Refused:
        if full and self._network.any_alive():
            return NoRoom("no node has room for this value")
        return Unavailable(f"it could not be stored just now: {reason or NOWHERE}")

    async def delete(self, key: bytes, check: Check) -> None:
        """Delete a key; raises `NotFound`, `ConditionFailed` or `Unavailable`."""
        deadline = time.monotonic() + self._timeout
        async with self._locks.hold(key, self._timeout / 2) as held:
            if not held:
                raise Unavailable("another client is writing this key; try again")
            entry, tomb = self._index.get_with_tomb(key)
            if entry is None or not entry.live(now_ms()):
                raise missing(keys.decode(key), self._network)
            check(entry)
            version = self._versions.next(max(entry.version, tomb))
            tried: set[str] = set()
            reason = ""
            while time.monotonic() < deadline:
                # A tombstone is as good on another node when the one with the value can't be reached.
                owner = entry.node if entry.node not in tried and self._network.alive(entry.node) else None
                node = owner or self._network.any_alive(tried)
                if node is None:
                    break
                tried.add(node)
                try:
                    _, status, reason = await self._send(node, lambda ticket: Delete(ticket, key, version), deadline)
                except LinkDown as error:
                    raise Unavailable(str(error)) from error
                if status is Status.DONE:
                    return
                log.warning("delete failed", key=key, version=version, node=node, status=status, reason=reason)
            raise Unavailable(f"it could not be deleted just now: {reason or 'no node was heard from lately'}")
