"""Notices that something of a node's log was not applied, and asks the node to send it again.

Every result carries its place in its node's log, and every heartbeat says where that log ends. So a lost
message, a lost transaction, an empty index and `manage.py --restore` are one thing: a replay from the
node's cursor. While an index is new, or a node shows another log than before, the nodes in question are noted
as `restoring`: a key that the index does not know may be theirs.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Heartbeat, Replay, Results
from broker.refusals import Conflict
from master.index.environment import pack
from master.index.index import Index
from master.index.projection import Cursor, Projection

log = logs.get(__name__)

PATIENCE_SECS = 15.0  # without a message of a replay: ask again
SETTLE_SECS = 1.0  # from the first heartbeat that a new index has seen until it may say what it does not know
EMPTY_SECS = 0.2  # the same while every node that was heard is new, too, as in a new cluster
PRUNE_BATCH = 20_000  # entries looked at in one transaction
_NEAR = 5_000  # records; a node further behind is being restored


@dataclass
class _Watch:
    """What is known of one node."""

    heartbeat: Heartbeat | None = None
    applied: int = 0  # the cursor when the heartbeat came
    request: str = ""  # the replay under way
    heard: float = 0.0  # when its last message came
    started: float = 0.0
    received: int = 0
    pruning: bytes | None = None
    pruned: int = 0
    asked_from: int = 0
    promised: int = 0  # seq of the first heartbeat of its agent: until that is applied, the index may not know a key


class Replays:
    """Of the controller; used on its thread alone."""

    def __init__(self, index: Index, projection: Projection, link: Link) -> None:
        self._index = index
        self._projection = projection
        self._link = link
        self._watches: dict[str, _Watch] = {}
        self._restoring: list[str] | None = index.read_meta("restoring")
        self._first = 0.0  # when the first heartbeat came
        self._forgotten: list[str] = index.read_meta("forgotten") or []  # nodes whose entries are to be removed
        for node in self._forgotten:
            self._watch(node).pruning = b""

    def observe(self, results: Sequence[Results], heartbeats: Mapping[str, Heartbeat], gaps: set[str]) -> None:
        """See whether what was just received leaves something missing."""
        for message in results:
            watch = self._watch(message.node)
            if message.request and message.request == watch.request:
                watch.heard = time.monotonic()
                watch.received += len(message.items)
                if message.last:
                    self._stretch_ended(message.node, watch, message)
        for node in gaps:
            self._ask(node, "results are missing")
        for node, heartbeat in heartbeats.items():
            self._heartbeat(node, heartbeat)
        if heartbeats and not self._first:
            self._first = time.monotonic()
        if heartbeats or self._restoring or any(message.last for message in results):
            self._note_restoring()

    def restore(self, node: str) -> None:
        """Apply a node's log from its beginning again, or every node's when `node` is empty; no key is unknown meanwhile.

        Raises `Conflict` when that is being done already, or the index does not have all of it yet.
        """
        names = [node] if node else list(self._index.read_nodes())
        for name in names:
            cursor, watch = self._cursor(name), self._watch(name)
            if cursor.prune or self._lacks(name, cursor, watch):
                end = watch.heartbeat.seq if watch.heartbeat else cursor.complete_to
                raise Conflict(
                    f"the log of {name} is being applied from the beginning already: {min(cursor.seq, end):,} of"
                    f" {end:,} records; GET /internal/restore tells how far it is"
                )
        for name in names:
            with self._index.env.begin(write=True) as txn:
                self._projection.restart(txn, name, same=True)
            self._watch(name).request = ""
            self._ask(name, "restore was asked for")
        self._note_restoring()

    def forget(self, node: str, entries: bool) -> None:
        """A node is gone for good: wait for it no more. With `entries` those of it leave the index, some each second."""
        self._watches.pop(node, None)
        with self._index.env.begin(write=True) as txn:
            txn.delete(node.encode(), db=self._index.nodes)
            if entries:
                self._projection.restart(txn, node)
        if entries:
            self._note_forgotten([*self._forgotten, node])
            self._watch(node).pruning = b""
        log.warning("node forgotten", node=node, entries=entries)
        self._note_restoring()

    def settles_in(self) -> float:
        """Seconds until a new index may say what it does not know; infinite when it does, or nobody was heard."""
        if self._restoring is not None or not self._first:
            return math.inf
        beats = [watch.heartbeat for watch in self._watches.values() if watch.heartbeat]
        return self._first + (EMPTY_SECS if all(map(_is_new, beats)) else SETTLE_SECS) - time.monotonic()

    def settle(self) -> None:
        """Have a new index say what it does not know, when it is time."""
        if self.settles_in() <= 0:
            self._note_restoring()

    def tick(self) -> None:
        """Ask again for a replay that got stuck; go on with what a full one left to prune."""
        for node, watch in list(self._watches.items()):
            if watch.request and time.monotonic() - watch.heard > PATIENCE_SECS:
                watch.request = ""
                self._ask(node, "the replay got stuck")
            if watch.pruning is not None:
                self._prune(node, watch)

    def _heartbeat(self, node: str, heartbeat: Heartbeat) -> None:
        watch = self._watch(node)
        cursor = self._cursor(node)
        before, applied = watch.heartbeat, watch.applied
        watch.heartbeat, watch.applied = heartbeat, cursor.seq
        if node in self._forgotten:
            self._note_forgotten([name for name in self._forgotten if name != node])
            watch.pruning = None
        if before is None or before.epoch != heartbeat.epoch:
            watch.promised = 0 if _is_new(heartbeat) else heartbeat.seq
            watch.request = ""  # whoever was to answer is gone
        known = any(epoch == heartbeat.epoch for _, epoch in cursor.epochs)
        if cursor.seq == 0 and heartbeat.seq:
            self._ask(node, "nothing of it was applied yet")
        elif not known:
            self._ask(node, "its agent was started again")
        elif before and before.seq > cursor.seq and applied == cursor.seq:
            # What the heartbeat before this one told of is still not here, and nothing has come meanwhile.
            self._ask(node, "results are missing")
        elif cursor.prune and watch.pruning is None and not watch.request and cursor.seq >= heartbeat.seq:
            # The controller was started again between the end of the replay and that of what follows it.
            watch.pruning, watch.pruned = b"", 0

    def _ask(self, node: str, reason: str) -> None:
        """Ask for a replay from the cursor, unless one is under way."""
        watch = self._watch(node)
        if watch.request:
            return
        now = time.monotonic()
        if self._request(node, watch, now):
            log.info("replay asked for", node=node, after=watch.asked_from, reason=reason)
            watch.started, watch.received = now, 0

    def _request(self, node: str, watch: _Watch, now: float) -> bool:
        cursor = self._cursor(node)
        request = secrets.token_hex(4)
        message = encode(Replay(request, cursor.seq))
        try:
            self._link.publish(topology.node_queue(node), message, ttl_ms=int(PATIENCE_SECS * 1000))
        except LinkDown as error:
            log.debug("no replay asked for", node=node, reason=error)
            return False
        watch.request, watch.heard, watch.asked_from = request, now, cursor.seq
        return True

    def _stretch_ended(self, node: str, watch: _Watch, message: Results) -> None:
        """The last message of what was asked for is applied: ask for the next stretch, or be done."""
        cursor = self._cursor(node)
        watch.request = ""
        if watch.asked_from > cursor.seq:
            self._ask(node, "its log is another one than before")
        elif watch.asked_from < cursor.seq < message.end:
            self._request(node, watch, time.monotonic())
        else:
            seconds = time.monotonic() - watch.started
            log.info("replay applied", node=node, seq=cursor.seq, records=watch.received, seconds=seconds)
            if cursor.prune:
                watch.pruning, watch.pruned = b"", 0

    def _prune(self, node: str, watch: _Watch) -> None:
        assert watch.pruning is not None
        with self._index.env.begin(write=True) as txn:
            if not self._projection.cursor(txn, node).prune:
                watch.pruning = None
                return
            watch.pruning, removed = self._projection.prune(txn, node, watch.pruning, PRUNE_BATCH)
        watch.pruned += removed
        if watch.pruning is not None:
            return
        log.info("restore finished", node=node, removed=watch.pruned)
        if node in self._forgotten:
            with self._index.env.begin(write=True) as txn:
                self._projection.drop(txn, node)
            self._watches.pop(node, None)
            self._note_forgotten([name for name in self._forgotten if name != node])
        self._note_restoring()

    def _note_restoring(self) -> None:
        """Tell the web workers which nodes' keys the index can't know all of yet."""
        if self._restoring is None and not self.settles_in() <= 0:
            return  # nodes answer an announcement at once, but not all in the same moment
        watches = self._watches.items()
        restoring = [node for node, watch in watches if self._lacks(node, self._cursor(node), watch)]
        if restoring != self._restoring:
            with self._index.env.begin(write=True) as txn:
                txn.put(b"restoring", pack(restoring), db=self._index.meta)
            self._restoring = restoring

    def _lacks(self, node: str, cursor: Cursor, watch: _Watch) -> bool:
        """Whether the index may lack keys of a node's log."""
        if node in self._forgotten:
            return False
        # When its own log is applied again, it has them all; when that is another log than before, it has not.
        another = cursor.prune and not cursor.covered
        behind = watch.heartbeat.seq - cursor.complete_to if watch.heartbeat else 0
        return another or cursor.complete_to < watch.promised or bool(behind > _NEAR and watch.request)

    def _note_forgotten(self, nodes: list[str]) -> None:
        self._forgotten = nodes
        with self._index.env.begin(write=True) as txn:
            txn.put(b"forgotten", pack(nodes), db=self._index.meta)

    def _watch(self, node: str) -> _Watch:
        return self._watches.setdefault(node, _Watch())

    def _cursor(self, node: str) -> Cursor:
        with self._index.env.begin() as txn:
            return self._projection.cursor(txn, node)


def _is_new(heartbeat: Heartbeat) -> bool:
    """Whether nothing can be in the node's log but that its agent has started, for the first time."""
    return heartbeat.seq <= 1
