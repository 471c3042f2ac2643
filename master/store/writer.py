"""The write path: one PUT, DELETE, copy or move from the look at the index to the commit.

A value is durable on its node and its entry committed before `put` returns. A tombstone is durable and
the entry gone before `delete` returns. An error means that nothing was stored; `Unavailable`, that it may have been.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from broker import keys, logs, phases
from broker.clock import now_ms
from broker.errors import LinkDown
from broker.http import content_types
from broker.messages.horizon import Horizon
from broker.messages.store import Delete, Source, Status, Store
from broker.refusals import Conflict, NoRoom, NotFound, Refused, Unavailable
from master.cluster.nodes import Nodes, missing, require_newest
from master.cluster.replicas import Replicas
from master.index.index import Entry, Index
from master.metrics import figures
from master.store.copies import ATTEMPT_SHARE, CopyWriter, NewVersion
from master.store.dispatcher import Command, Dispatcher, Failure, Ticket
from master.store.key_locks import KeyLocks
from master.store.quotas import Quotas
from master.store.versions import Versions

log = logs.get(__name__)

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
    node: str | None = None  # where the staged upload, or the source, is
    staged: str = ""
    source: Source | None = None  # instead of a value or an upload: a version on the node whose bytes it has
    moved: bytes | None = None  # the key that is deleted as soon as this is stored
    others: Sequence[str] = ()  # further nodes where the source is, or an upload of their own with the same bytes
    staged_at: Mapping[str, str] = MappingProxyType({})  # these uploads, by node
    failed: Collection[str] = ()  # nodes that did not take the bytes just now
    replicas: int = 0  # on so many nodes; 0: on as many as the settings say

    def command(self, ticket: int, version: int, created: int) -> Store:
        """The command that stores it; `created` is in ms since the epoch."""
        staged = self.source.text() if self.source else self.staged
        about = self.expires, self.content_type, self.digest, self.size, self.value, staged
        return Store(ticket, self.key, version, created, *about)


class StoredValue(NamedTuple):
    """Where it was stored, and as what."""

    node: str
    version: int
    created: int


class Copy(NamedTuple):
    """A value to store once more, under another key, and under which conditions."""

    source: bytes
    target: bytes
    check: Check  # of the source
    overwrite: bool  # the value that the target may have
    expires: int | None  # ms since the epoch, 0: never; None: when the source does


class Writer:
    """Stores and deletes values for one web worker, on its event loop. A request takes at most `timeout` seconds."""

    def __init__(
        self,
        index: Index,
        nodes: Nodes,
        dispatcher: Dispatcher,
        locks: KeyLocks,
        versions: Versions,
        *,
        quotas: Quotas,
        timeout: float,
        replicas: Replicas | None = None,
        secret: bytes = b"",
    ) -> None:
        """`secret` signs the addresses at which nodes fetch copies."""
        self._index = index
        self._nodes = nodes
        self._dispatcher = dispatcher
        self._locks = locks
        self._versions = versions
        self._quotas = quotas
        self._timeout = timeout
        self._replicas = replicas or Replicas()
        self._copies = CopyWriter(nodes, dispatcher, self._replicas, secret, timeout=timeout)

    async def put(self, put: Put) -> StoredValue:
        """Store a value; raises `Conflict`, `ConditionFailed`, `NoRoom` or `Unavailable`."""
        began = time.monotonic()
        deadline = began + self._timeout
        async with self._locks.hold(put.key, self._timeout / 2) as held:
            figures.PUT_STEPS.observe(time.monotonic() - began, figures.LOCK)
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
        # First: a condition says nothing of a value that the index does not know yet.
        if entry is None and self._nodes.may_lack_keys():
            raise missing(keys.decode(key), self._nodes)
        require_newest(key, self._replicas, self._nodes)
        check(entry)
        if entry and not overwrite:
            raise Conflict(f"the key {keys.decode(key)} exists; ?overwrite=1 replaces it")
        return entry, newest

    def check_quota(self, key: bytes, size: int | None) -> None:
        """Raises `NoRoom` when a value of `size` bytes would go beyond a quota; None: when there is no room at all."""
        self._quotas.check(key, size)

    def wanted(self, key: bytes, replicas: int) -> int:
        """On how many nodes a value is to be; `replicas` as in `Put`."""
        return replicas or self._replicas.wanted(key)

    def check_nodes(self, key: bytes, replicas: int) -> None:
        """Raises `Unavailable` when too few nodes are heard for a value; `replicas` as in `Put`."""
        least = self._replicas.least(replicas or self._replicas.wanted(key))
        if least > 1 and (found := self._nodes.count_alive()) < least:
            raise Unavailable(f"it could not be stored just now: it takes {least} nodes, and {found} can take it")

    async def _attempts(self, put: Put, entry: Entry | None, newest: int, deadline: float) -> StoredValue:
        """Store a value within the quotas. Everything that is stored comes here, with its key's lock held."""
        with self._quotas.reserve(put.key, put.size, put.moved):
            usual = self._replicas.wanted(put.key)
            wanted = put.replicas or usual
            own = wanted if wanted != usual else 0
            if own != content_types.replicas(put.content_type):
                put = put._replace(content_type=content_types.with_replicas(put.content_type, own))
            if wanted > 1:
                return await self._store_copies(put, entry, newest, wanted, deadline)
            return await self._try_nodes(put, entry, newest, deadline)

    async def _store_copies(
        self, put: Put, entry: Entry | None, newest: int, wanted: int, deadline: float
    ) -> StoredValue:
        """Store a value on several nodes at once, all with the same version."""
        new = not newest
        places = [put.node, *put.others] if put.node else []
        while True:
            newest = version = self._versions.next(newest)
            created = now_ms()
            store = put.command(0, version, created)
            holders = [node for node in self._nodes.by_load(entry.nodes) if node not in put.failed] if entry else []
            new_version = NewVersion(store, wanted, places, holders, put.staged_at)
            outcome = await self._copies.store(new_version, deadline)
            if outcome.enough:
                return StoredValue(outcome.stored[0], version, created)
            again = outcome.stale and not outcome.stored and time.monotonic() < deadline
            if not again or newest > (known := self._newest(put.key)):
                break
            newest = known  # a deletion from a time when the clock was ahead; once more, above it
        if outcome.stored:
            # Some may have read it already, so it stays; the others are made when there are nodes for them.
            number = f"{len(outcome.stored)} of the {outcome.least} nodes that it takes"
            raise Unavailable(f"it is stored on {number}, and may be read: {outcome.reason}")
        if outcome.missing and put.source:
            gone = f"version {put.source.version} of {keys.decode(put.source.key)} is gone"
            raise NotFound(f"{gone}: {outcome.reason}")
        if entry is None:
            purge = new and not self._was_deleted(put.key)
            for node in outcome.abandoned:
                self._dispatcher.forget(node, put.key, version, purge=purge)
        raise self._refusal(outcome.full and not outcome.abandoned, outcome.reason)

    async def _try_nodes(self, put: Put, entry: Entry | None, newest: int, deadline: float) -> StoredValue:
        new = not newest
        tried: set[str] = set()
        abandoned: list[tuple[str, int]] = []
        full, reason = False, ""
        try:
            while time.monotonic() < deadline and put.node not in tried:
                newest = version = self._versions.next(newest)
                created = now_ms()
                make = partial(put.command, version=version, created=created)
                ticket = await self._send(make, put.node or self._holder(entry, tried, takes=True), tried, deadline)
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
                if status is Status.MISSING and put.source:
                    raise NotFound(f"version {put.source.version} of {keys.decode(put.source.key)} is gone: {reason}")
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
            # What a key had before stays there to be brought back.
            purge = new and not self._was_deleted(put.key)
            for node, version in abandoned:
                self._dispatcher.forget(node, put.key, version, purge=purge)
        raise self._refusal(full and not abandoned, reason)

    def _was_deleted(self, key: bytes) -> bool:
        with self._index.read() as tables:
            return tables.deletion(key) is not None

    def _newest(self, key: bytes) -> int:
        """The newest version of a key that the index knows of, deletions included; none from beyond the horizon."""
        with self._index.read() as tables:
            known = tables.entry(key), tables.deletion(key)
        highest = Horizon.now().version
        return max((row.version for row in known if row and row.version <= highest), default=0)

    def _holder(self, entry: Entry | None, tried: Collection[str], *, takes: bool = False) -> str | None:
        """The node that has the key's value, where a new version goes: a client on its way there finds one of the two.

        None when there is no value, or that node was tried or is not heard from. `takes`: nor when it is being drained.
        """
        if entry is None:
            return None
        nodes = self._nodes.by_load(entry.nodes) if entry.copies else [entry.node]
        usable = self._nodes.takes if takes else self._nodes.alive
        return next((node for node in nodes if node not in tried and usable(node)), None)

    async def _send(
        self, make: Callable[[int], Command], node: str | None, tried: Collection[str], deadline: float
    ) -> Ticket:
        """Send a command, to any node that was not tried for None, and wait for its outcome."""
        ticket = self._dispatcher.send(make, node, tuple(tried))
        patience = min(self._timeout * ATTEMPT_SHARE, deadline - time.monotonic())
        if await ticket.wait(patience) is None:
            self._dispatcher.abandon(ticket)
            who = f"node {ticket.node} did not answer" if ticket.node else "no node was free"
            ticket.reason = f"{who} within {patience:.1f} s"
        return ticket

    def _refusal(self, full: bool, reason: str) -> Refused:
        if full and self._nodes.any_alive():
            return NoRoom("no node has room for this value")
        return Unavailable(f"it could not be stored just now: {reason or Failure.NO_NODE.value}")

    async def copy(self, copy: Copy) -> tuple[StoredValue, Entry]:
        """Store the value of a key under another one as well. Returns where it is, and the entry of the source.

        Raises `NotFound`, `Conflict`, `ConditionFailed`, `NoRoom` or `Unavailable`.
        """
        deadline = time.monotonic() + self._timeout
        async with self._locks.hold_all((copy.source, copy.target), self._timeout / 2) as held:
            source = self._source_of(copy, held)
            stored = await self._copied(copy, source, deadline)
            phases.announce("copy.stored")
            return stored, source

    async def move(self, copy: Copy) -> tuple[StoredValue, Entry]:
        """As `copy`; then the source is deleted. After an error both may be there: the same call goes on from there."""
        deadline = time.monotonic() + self._timeout
        async with self._locks.hold_all((copy.source, copy.target), self._timeout / 2) as held:
            source = self._source_of(copy, held)
            stored = self._copied_before(copy, source)
            if stored is None:
                own = content_types.replicas(source.content_type)
                stored = await self._copied(copy, source, deadline, own, move=True)
            phases.announce("move.copied")
            try:
                await self._delete(copy.source, source, max(deadline, time.monotonic() + self._timeout / 2), purge=True)
            except Unavailable as error:
                told = f"the value is under {keys.decode(copy.target)}, and still under {keys.decode(copy.source)}, too"
                raise Unavailable(f"{told}; repeat the request: {error}") from error
            phases.announce("move.deleted")
            return stored, source

    async def renew(self, key: bytes, check: Check, expires: int) -> StoredValue:
        """Give a value another end of its lifetime, in ms since the epoch, 0: never. It counts as stored anew.

        Raises `NotFound`, `ConditionFailed`, `NoRoom` or `Unavailable`.
        """
        deadline = time.monotonic() + self._timeout
        copy = Copy(key, key, check, overwrite=True, expires=expires)
        async with self._locks.hold(key, self._timeout / 2) as held:
            source = self._source_of(copy, held)
            return await self._copied(copy, source, deadline, content_types.replicas(source.content_type))

    def _source_of(self, copy: Copy, held: bool) -> Entry:
        """The live entry of what is to be copied, which fulfils the conditions."""
        if not held:
            raise Unavailable("another client is writing one of these keys; try again")
        source = self._index.get(copy.source)
        if source is None or not source.live(now_ms()):
            raise missing(keys.decode(copy.source), self._nodes)
        require_newest(copy.source, self._replicas, self._nodes)
        copy.check(source)
        return source

    async def _copied(
        self, copy: Copy, source: Entry, deadline: float, replicas: int = 0, *, move: bool = False
    ) -> StoredValue:
        entry, newest = self.admit(copy.target, lambda _: None, copy.overwrite)
        put = Put(
            key=copy.target,
            size=source.size,
            digest=source.digest,
            content_type=source.content_type,
            expires=source.expires if copy.expires is None else copy.expires,
            overwrite=copy.overwrite,
            check=lambda _: None,
            moved=copy.source if move else None,
            replicas=replicas,
        )
        alive = [node for node in source.nodes if self._nodes.alive(node)]
        if alive:
            put = put._replace(node=alive[0], others=alive[1:], source=Source(copy.source, source.version))
        elif source.value is not None:
            put = put._replace(value=source.value)
        else:
            nodes = ", ".join(source.nodes)
            raise Unavailable(f"node {nodes}, which has this value, was not heard from lately; try again")
        return await self._attempts(put, entry, newest, deadline)

    def _copied_before(self, copy: Copy, source: Entry) -> StoredValue | None:
        """Where an earlier call of `move` has put the value before it was interrupted; None when it has not."""
        found = self._index.get(copy.target)
        if found is None or not found.live(now_ms()) or found.created < source.created:
            return None
        media = content_types.unpack(found.content_type) == content_types.unpack(source.content_type)
        same = media and (found.size, found.digest) == (source.size, source.digest)
        lives = found.expires == source.expires if copy.expires is None else bool(found.expires) == bool(copy.expires)
        return StoredValue(found.node, found.version, found.created) if same and lives else None

    async def delete(self, key: bytes, check: Check, *, purge: bool = False) -> None:
        """Delete a key; with `purge`, neither its value nor an older one can be brought back from any node.

        Raises `NotFound`, `ConditionFailed` or `Unavailable`.
        """
        deadline = time.monotonic() + self._timeout
        async with self._locks.hold(key, self._timeout / 2) as held:
            if not held:
                raise Unavailable("another client is writing this key; try again")
            entry = self._index.get(key)
            if entry is None or not entry.live(now_ms()):
                if not (purge and self._was_deleted(key)):
                    raise missing(keys.decode(key), self._nodes)
                entry = None
            require_newest(key, self._replicas, self._nodes)
            check(entry)
            version = await self._delete(key, entry, deadline, purge=purge)
            if purge:
                for node in self._nodes.names():
                    self._dispatcher.forget(node, key, version, purge=True)

    async def _delete(self, key: bytes, entry: Entry | None, deadline: float, *, purge: bool) -> int:
        """Write a tombstone above the entry; returns its version. Raises `Unavailable`."""
        with self._index.read() as tables:
            deletion = tables.deletion(key)
        version = self._versions.next(max(entry.version if entry else 0, deletion.version if deletion else 0))
        if entry and entry.copies:
            command = Delete(0, key, version, purge)
            try:
                outcome = await self._copies.delete(command, self._nodes.by_load(entry.nodes), deadline)
            except LinkDown as error:
                raise Unavailable(str(error)) from error
            if outcome.enough:
                return version
            raise Unavailable(f"it could not be deleted just now: {outcome.reason or 'no node was heard from lately'}")
        make = partial(Delete, key=key, version=version, purge=purge)
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
                return version
            reason = ticket.reason
            log.warning("delete failed", key=key, version=version, node=node, status=ticket.status, reason=reason)
        raise Unavailable(f"it could not be deleted just now: {reason or 'no node was heard from lately'}")
