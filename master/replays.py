"""Notices that something of a node's log was not applied, and asks the node to send it again.

Every result carries its place in its node's log, and every heartbeat says where that log ends. So a lost
message, a lost transaction, an empty index and `manage.py --restore` are one thing: a replay from the
node's cursor.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages import Heartbeat, Replay, Results, encode
from master.index import Index, pack
from master.projection import Cursor, Projection

log = logs.get(__name__)

PATIENCE_SECS = 15.0  # without a message of a replay: ask again
SETTLE_SECS = 1.0  # from the first heartbeat that a new index has seen until it may say what it does not know
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
        """Apply a node's log from its beginning, or every node's when `node` is empty."""
        names = [node] if node else list(self._index.read_nodes())
        for name in names:
            with self._index.env.begin(write=True) as txn:
                self._projection.restart(txn, name)
            self._watch(name).request = ""
            self._ask(name, "restore was asked for")
        self._note_restoring()

    def tick(self) -> None:
        """Ask again for a replay that got stuck; go on with what a full one left to prune."""
        for node, watch in self._watches.items():
            if watch.request and time.monotonic() - watch.heard > PATIENCE_SECS:
                watch.request = ""
                self._ask(node, "the replay got stuck")
            if watch.pruning is not None:
                self._prune(node, watch)
        if self._restoring is None and self._first:
            self._note_restoring()

    def _heartbeat(self, node: str, heartbeat: Heartbeat) -> None:
        watch = self._watch(node)
        cursor = self._cursor(node)
        before, applied = watch.heartbeat, watch.applied
        watch.heartbeat, watch.applied = heartbeat, cursor.seq
        if before is None or before.epoch != heartbeat.epoch:
            watch.promised = heartbeat.seq
            watch.request = ""  # whoever was to answer is gone
        known = any(epoch == heartbeat.epoch for _, epoch in cursor.epochs)
        if cursor.seq == 0 and heartbeat.seq:
            self._ask(node, "nothing of it was applied yet")
        elif not known:
            self._ask(node, "its agent was started again")
        elif before and before.seq > cursor.seq and applied == cursor.seq:
            # What the heartbeat before this one told of is still not here, and nothing has come meanwhile.
            self._ask(node, "results are missing")

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
        if watch.pruning is None:
            log.info("restore finished", node=node, removed=watch.pruned)
            self._note_restoring()

    def _note_restoring(self) -> None:
        """Tell the web workers which nodes' keys the index can't know all of yet."""
        if self._restoring is None and time.monotonic() - self._first < SETTLE_SECS:
            return  # nodes answer an announcement at once, but not all in the same moment
        restoring = []
        for node, watch in self._watches.items():
            cursor = self._cursor(node)
            beat = watch.heartbeat
            if (
                cursor.prune
                or cursor.seq < watch.promised
                or (beat and beat.seq - cursor.seq > _NEAR and watch.request)
            ):
                restoring.append(node)
        if restoring != self._restoring:
            with self._index.env.begin(write=True) as txn:
                txn.put(b"restoring", pack(restoring), db=self._index.meta)
            self._restoring = restoring

    def _watch(self, node: str) -> _Watch:
        return self._watches.setdefault(node, _Watch())

    def _cursor(self, node: str) -> Cursor:
        with self._index.env.begin() as txn:
            return self._projection.cursor(txn, node)
