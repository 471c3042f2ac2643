"""Thinning: copies that are too many are removed, when enough others are confirmed by their nodes.

The nodes that are to keep a value read it and compare it with its digest. When all of them have said that it is what
was put, the others are no longer holders in the index. In the same transaction the outbox gets the command for their
nodes. So a copy that is going counts for nothing from then on, whatever starts again.

A question goes through the queue that the command goes through. So a node that says it has a value has carried out
every command that might have removed it.
"""

from __future__ import annotations

import secrets
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from broker import logs, topology
from broker.clock import now_ms
from broker.link import Link
from broker.messages.codec import encode
from broker.messages.store import Confirm, Confirmed
from master.cluster.nodes import Nodes
from master.cluster.replicas import bare_store, patience, source_addresses
from master.index.index import Discard, Entry, Index, Tables, WritableTables

log = logs.get(__name__)

MOST_WAITING = 50_000  # values that are known to have too many copies, at once
MOST_LOOKED_AT = 5_000  # values in one tick
MOST_QUESTIONS = 500  # under way to one node
MOST_BYTES = 256 << 20  # the same; a larger value goes alone
AGAIN_SECS = 60.0  # after a node could not confirm its copy, until that is asked again
DROP_DELAY_MS = 5_000  # a client may be on its way to a copy; its address names another one, too


class Choice(NamedTuple):
    """Which copies of a value stay, and which ones go."""

    stay: list[str]
    go: list[str]


@dataclass
class _Case:
    """A value whose other copies go when those that stay are confirmed."""

    key: bytes
    version: int
    choice: Choice
    asked: set[str]  # nodes that have not answered yet
    size: int
    until: float  # when it is given up, by the monotonic clock


class Thinning:
    """Has copies removed. For the controller's thread alone; its methods raise `lmdb.Error`."""

    def __init__(
        self,
        index: Index,
        nodes: Nodes,
        link: Link,
        *,
        secret: bytes,
        counting: Callable[[Entry], list[str]],
        surplus: Callable[[bytes, Entry], int],
        fill: Callable[[str], float],
    ) -> None:
        """`counting`: the holders of an entry that count; `surplus`: how many of them are too many.

        `fill`: how full a node is. Its copy goes before that of an emptier one.
        """
        self._index = index
        self._nodes = nodes
        self._link = link
        self._secret = secret
        self._counting = counting
        self._surplus = surplus
        self._fill = fill
        self._waiting: deque[bytes] = deque()
        self._known: set[bytes] = set()  # keys that wait or have a case
        self._cases: dict[str, _Case] = {}  # by request, without the node
        self._numbers = count()
        self._run = secrets.token_hex(4)  # answers to another controller's questions are not for this one
        self._load: Counter[str] = Counter()  # bytes that each node is reading
        self._number: Counter[str] = Counter()  # questions under way to each node
        self._later: dict[tuple[bytes, str], float] = {}  # copies that were not confirmed, until when
        self.removed = 0  # copies

    @property
    def idle(self) -> bool:
        """Whether no copy is about to go."""
        return not self._known

    def clear(self) -> None:
        """Forget what is under way: nothing is removed for it."""
        self._waiting.clear()
        self._known.clear()
        self._cases.clear()
        self._load.clear()
        self._number.clear()

    def add(self, key: bytes) -> None:
        """Note that a value has too many copies."""
        if key not in self._known and len(self._known) < MOST_WAITING:
            self._known.add(key)
            self._waiting.append(key)

    def tick(self, now: float) -> None:
        """Remove what is confirmed, give up what takes too long, and ask for more. Raises `LinkDown`."""
        self._later = {copy: until for copy, until in self._later.items() if until > now}
        confirmed = [request for request, case in self._cases.items() if not case.asked]
        late = [request for request, case in self._cases.items() if case.asked and now > case.until]
        if confirmed:
            with self._index.write() as tables:
                for request in confirmed:
                    self._remove(tables, self._cases[request])
        for request in confirmed + late:
            self._end(request)
        if self._waiting:
            with self._index.read() as tables:
                self._ask(tables, now)

    def observe(self, message: Confirmed) -> None:
        """Take in what a node says of its copies."""
        for request, reason in message.items:
            case = self._cases.get(request)
            if case is None or message.node not in case.asked:
                continue
            if reason:
                told = {"key": case.key, "version": case.version, "node": message.node, "reason": reason}
                log.warning("copy is not confirmed; none of this value is removed", **told)
                self._later[case.key, message.node] = time.monotonic() + AGAIN_SECS
                self._end(request)
            else:
                case.asked.discard(message.node)
                self._answered(message.node, case)

    def _answered(self, node: str, case: _Case) -> None:
        self._load[node] -= case.size
        self._number[node] -= 1

    def _end(self, request: str) -> None:
        case = self._cases.pop(request)
        self._known.discard(case.key)
        for node in case.asked:
            self._answered(node, case)

    def _remove(self, tables: WritableTables, case: _Case) -> None:
        """Take the copies that are too many out of the index, and have their nodes forget them."""
        entry = tables.entry(case.key)
        if entry is None or entry.version != case.version:
            return
        counting = self._counting(entry)
        if not set(case.choice.stay) <= set(counting) or self._surplus(case.key, entry) < len(case.choice.go):
            return
        left: Entry | None = entry
        for node in case.choice.go:
            if left and left.on(node):
                left = left.without(node)
        if left is None:
            return
        tables.put_entry(case.key, entry, left)
        for node in case.choice.go:
            tables.add_discard(Discard(node, case.key, case.version, drop=True), now_ms() + DROP_DELAY_MS)
            self.removed += 1
        log.debug("copies are removed", key=case.key, version=case.version, nodes=case.choice.go, left=left.nodes)

    def _ask(self, tables: Tables, now: float) -> None:
        """Ask nodes to confirm copies, until they have enough to do."""
        for _ in range(min(len(self._waiting), MOST_LOOKED_AT)):
            key = self._waiting[0]
            entry = tables.entry(key)
            choice = self._choose(key, entry) if entry else None
            if entry is None or choice is None:
                self._known.discard(self._waiting.popleft())
                continue
            if any(map(self._busy, choice.stay)):
                return
            self._waiting.popleft()
            request = f"{self._run}-{next(self._numbers)}"
            until = now + patience(entry.size)
            case = _Case(key, entry.version, choice, set(choice.stay), entry.size, until)
            self._cases[request] = case
            self._number.update(choice.stay)
            for node in choice.stay:
                self._load[node] += entry.size
                self._publish(request, node, key, entry)

    def _publish(self, request: str, node: str, key: bytes, entry: Entry) -> None:
        store, ttl_ms = bare_store(key, entry), int(1000 * patience(entry.size))
        for address in source_addresses(self._nodes.url, self._secret, key, [node]):
            question = encode(Confirm(request, store, address))
            self._link.publish(topology.node_queue(node), question, ttl_ms=ttl_ms)

    def _busy(self, node: str) -> bool:
        return self._number[node] >= MOST_QUESTIONS or self._load[node] >= MOST_BYTES

    def _choose(self, key: bytes, entry: Entry) -> Choice | None:
        """Which copies stay and which ones go; None when none may go now."""
        counting = self._counting(entry)
        wanted = len(counting) - self._surplus(key, entry)
        good = [node for node in counting if self._nodes.alive(node) and (key, node) not in self._later]
        if not 0 < wanted < len(counting) or len(good) < wanted:
            return None
        stay = spread(key, good, wanted, zone_of=self._nodes.zone, fill_of=self._fill)
        return Choice(stay, [node for node in counting if node not in stay])


def spread(
    key: bytes,
    nodes: Collection[str],
    number: int,
    *,
    zone_of: Callable[[str], str],
    fill_of: Callable[[str], float],
) -> list[str]:
    """So many of these nodes: in different zones while there are any, and the emptiest ones of them.

    Among nodes that are as full, to the percent, the key decides, so that not all values stay on the same ones.
    """
    left = sorted(nodes, key=lambda node: (round(fill_of(node), 2), zlib.crc32(key + node.encode())))
    chosen: list[str] = []
    while left and len(chosen) < number:
        taken = {zone_of(node) for node in chosen} - {""}
        node = next((node for node in left if zone_of(node) not in taken), left[0])
        left.remove(node)
        chosen.append(node)
    return chosen
