"""Repair: values that are on fewer nodes than they are to be get copies on other nodes.

The index is looked through again and again, a stretch at a time. Which copies are missing follows from it, so nothing
is remembered across a restart. Those with the fewest holders left come first. A node that was not heard from for
`repair_after` counts as lost. One that shows an empty or older log is no longer a holder, see
`master.index.projection`.

A node is told to fetch a value from its holders. When it has it, its result makes it a holder. Small values, which the
index has itself, go along with the command. What is asked of a node is bounded, so that neither its queue nor its
memory fills up; `[volume] repair_bandwidth` bounds how fast it fetches.

The same look finds what has too many copies (`master.cluster.thinning`) and what is to move to an emptier node
(`master.cluster.rebalance`).
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from typing import NamedTuple

from broker import logs, topology
from broker.clock import now_ms
from broker.errors import LinkDown
from broker.http import content_types
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Commands, Fetch, Result, Status, Store
from master.cluster.nodes import Nodes
from master.cluster.rebalance import Rebalance
from master.cluster.replicas import FETCHED_BYTES, PATIENCE_SECS, Replicas, bare_store, patience, source_addresses
from master.cluster.thinning import Thinning
from master.index.index import Entry, Index, RepairState, Tables

log = logs.get(__name__)

SCAN_SECS = 0.02  # of each look, between two batches of results
PAUSE_SECS = 10.0  # from the end of one look at everything to the next, while nothing changes
SHORT_PAUSE_SECS = 2.0  # the same while a node is drained, or copies go
MOST_WAITING = 50_000  # values that are known to lack copies, at once
MOST_ORDERS = 2_000  # under way to one node
MOST_BYTES = 256 << 20  # the same; a larger value goes alone
AGAIN_SECS = 60.0  # after a node could not make a copy, until the value is tried again
STATE_SECS = 2.0  # between two notes of the state
REASON_SECS = 120.0  # for which it is told why copies could not be made
_BATCH = 500  # small values in one message


class _Order(NamedTuple):
    """A copy that a node was told to make."""

    version: int
    size: int
    until: float  # when it is given up, by the monotonic clock


class Repair:
    """Has missing copies made. For the controller's thread alone; its methods raise `lmdb.Error`."""

    def __init__(
        self,
        index: Index,
        nodes: Nodes,
        link: Link,
        replicas: Replicas,
        *,
        secret: bytes,
        after: float,
        put_secs: float,
        rebalance: bool = False,
    ) -> None:
        """`after`: seconds without a word from a node until its copies count as lost.

        `put_secs`: seconds that a PUT takes at most, which makes its copies itself.
        """
        self._index = index
        self._nodes = nodes
        self._link = link
        self._replicas = replicas
        self._secret = secret
        self._after = after
        self._put_ms = int(put_secs * 1000)
        self._rebalance = Rebalance(nodes, enabled=rebalance)
        self.thinning = Thinning(
            index,
            nodes,
            link,
            secret=secret,
            counting=self._counting,
            surplus=self._surplus,
            fill=self._rebalance.fill,
        )
        self._names: frozenset[str] = frozenset()  # of all nodes
        self._since = time.monotonic()  # since when nodes are heard at all
        self._lost: frozenset[str] = frozenset()
        with index.read() as tables:
            self._draining = frozenset(tables.draining())
        self._left: Counter[str] = Counter()  # by draining node: values that are not enough elsewhere
        self._position: bytes | None = None  # behind which key the look goes on; None: it is over
        self._next = 0.0  # when the next look begins
        self._more = False  # some did not fit into the queue
        self._began: int | None = None  # `Unsure.changes` when the look began; None: it will not say that all is known
        self._plain = False  # the last look saw no value with copies, or with a number of its own
        self._seen = False  # this one has seen such a value
        self._moving: deque[bytes] = deque()  # keys that get a copy on an emptier node
        self._surpluses = 0  # values with too many copies in the look that goes on
        self._waiting: dict[int, deque[bytes]] = {}  # by the number of holders left: keys that lack copies
        self._known: set[bytes] = set()  # keys that wait or have orders
        self._orders: dict[bytes, dict[str, _Order]] = {}  # by key, then node
        self._load: Counter[str] = Counter()  # bytes under way to each node
        self._number: Counter[str] = Counter()  # orders under way to each node
        self._later: dict[bytes, float] = {}  # keys that are not tried before, by the monotonic clock
        self._missing = 0  # values that lacked copies in the look that goes on
        self._state = RepairState(needed=self._needed())
        self._noted = -STATE_SECS
        self._reasons: deque[tuple[float, str]] = deque(maxlen=10_000)  # when, and why a copy was not made
        self._copied: deque[tuple[float, int]] = deque()  # when, and bytes: those of the last 10 s

    @property
    def idle(self) -> bool:
        """Whether no value is on several nodes or is to be, and none is moved away, so that there is nothing to do."""
        return self._plain and self._replicas.most == 1 and not self._draining and not self._rebalance.enabled

    def _needed(self) -> bool:
        """Whether people should know how far it is."""
        return self._replicas.most > 1 or bool(self._draining) or self._rebalance.enabled or self._seen

    def drain(self, node: str, *, begin: bool) -> None:
        """Move all values of a node away, or no longer. Then its copies count again."""
        draining = self._draining | {node} if begin else self._draining - {node}
        if draining == self._draining:
            return
        log.warning("node is drained" if begin else "node is drained no more", node=node)
        self._draining = draining
        self._state.draining = dict.fromkeys(sorted(draining), -1)
        self._state.needed = self._needed()
        self._look_again()
        if self.idle:
            self._begin_anew()
        with self._index.write() as tables:
            tables.set_draining(sorted(draining))
            tables.set_repair(self._state)

    def _begin_anew(self) -> None:
        """Forget what is known to be missing, and what is under way."""
        self._missing, self._more = 0, False
        self._waiting.clear()
        self._known.clear()
        self._orders.clear()
        self._load.clear()
        self._number.clear()
        self._left.clear()
        self._moving.clear()
        self.thinning.clear()
        self._state = RepairState(draining=self._state.draining)

    def tick(self) -> None:
        """Look at some entries, and have some copies made."""
        now = time.monotonic()
        if not self.idle:
            self._note_lost(now)
            with self._index.read() as tables:
                lacking = tables.incomplete()
                known = lacking is not None and self._lost.issuperset(lacking)  # else some holders are not
                if known:
                    self._settle(tables, now)
                    self._look(tables, now)
            if known and self._link.ready:
                try:
                    self._send(now)
                    if self._in_doubt():
                        self.thinning.clear()
                    else:
                        self.thinning.tick(now)
                except LinkDown as error:
                    log.debug("no copies ordered", reason=error)
        self._note_state(now)

    def _look_again(self) -> None:
        """Look at everything from the beginning: what is known to be missing may be too little."""
        self._position, self._next = None, 0.0
        self._state.looked = -1

    def observe(self, node: str, results: Collection[Result]) -> None:
        """Note the copies that a node could not make, and values that have a number of their own."""
        if self._plain:
            self._plain = not any(content_types.replicas(result.content_type) for result in results)
        for result in results if self._orders else ():
            order = self._orders.get(result.key, {}).get(node)
            if order and result.version == order.version and result.status != Status.DONE:
                self._end(result.key, node)
                self._later[result.key] = time.monotonic() + AGAIN_SECS
                reason = result.reason or "it has a newer version, or has deleted this one"
                self._note_reason(f"node {node}: {reason}"[:200])

    def _note_reason(self, reason: str) -> None:
        """Note why a copy could not be made."""
        self._reasons.append((time.monotonic(), reason))

    def _note_lost(self, now: float) -> None:
        """Notice nodes that count as lost, or no longer do; then everything is looked at again."""
        names = frozenset(self._nodes.names())
        if not any(map(self._nodes.alive, names)):
            self._since = now  # RabbitMQ is away rather than all nodes
        lost = frozenset(node for node in names if now - max(self._since, self._nodes.heard_at(node)) > self._after)
        if lost != self._lost or names != self._names:
            for node in sorted(lost - self._lost):
                log.warning("node is lost; its values get other holders", node=node, after=self._after)
            for node in sorted(self._lost - lost):
                log.info("node is back; its copies count again", node=node)
            self._lost, self._names = lost, names
            self._look_again()

    def _counting(self, entry: Entry) -> list[str]:
        """The holders whose copies count."""
        passed = self._lost | self._draining
        return [node for node in entry.nodes if node in self._names and node not in passed]

    def _lacks(self, key: bytes, entry: Entry) -> int:
        """How many copies a value lacks."""
        wanted = self._wanted(key, entry)
        if wanted == 1 and not (self._draining and self._draining.intersection(entry.nodes)):
            return 0  # nobody else has it
        lacks = wanted - len(self._counting(entry))
        return lacks if lacks > 0 and entry.live(now_ms()) else 0

    def _surplus(self, key: bytes, entry: Entry) -> int:
        """How many copies of a value are too many."""
        if not entry.copies or self._is_being_put(entry) or not entry.live(now_ms()):
            return 0
        return max(0, len(self._counting(entry)) - self._wanted(key, entry))

    def _in_doubt(self) -> bool:
        """Whether copies may be gone that the index names, so that none may be removed."""
        with self._index.read() as tables:
            unsure = tables.unsure()
        return bool(unsure.nodes) or self._state.looked != unsure.changes

    def _wanted(self, key: bytes, entry: Entry) -> int:
        """On how many nodes a value is to be."""
        return content_types.replicas(entry.content_type) or self._replicas.wanted(key)

    def _is_being_put(self, entry: Entry) -> bool:
        """Whether its writer may still be making the copies of a value."""
        return now_ms() <= entry.created + self._put_ms + 1000 * entry.size // FETCHED_BYTES

    def _look(self, tables: Tables, now: float) -> None:
        """Look for values that lack copies, for a moment."""
        unsure = tables.unsure()
        whole = self._state.looked == unsure.changes
        if self._position is None:
            if now < self._next and whole and not (self._more and not self._waiting):
                return
            self._position, self._missing, self._more = b"", 0, False
            self._began = None if unsure.nodes else unsure.changes
            self._left.clear()
            self._surpluses, self._seen = 0, False
            self._rebalance.begin()
        for number, (key, entry) in enumerate(tables.entries(self._position), 1):
            if self._lacks(key, entry):
                self._left.update(self._draining.intersection(entry.nodes))
                if self._is_being_put(entry):
                    self._began = None  # perhaps it is not, and lacks a copy for another reason
                else:
                    self._missing += 1
                    self._add(key, len(self._counting(entry)))
            elif self._surplus(key, entry):
                self._surpluses += 1
                self.thinning.add(key)
            elif self._rebalance.enabled:
                self._begin_move(key, entry)
            if self._rebalance.enabled:
                self._rebalance.note(entry)
            self._seen |= bool(entry.copies) or bool(content_types.replicas(entry.content_type))
            if not number % 100 and time.monotonic() - now > SCAN_SECS:
                self._position = key
                return
        soon = self._draining or self._surpluses or self._rebalance.move
        self._position, self._next = None, now + (SHORT_PAUSE_SECS if soon else PAUSE_SECS)
        self._state.lacking, self._state.surplus = self._missing, self._surpluses
        self._plain = not self._seen
        self._state.needed = self._needed()
        if self._rebalance.enabled:
            busy = self._orders or self._moving or self._surpluses or self._missing
            self._rebalance.end(settled=not busy and self.thinning.idle and self._began == unsure.changes)
        if self._began == unsure.changes:
            self._state.looked = unsure.changes
        self._state.draining = {node: self._left[node] for node in sorted(self._draining)}
        self._later = {key: until for key, until in self._later.items() if until > now}

    def _begin_move(self, key: bytes, entry: Entry) -> None:
        """Note that a value gets a copy on an emptier node, if it is to move."""
        later = key in self._known or self._later.get(key, 0.0) > time.monotonic()
        if not later and entry.live(now_ms()) and not self._is_being_put(entry) and self._rebalance.takes(entry):
            self._known.add(key)
            self._moving.append(key)

    def _add(self, key: bytes, left: int) -> None:
        """Note that a value lacks copies, of which so many are left."""
        if key in self._known or self._later.get(key, 0.0) > time.monotonic():
            return
        if len(self._known) >= MOST_WAITING:
            self._more = True
            most = max((number for number, keys in self._waiting.items() if keys), default=0)
            if left >= most:
                return
            self._known.discard(self._waiting[most].pop())
        self._known.add(key)
        self._waiting.setdefault(left, deque()).append(key)

    def _settle(self, tables: Tables, now: float) -> None:
        """See which copies are there, and give up those that take too long."""
        under_way = [(key, node, order) for key, orders in self._orders.items() for node, order in orders.items()]
        for key, node, order in under_way:
            entry = tables.entry(key)
            if entry is None or entry.version != order.version:
                self._end(key, node)
            elif entry.on(node):
                self._end(key, node)
                self._state.copies += 1
                self._state.bytes += entry.size
                self._copied.append((now, entry.size))
            elif now > order.until:
                self._end(key, node)
                self._note_reason(f"node {node} has not made a copy in time")

    def _end(self, key: bytes, node: str) -> None:
        orders = self._orders[key]
        self._load[node] -= orders.pop(node).size
        self._number[node] -= 1
        if not orders:
            del self._orders[key]
            self._known.discard(key)

    def _busy(self) -> list[str]:
        """Nodes that have enough to do."""
        return [
            node for node, number in self._number.items() if number >= MOST_ORDERS or self._load[node] >= MOST_BYTES
        ]

    def _send(self, now: float) -> None:
        """Order copies of the most endangered values, until the nodes have enough to do."""
        small: dict[str, list[Store]] = {}
        with self._index.read() as tables:
            for key in self._next_keys():
                entry = tables.entry(key)
                lacks = self._lacks(key, entry) if entry else 0
                if entry is None or not lacks or self._is_being_put(entry):
                    self._known.discard(key)
                    continue
                held, busy = entry.nodes, self._busy()
                targets = self._nodes.choose_several(entry.size, lacks, [*held, *busy], self._counting(entry))
                sources = [node for node in self._nodes.by_load(held) if self._nodes.alive(node)]
                if not targets or (not sources and entry.value is None):
                    self._known.discard(key)
                    if targets or not busy:
                        why = "no other node has room for a copy" if sources else "no node with the value is heard"
                        self._note_reason(why)
                        self._later[key] = now + AGAIN_SECS
                        continue
                    self._more = True  # all nodes have enough to do
                    break
                self._order(key, entry, targets, sources, small)
            self._send_moves(tables, small)
        for node, stores in small.items():
            for start in range(0, len(stores), _BATCH):
                commands = Commands("", [*stores[start : start + _BATCH]])
                self._link.publish(topology.node_queue(node), encode(commands), ttl_ms=int(PATIENCE_SECS * 1000))

    def _send_moves(self, tables: Tables, small: dict[str, list[Store]]) -> None:
        """Order copies of values that are to move, until their node has enough to do."""
        while self._moving:
            entry = tables.entry(self._moving[0])
            target = self._rebalance.target(entry) if entry else None
            if target in self._busy():
                return
            key = self._moving.popleft()
            sources = [node for node in self._nodes.by_load(entry.nodes) if self._nodes.alive(node)] if entry else []
            if entry and target and self._nodes.takes(target) and (sources or entry.value is not None):
                self._order(key, entry, [target], sources, small)
            else:
                self._known.discard(key)

    def _next_keys(self) -> Iterator[bytes]:
        """The keys that lack copies, with the fewest holders first."""
        for left in sorted(self._waiting):
            keys = self._waiting[left]
            while keys:
                yield keys.popleft()
        self._waiting.clear()

    def _order(
        self, key: bytes, entry: Entry, targets: list[str], sources: list[str], small: dict[str, list[Store]]
    ) -> None:
        store = bare_store(key, entry)._replace(value=entry.value)
        # A small value goes along with the command, so nobody needs to sign an address for it.
        addresses = [] if entry.value is not None else source_addresses(self._nodes.url, self._secret, key, sources)
        secs = patience(entry.size)
        for node in targets:
            if entry.value is None:
                body = encode(Fetch("", store, addresses))
                self._link.publish(topology.node_queue(node), body, ttl_ms=int(secs * 1000))
            else:
                small.setdefault(node, []).append(store)
            self._orders.setdefault(key, {})[node] = _Order(entry.version, entry.size, time.monotonic() + secs)
            self._load[node] += entry.size
            self._number[node] += 1

    def _note_state(self, now: float) -> None:
        """Write down how far it is, for people."""
        while self._copied and now - self._copied[0][0] > 10.0:
            self._copied.popleft()
        state = self._state
        state.lost = sorted(self._lost)
        state.removed = self.thinning.removed
        move = self._rebalance.move
        state.move = (move.source, move.target, move.left) if move else None
        state.under_way = sum(self._number.values())
        state.rate = sum(size for _, size in self._copied) // 10
        if self._position is not None:
            state.lacking = max(state.lacking, self._missing)
        if now - self._noted >= STATE_SECS:
            self._noted = now
            while self._reasons and now - self._reasons[0][0] > REASON_SECS:
                self._reasons.popleft()
            state.reasons = Counter(reason for _, reason in self._reasons)
            with self._index.read() as tables:
                before = tables.repair()
            if before != state:
                with self._index.write() as changes:
                    changes.set_repair(state)
