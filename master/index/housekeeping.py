"""What the controller does once a second: end lifetimes, deliver discards, forget old deletions and dead messages."""

from __future__ import annotations

import queue
import time
from itertools import islice

from broker import logs, topology
from broker.clock import DAY_MS, DAY_SECS
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Command, Commands, Delete, Drop
from master.index import discards
from master.index.events import EXPIRED
from master.index.index import Deletion, Discard, Index
from master.index.projection import of_entry

log = logs.get(__name__)

BATCH = 5_000  # keys in one transaction
DEAD_SECS = 60.0  # between two looks for old messages in `pulzar.dead`
DEAD_BATCH = 500  # of them at a time
DELETIONS_SECS = 3600.0  # between two looks for deletions that may be forgotten


class Housekeeping:
    """Ends lifetimes, sends discards, forgets deletions and dead messages. For the controller's thread alone.

    Deletions are forgotten after `tombstone_days`, dead messages after `retention_days`.
    """

    def __init__(self, index: Index, link: Link, *, tombstone_days: int, retention_days: int) -> None:
        self._index = index
        self._link = link
        self._tombstone_ms = tombstone_days * DAY_MS
        self._retention_secs = retention_days * DAY_SECS
        self._next_deletions = 0.0  # monotonic clock, like the next one
        self._next_dead = 0.0
        self._sent: set[bytes] = set()  # rows of the outbox that are on their way
        self._confirms: queue.SimpleQueue[tuple[list[bytes], bool]] = queue.SimpleQueue()

    def tick(self, now: int) -> None:
        """Do what is due at `now`, in ms since the epoch; raises `lmdb.Error` when the index can't be written."""
        self._end_lifetimes(now)
        self._settle_outbox()
        self._send_outbox(now)
        if time.monotonic() >= self._next_deletions:
            self._next_deletions = time.monotonic() + DELETIONS_SECS
            self._forget_deletions(now)
        if time.monotonic() >= self._next_dead:
            self._next_dead = time.monotonic() + DEAD_SECS
            self._link.expire_dead(now / 1000 - self._retention_secs, DEAD_BATCH)

    def _end_lifetimes(self, now: int) -> None:
        """Values whose lifetime has ended leave the index; the outbox tells their nodes."""
        with self._index.read() as tables:
            ended = tables.ended_lifetimes(now, BATCH)
        if not ended:
            return
        with self._index.write() as tables:
            for lifetime in ended:
                tables.drop_lifetime(lifetime)
                entry = tables.entry(lifetime.key)
                if entry is None or entry.version != lifetime.version:
                    continue
                tables.drop_entry(lifetime.key, entry)
                tables.tell(of_entry(EXPIRED, now, lifetime.key, entry))
                tables.set_deletion(lifetime.key, Deletion(entry.version, now))
                for node in entry.nodes:
                    tables.add_discard(Discard(node, lifetime.key, entry.version), now)
                log.debug("lifetime ended", key=lifetime.key, version=entry.version, nodes=entry.nodes)
        log.info("lifetimes ended", keys=len(ended))

    def _send_outbox(self, now: int) -> None:
        """Tell nodes what they must forget; a row stays until the broker has its message safe."""
        if not self._link.ready:
            return
        with self._index.read() as tables:
            due = tables.due_discards(now, BATCH)
            unsure = any(discard.generation or discard.drop for _, discard in due)
        if unsure:
            with self._index.write() as tables:
                due = discards.decide(tables, due, now)
        by_node: dict[str, list[tuple[bytes, Command]]] = {}
        for row, discard in due:
            if row not in self._sent:
                command: Command = Delete(0, discard.key, discard.version, discard.purge)
                if discard.drop:
                    command = Drop(0, discard.key, discard.version)
                by_node.setdefault(discard.node, []).append((row, command))
        for node, items in by_node.items():
            self._send(node, [row for row, _ in items], [command for _, command in items])

    def _send(self, node: str, rows: list[bytes], commands: list[Command]) -> None:
        self._sent.update(rows)
        self._link.publish(
            topology.node_queue(node),
            encode(Commands("", [*commands])),
            durable=True,
            done=lambda confirmed: self._confirms.put((rows, confirmed)),
        )

    def _settle_outbox(self) -> None:
        """Drop the rows whose message the broker has; the others are sent again."""
        settled: list[bytes] = []
        while not self._confirms.empty():
            rows, confirmed = self._confirms.get()
            self._sent.difference_update(rows)
            if confirmed:
                settled += rows
        if settled:
            with self._index.write() as tables:
                for row in settled:
                    tables.drop_discard(row)

    def _forget_deletions(self, now: int) -> None:
        """Deletions are remembered for as long as a backup may bring an older version."""
        forgotten = 0
        after: bytes | None = b""
        while after is not None:
            with self._index.read() as tables:
                stretch = list(islice(tables.deletions(after), BATCH))
            after = stretch[-1][0] if stretch else None
            old = [key for key, deletion in stretch if now - deletion.noted > self._tombstone_ms]
            if old:
                with self._index.write() as tables:
                    for key in old:
                        tables.drop_deletion(key)
                forgotten += len(old)
        if forgotten:
            log.info("old deletions forgotten", keys=forgotten)
