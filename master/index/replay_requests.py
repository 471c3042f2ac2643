"""Notices that something of a node's log was not applied, and asks the node to send it again.

Every result carries its place in its node's log, and every heartbeat says where that log ends. So a lost
message, a lost transaction, an empty index and `manage.py --restore` are one thing: a replay from the
node's cursor. While an index is new, or a node shows another log than before, the index may lack keys: it is
incomplete, and says for which nodes.

The words used here: a replay is what a node sends again of its log, a stretch at a time. A restore is a replay from the
beginning that somebody asked for. Pruning follows a replay from the beginning: it removes what the log did not bring.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from broker import logs, topology
from broker.clock import now_ms
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Heartbeat, Replay, Results
from broker.refusals import Conflict
from master.index.events import RESET, Event
from master.index.index import Cursor, Index, Unsure
from master.index.projection import Projection, cursor_of

log = logs.get(__name__)

PATIENCE_SECS = 15.0  # without a message of a replay: ask again
SETTLE_SECS = 1.0  # from the first heartbeat that a new index has seen until it may say what it does not know
EMPTY_SECS = 0.2  # the same while every node that was heard is new, too, as in a new cluster
PRUNE_BATCH = 20_000  # entries looked at in one transaction
_FILLED = "the index was filled again: keys may have changed without an event"
_NEAR = 5_000  # records; the index may lack keys of a node that is further behind


@dataclass
class _Request:
    """A stretch of a log that a node was asked for and has not sent to its end."""

    id: str
    after: int  # seq behind which the stretch begins
    heard: float  # when its last message came, by the monotonic clock


@dataclass
class _Pruning:
    """How far the entries have been looked through."""

    after: bytes = b""  # encoded key
    removed: int = 0


@dataclass
class _Log:
    """What is known of one node's log, beside its cursor."""

    heartbeat: Heartbeat | None = None
    unheard: bool = False  # the index lacked keys when this controller started, and the node was not heard since
    applied: int = 0  # seq of the cursor when the heartbeat came
    promised: int = 0  # seq of the first heartbeat of its agent: until that is applied, the index may lack keys
    request: _Request | None = None
    started: float = 0.0  # when the first stretch of the replay was asked for, by the monotonic clock
    records: int = 0  # received since then
    pruning: _Pruning | None = None


class ReplayRequests:
    """Decides when to ask which node for a replay, and notes for which nodes the index is incomplete.

    For the controller's thread alone. Its methods raise `lmdb.Error` when the index can't be written.
    """

    def __init__(self, index: Index, projection: Projection, link: Link) -> None:
        self._index = index
        self._projection = projection
        self._link = link
        self._logs: dict[str, _Log] = {}
        self._first: float | None = None  # when the first heartbeat came, by the monotonic clock
        with index.read() as tables:
            self._incomplete = tables.incomplete()
            self._forgotten = tables.forgotten()
            self._unsure = tables.unsure()
        for node in self._forgotten:
            self._log(node).pruning = _Pruning()
        for node in self._incomplete or ():
            self._log(node).unheard = True

    def observe(self, results: Sequence[Results], heartbeats: Mapping[str, Heartbeat], gaps: set[str]) -> None:
        """Notice what is missing after what was just received, and ask for it."""
        for message in results:
            node_log = self._log(message.node)
            request = node_log.request
            if message.request and request and message.request == request.id:
                request.heard = time.monotonic()
                node_log.records += len(message.items)
                if message.last:
                    self._stretch_ended(message, node_log, request)
        for node in gaps:
            self._ask(node, "results are missing")
        for node, heartbeat in heartbeats.items():
            self._heartbeat(node, heartbeat)
        if heartbeats and self._first is None:
            self._first = time.monotonic()
        if heartbeats or self._incomplete or self._unsure.nodes or any(message.last for message in results):
            self._note_incomplete()

    def restore(self, node: str | None) -> None:
        """Apply a node's log from its beginning again, or every node's for None; no key is unknown meanwhile.

        Raises `Conflict` when that is being done already, or the index does not have all of it yet.
        """
        with self._index.read() as tables:
            names = list(tables.nodes()) if node is None else [node]
        for name in names:
            cursor, node_log = self._cursor(name), self._log(name)
            if cursor.prune or self._lacks(name, cursor, node_log):
                end = node_log.heartbeat.seq if node_log.heartbeat else cursor.complete_to
                raise Conflict(
                    f"the log of {name} is being applied from the beginning already: {min(cursor.seq, end):,} of"
                    f" {end:,} records; GET /internal/restore tells how far it is"
                )
        for name in names:
            with self._index.write() as tables:
                self._projection.reset_cursor(tables, name, same_log=True)
            self._log(name).request = None
            self._ask(name, "restore was asked for")
        self._note_incomplete()

    def forget(self, node: str, entries: bool) -> None:
        """Wait no more for a node that is gone for good. With `entries`, its entries leave the index bit by bit."""
        self._logs.pop(node, None)
        with self._index.write() as tables:
            tables.drop_node(node)
            if entries:
                self._projection.reset_cursor(tables, node)
        if entries:
            self._note_forgotten([*self._forgotten, node])
            self._log(node).pruning = _Pruning()
        log.warning("node forgotten", node=node, entries=entries)
        self._note_incomplete()

    def settles_in(self) -> float:
        """Seconds until a new index may say what it does not know; infinite when it does so, or no node was heard."""
        if self._incomplete is not None or self._first is None:
            return math.inf
        beats = [node_log.heartbeat for node_log in self._logs.values() if node_log.heartbeat]
        return self._first + (EMPTY_SECS if all(map(_is_new, beats)) else SETTLE_SECS) - time.monotonic()

    def settle(self) -> None:
        """Let a new index say what it does not know, when it is time."""
        if self.settles_in() <= 0:
            self._note_incomplete()

    def tick(self) -> None:
        """Ask again for a replay that got stuck, and prune some more."""
        for node, node_log in list(self._logs.items()):
            if node_log.request and time.monotonic() - node_log.request.heard > PATIENCE_SECS:
                node_log.request = None
                self._ask(node, "the replay got stuck")
            if node_log.pruning:
                self._prune(node, node_log, node_log.pruning)

    def _heartbeat(self, node: str, heartbeat: Heartbeat) -> None:
        node_log = self._log(node)
        cursor = self._cursor(node)
        before, applied = node_log.heartbeat, node_log.applied
        unheard, node_log.unheard = node_log.unheard, False
        node_log.heartbeat, node_log.applied = heartbeat, cursor.seq
        if node in self._forgotten:
            self._note_forgotten([name for name in self._forgotten if name != node])
            node_log.pruning = None
        if before is None or before.epoch != heartbeat.epoch:
            node_log.promised = 0 if _is_new(heartbeat) else heartbeat.seq
            node_log.request = None  # the agent that was asked has ended
        known = any(epoch == heartbeat.epoch for _, epoch in cursor.epochs)
        if cursor.seq == 0 and heartbeat.seq:
            self._ask(node, "nothing of it was applied yet")
        elif not known:
            self._ask(node, "its agent was started again")
        elif unheard and heartbeat.seq > cursor.seq:
            self._ask(node, "the index lacked some of it when it was opened")
        elif before and before.seq > cursor.seq and applied == cursor.seq:
            # What the heartbeat before this one told of is still not here, and nothing has come meanwhile.
            self._ask(node, "results are missing")
        elif cursor.prune and not node_log.pruning and not node_log.request and cursor.seq >= heartbeat.seq:
            # The controller was started again between the end of the replay and that of the pruning.
            node_log.pruning = _Pruning()

    def _ask(self, node: str, reason: str) -> None:
        """Ask for a replay from the cursor, unless one is under way."""
        node_log = self._log(node)
        if node_log.request:
            return
        node_log.request = self._request(node)
        if node_log.request:
            log.info("replay asked for", node=node, after=node_log.request.after, reason=reason)
            node_log.started, node_log.records = node_log.request.heard, 0

    def _request(self, node: str) -> _Request | None:
        """Ask a node for a stretch; None when there is no connection to RabbitMQ."""
        request = _Request(secrets.token_hex(4), self._cursor(node).seq, time.monotonic())
        message = encode(Replay(request.id, request.after))
        try:
            self._link.publish(topology.node_queue(node), message, ttl_ms=int(PATIENCE_SECS * 1000))
        except LinkDown as error:
            log.debug("no replay asked for", node=node, reason=error)
            return None
        return request

    def _stretch_ended(self, message: Results, node_log: _Log, request: _Request) -> None:
        """The last message of what was asked for is applied: ask for the next stretch, or be done."""
        node = message.node
        cursor = self._cursor(node)
        node_log.request = None
        if request.after > cursor.seq:
            self._ask(node, "its log is another one than before")
        elif request.after < cursor.seq < message.end:
            node_log.request = self._request(node)
        else:
            seconds = time.monotonic() - node_log.started
            log.info("replay applied", node=node, seq=cursor.seq, records=node_log.records, seconds=seconds)
            if cursor.prune:
                node_log.pruning = _Pruning()

    def _prune(self, node: str, node_log: _Log, pruning: _Pruning) -> None:
        with self._index.write() as tables:
            if not cursor_of(tables, node).prune:
                node_log.pruning = None
                return
            after, removed = self._projection.prune(tables, node, pruning.after, PRUNE_BATCH)
        pruning.removed += removed
        if after is not None:
            pruning.after = after
            return
        node_log.pruning = None
        log.info("restore finished", node=node, removed=pruning.removed)
        if node in self._forgotten:
            with self._index.write() as tables:
                self._projection.drop(tables, node)
            self._logs.pop(node, None)
            self._note_forgotten([name for name in self._forgotten if name != node])
        self._note_incomplete()

    def _note_incomplete(self) -> None:
        """Tell the web workers of which nodes' logs the index may lack keys, and which nodes may lack their copies."""
        with self._index.read() as tables:
            cursors = {node: cursor_of(tables, node) for node in [*self._logs, *tables.nodes()]}
        self._note_unsure([node for node, cursor in sorted(cursors.items()) if self._may_lack_copies(node, cursor)])
        if self._incomplete is None and not self.settles_in() <= 0:
            return  # nodes answer an announcement at once, but not all in the same moment
        logs_now = self._logs.items()
        incomplete = [node for node, node_log in logs_now if self._lacks(node, cursors[node], node_log)]
        if incomplete != self._incomplete:
            with self._index.write() as tables:
                tables.set_incomplete(incomplete)
                if not incomplete and tables.usage().keys:
                    tables.tell(Event(RESET, now_ms(), "", {"reason": _FILLED}))
            self._incomplete = incomplete

    def _note_unsure(self, nodes: list[str]) -> None:
        """Note the nodes whose copies may be gone. In the transaction that frees one, nobody may take it for sure."""
        if nodes != self._unsure.nodes:
            more = not set(nodes) <= set(self._unsure.nodes)
            self._unsure = Unsure(nodes, self._unsure.changes + more)
            with self._index.write() as tables:
                tables.set_unsure(self._unsure)

    def _may_lack_copies(self, node: str, cursor: Cursor) -> bool:
        """Whether a node may not have the copies that the index names: it may have an empty disk, or an older one."""
        heartbeat = self._logs[node].heartbeat if node in self._logs else None
        if node in self._forgotten:
            return False
        if heartbeat is None:
            return node in self._unsure.nodes or (cursor.prune and not cursor.covered)
        known = any(epoch == heartbeat.epoch for _, epoch in cursor.epochs)
        return bool(cursor.complete_to or cursor.prune) and (not known or (cursor.prune and not cursor.covered))

    def _lacks(self, node: str, cursor: Cursor, node_log: _Log) -> bool:
        """Whether the index may lack keys of a node's log."""
        if node in self._forgotten:
            return False
        if node_log.unheard:
            return True
        # When its own log is applied again, it has them all; when that is another log than before, it has not.
        another = cursor.prune and not cursor.covered
        behind = node_log.heartbeat.seq - cursor.complete_to if node_log.heartbeat else 0
        return another or cursor.complete_to < node_log.promised or (behind > _NEAR and node_log.request is not None)

    def _note_forgotten(self, nodes: list[str]) -> None:
        self._forgotten = nodes
        with self._index.write() as tables:
            tables.set_forgotten(nodes)

    def _log(self, node: str) -> _Log:
        return self._logs.setdefault(node, _Log())

    def _cursor(self, node: str) -> Cursor:
        with self._index.read() as tables:
            return cursor_of(tables, node)


def _is_new(heartbeat: Heartbeat) -> bool:
    """Whether nothing can be in the node's log but that its agent has started, for the first time."""
    return heartbeat.seq <= 1
