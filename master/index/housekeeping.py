"""What the controller does once a second: end lifetimes, deliver discards, forget old deletions."""

from __future__ import annotations

import queue
import struct
import time
from typing import Any

import msgpack

from broker import logs, topology
from broker.clock import DAY_MS
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Commands, Delete
from master.index.environment import pack, stamped
from master.index.index import Discard, Index, unpack_entry, unpack_tomb

log = logs.get(__name__)

BATCH = 5_000  # keys in one transaction
TOMBS_EVERY_SECS = 3600.0


class Housekeeping:
    """Of the controller; used on its thread alone."""

    def __init__(self, index: Index, link: Link, tombstone_days: int) -> None:
        self._index = index
        self._link = link
        self._tombstone_ms = tombstone_days * DAY_MS
        self._next_tombs = 0.0
        self._sent: set[bytes] = set()  # rows of the outbox that are on their way
        self._arrived: queue.SimpleQueue[tuple[list[bytes], bool]] = queue.SimpleQueue()

    def tick(self, now: int) -> None:
        """Do what is due."""
        self._expire(now)
        self._settle_outbox()
        self._send_outbox(now)
        if time.monotonic() >= self._next_tombs:
            self._next_tombs = time.monotonic() + TOMBS_EVERY_SECS
            self._forget_tombs(now)

    def _expire(self, now: int) -> None:
        """Values whose lifetime has ended leave the index; their nodes are told by the outbox."""
        index = self._index
        with index.env.begin(db=index.expiry) as txn:
            due = _due(txn, index.expiry, now)
        if not due:
            return
        with index.env.begin(write=True) as txn:
            freed = 0
            for row, key in due:
                txn.delete(row, db=index.expiry)
                version = struct.unpack(">QQ", row)[1]
                raw = txn.get(key, db=index.entries)
                entry = None if raw is None else unpack_entry(raw)
                if entry is None or entry.version != version:
                    continue
                txn.delete(key, db=index.entries)
                txn.put(key, stamped(version, now), db=index.tombs)
                txn.put(stamped(now, version), pack(Discard(entry.node, key, version)), db=index.outbox)
                freed += entry.size
                log.debug("lifetime ended", key=key, version=version, node=entry.node)
            index.add_bytes(txn, -freed)
        log.info("lifetimes ended", keys=len(due))

    def _send_outbox(self, now: int) -> None:
        """Versions that nodes shall forget; a row stays until the broker has its message safe."""
        if not self._link.ready:
            return
        index = self._index
        with index.env.begin(db=index.outbox) as txn:
            due = _due(txn, index.outbox, now)
        by_node: dict[str, list[tuple[bytes, Delete]]] = {}
        for row, raw in due:
            if row not in self._sent:
                discard = Discard._make(msgpack.unpackb(raw))
                by_node.setdefault(discard.node, []).append((row, Delete(0, discard.key, discard.version)))
        for node, items in by_node.items():
            rows = [row for row, _ in items]
            self._sent.update(rows)
            self._link.publish(
                topology.node_queue(node),
                encode(Commands("", [command for _, command in items])),
                durable=True,
                done=lambda arrived, rows=rows: self._arrived.put((rows, arrived)),  # type: ignore[misc]
            )

    def _settle_outbox(self) -> None:
        settled: list[bytes] = []
        while not self._arrived.empty():
            rows, arrived = self._arrived.get()
            self._sent.difference_update(rows)
            if arrived:
                settled += rows
        if settled:
            with self._index.env.begin(write=True, db=self._index.outbox) as txn:
                for row in settled:
                    txn.delete(row)

    def _forget_tombs(self, now: int) -> None:
        """Deletions are remembered for as long as a backup may bring an older version."""
        index = self._index
        after: bytes | None = b""
        forgotten = 0
        while after is not None:
            old: list[bytes] = []
            with index.env.begin(db=index.tombs) as txn, txn.cursor() as cursor:
                found = cursor.set_range(after)
                seen = 0
                while found and seen < BATCH:
                    if now - unpack_tomb(cursor.value())[1] > self._tombstone_ms:
                        old.append(cursor.key())
                    seen += 1
                    found = cursor.next()
                after = cursor.key() if found else None
            if old:
                with index.env.begin(write=True, db=index.tombs) as txn:
                    for key in old:
                        txn.delete(key)
                forgotten += len(old)
        if forgotten:
            log.info("old deletions forgotten", keys=forgotten)


def _due(txn: Any, database: Any, now: int) -> list[tuple[bytes, bytes]]:
    """Rows of a database with stamped keys whose time has come, the oldest first."""
    due: list[tuple[bytes, bytes]] = []
    with txn.cursor(db=database) as cursor:
        for row, value in cursor:
            if row > stamped(now, (1 << 64) - 1) or len(due) >= BATCH:
                break
            due.append((row, value))
    return due
