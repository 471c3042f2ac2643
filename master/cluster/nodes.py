"""The master's view of its nodes, from their last heartbeats.

The index says when each heartbeat came by the wall clock, which somebody may set. So the age of a heartbeat is measured
by the monotonic clock, from the look at the index that found it new.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from broker import logs
from broker.clock import now_ms
from broker.refusals import NotFound, Refused, Unavailable
from master.cluster.placement import Candidate, Placement
from master.cluster.replicas import Replicas
from master.index.index import Index, Node

log = logs.get(__name__)

FRESH_SECS = 0.25
_SOON_SECS = 0.005
MISSED_HEARTBEATS = 3
DOUBT_SECS = 15.0  # other nodes come before one that could not be reached
RECOVERY_SECS = 10.0  # after RabbitMQ was away, until every node has connected again
# Fields of a heartbeat.
_AS_TOLD = (
    "disk_total",
    "disk_free",
    "full",
    "keys",
    "held_keys",
    "held_bytes",
    "cert_until",
    "seq",
    "slots",
    "running",
    "fence",
    "zone",
    "damaged",
    "healed",
)

Row = dict[str, Any]  # a node as `/admin/network` shows it


class Nodes:
    """The nodes of the cluster, as one web worker sees them, and the choice among them.

    Reads the index again when what it knows is older than a quarter of a second. `heartbeat_secs` is the time between
    two heartbeats of a node.
    """

    def __init__(self, index: Index, heartbeat_secs: float) -> None:
        self._index = index
        self._silence = heartbeat_secs * MISSED_HEARTBEATS
        self._guard = threading.Lock()
        self._placement = Placement()
        self._nodes: dict[str, Node] = {}
        self._heard_at: dict[str, float] = {}  # by the monotonic clock
        self._candidates: list[Candidate] = []
        self._draining: frozenset[str] = frozenset()
        self._unsure: frozenset[str] = frozenset()  # their copies may be gone
        self._doubted: dict[str, float] = {}  # node → until when, by the monotonic clock
        self._no_server: dict[str, float] = {}  # nothing listens at their addresses, since so long
        self._incomplete: list[str] | None = None  # nodes, see `master.index.index.Tables`
        self._read = float("-inf")
        self._flowing = float("-inf")  # when heartbeats came in again after none did, from any node
        self._connected: float | None = None  # when this process had its last connection to RabbitMQ
        self._back = float("-inf")  # the same, when that was not its first

    def choose(self, size: int, exclude: Collection[str] = ()) -> str | None:
        """The node for a value of `size` bytes that is none of `exclude`; None when none that is heard from has room.

        A node in doubt, or whose data server has ended, is chosen when there is no other.
        """
        self._refresh()
        doubted, no_server = self._doubted, self._no_server
        with self._guard:
            if doubted or no_server:
                now = time.monotonic()
                avoided = [*exclude, *(node for node, until in doubted.items() if until > now)]
                # One that was heard from since then is being started, and commands reach it already.
                avoided += [node for node, since in no_server.items() if self._heard_at.get(node, since) <= since]
                found = self._placement.choose(self._candidates, size, avoided)
                if found is not None:
                    return found
            return self._placement.choose(self._candidates, size, exclude)

    def choose_several(self, size: int, number: int, exclude: Collection[str], beside: Collection[str]) -> list[str]:
        """Up to `number` nodes for copies of a value of `size` bytes: none of `exclude`, and none of `beside`.

        `beside` have a copy already. The nodes are in other zones than these and than each other, while there are any.
        """
        self._refresh()
        zones = {name: known.heartbeat.zone for name, known in self._nodes.items()}
        chosen: list[str] = []
        while len(chosen) < number:
            taken = {zones.get(node, "") for node in (*beside, *chosen)} - {""}
            passed = [*exclude, *beside, *chosen]
            near = [node for node, zone in zones.items() if zone in taken]
            node = self.choose(size, [*passed, *near]) if near else None
            node = node or self.choose(size, passed)
            if node is None:
                break
            chosen.append(node)
        return chosen

    def by_load(self, nodes: Sequence[str]) -> list[str]:
        """These nodes, those to ask first at the beginning: heard from, sure to have their copies, hardly loaded."""
        if len(nodes) == 1:
            return list(nodes)
        self._refresh()
        now, rows = time.monotonic(), []
        for node in nodes:
            known = self._nodes.get(node)
            # By chance, too: until the next heartbeat, all readers see the same loads.
            load = (known.heartbeat.load if known else 0.0) + random.random()
            unreached = node in self._no_server or self._doubted.get(node, 0.0) > now
            rows.append((not self._heard(node), node in self._unsure, unreached, load, node))
        return [node for *_, node in sorted(rows)]

    def lacking(self) -> int | None:
        """Of how many nodes' logs the index may lack keys; None for a new index, which can't say."""
        self._refresh()
        return None if self._incomplete is None else len(self._incomplete)

    def doubt(self, node: str) -> None:
        """Prefer other nodes for a while: this one is heard from, but can't be reached over HTTP or stood still."""
        now = time.monotonic()
        self._doubted = {name: until for name, until in self._doubted.items() if until > now} | {node: now + DOUBT_SECS}

    def note_server(self, node: str, *, there: bool) -> None:
        """Prefer other nodes while nothing listens at this one's address, even if it is still heard from."""
        if there == (node in self._no_server):
            log.info("a data server is back" if there else "a data server is gone", node=node)
            others = {name: since for name, since in self._no_server.items() if name != node}
            self._no_server = others if there else others | {node: time.monotonic()}

    def zone(self, node: str) -> str:
        """What the node shares with nodes that may fail together; "": nothing."""
        self._refresh()
        known = self._nodes.get(node)
        return known.heartbeat.zone if known else ""

    def used(self, node: str) -> float:
        """The share of the node's disk that is used; 0 for one that was never heard from."""
        self._refresh()
        known = self._nodes.get(node)
        total = known.heartbeat.disk_total if known else 0
        return 1 - known.heartbeat.disk_free / total if known and total else 0.0

    def room(self) -> dict[str, int]:
        """The free bytes of each node that takes new values, whether it has room or not."""
        self._refresh()
        return {candidate.node: candidate.disk_free for candidate in self._candidates}

    def alive(self, node: str) -> bool:
        """Whether the node was heard from lately."""
        self._refresh()
        return self._heard(node)

    def takes(self, node: str) -> bool:
        """Whether the node was heard from lately, and takes new values."""
        return self.alive(node) and node not in self._draining

    def heard_at(self, node: str) -> float:
        """When the node was last heard from, by the monotonic clock; for one that never was, long ago."""
        self._refresh()
        return self._heard_at.get(node, float("-inf"))

    def gone(self, node: str) -> bool:
        """Whether the node is silent while others are heard from.

        When nobody is heard, or was until just now, RabbitMQ is away rather than all nodes. Reads do not need RabbitMQ.
        """
        if self.alive(node):
            return False
        never = float("-inf")
        newest, last = max(self._heard_at.values(), default=never), self._heard_at.get(node, never)
        flowing = time.monotonic() - self._flowing
        return newest - self._silence > last and flowing > max(self._silence, RECOVERY_SECS)

    def any_alive(self, exclude: Collection[str] = ()) -> str | None:
        """A node that was heard from lately, the least loaded one."""
        self._refresh()
        alive = [known for name, known in self._nodes.items() if name not in exclude and self._heard(name)]
        return min(alive, key=lambda known: known.heartbeat.load).heartbeat.node if alive else None

    def count_alive(self) -> int:
        """How many nodes were heard from lately."""
        self._refresh()
        return sum(map(self._heard, self._nodes))

    def names(self) -> list[str]:
        """Every node ever heard of and not forgotten."""
        self._refresh()
        return sorted(self._nodes)

    def url(self, node: str) -> str | None:
        """`http://host:port` of a node, None when it was never heard from."""
        self._refresh()
        known = self._nodes.get(node)
        return known.heartbeat.url if known else None

    def may_lack_keys(self) -> bool:
        """Whether a key may exist that the index does not know: it is new, or has not applied a node's log."""
        self._refresh()
        if self._incomplete is None or self._incomplete:
            self._refresh(_SOON_SECS)  # another worker may have said already that it is over
        return self._incomplete is None or bool(self._incomplete)

    def awaited(self) -> list[str]:
        """What the index waits for before it knows all keys, for a person: nodes, or that it is a new index."""
        if not self.may_lack_keys():
            return []
        return ["a new index"] if self._incomplete is None else self._incomplete

    def connected(self) -> None:
        """Note that this process is connected to RabbitMQ, perhaps once more. Called on the link's thread."""
        if self._connected is not None:
            self._back = time.monotonic()
        self._connected = time.monotonic()

    def objection(self) -> str:
        """Why a PUT of a new key would not be stored just now, for a person; "" when it would."""
        if self.may_lack_keys():
            if self._incomplete is None:
                return "the index is new, and has not heard from all nodes yet"
            return "; ".join(map(self._lack, self._incomplete))
        if not self._candidates:
            if any(map(self._heard, self._draining)):
                return "all nodes that are heard from are being drained"
            return "no node was heard from lately"
        if all(candidate.full for candidate in self._candidates):
            return "no node has room"
        if not any(self._heard_at[candidate.node] >= self._back for candidate in self._candidates):
            return "RabbitMQ was away, and no node was heard from since then"
        return ""

    def _lack(self, node: str) -> str:
        if self._heard(node):
            return f"the log of node {node} is being applied; GET /internal/restore tells how far it is"
        return (
            f"the index may lack keys of node {node}, which was not heard from lately; start it, or,"
            f" if it is gone for good, have it forgotten: manage.py forget {node}"
        )

    def describe(self) -> list[Row]:
        """The nodes as `/admin/network` shows them, by name."""
        self._refresh()
        return [self._row(known) for _, known in sorted(self._nodes.items())]

    def _heard(self, node: str) -> bool:
        at = self._heard_at.get(node)
        return at is not None and time.monotonic() - at < self._silence

    def _row(self, known: Node) -> Row:
        beat = known.heartbeat
        used = beat.disk_total - beat.disk_free
        return {
            "node": beat.node,
            "percent": round(100 * used / beat.disk_total) if beat.disk_total else 0,
            "synch": self._heard(beat.node),
            "draining": beat.node in self._draining,
            "unsure": beat.node in self._unsure,
            "url": beat.url,
            "version": beat.version,
            "load": round(beat.load, 2),
            "memory": round(beat.memory, 1),
            **{name: getattr(beat, name) for name in _AS_TOLD},
            "last_seen": known.received / 1000,
            "sent": beat.at / 1000,
        }

    def _refresh(self, oldest: float = FRESH_SECS) -> None:
        now = time.monotonic()
        if now - self._read < oldest:
            return
        with self._guard:
            if now - self._read < oldest:
                return
            with self._index.read() as tables:
                nodes, self._incomplete = tables.nodes(), tables.incomplete()
                self._draining = frozenset(tables.draining())
                self._unsure = frozenset(tables.unsure().nodes)
            self._note_heard(nodes, now)
            self._nodes = nodes
            self._candidates = [
                Candidate(beat.node, beat.disk_total, beat.disk_free, beat.load, beat.full, received, beat.zone)
                for beat, received in nodes.values()
                if self._heard(beat.node) and beat.node not in self._draining
            ]
            if self._nodes and not self._candidates:
                self._flowing = now
            self._read = now

    def _note_heard(self, nodes: Mapping[str, Node], now: float) -> None:
        since_last = now - self._read
        for name, known in nodes.items():
            before = self._nodes.get(name)
            if before is None or before.received != known.received:
                # It came after the last look; when exactly, only the wall clock says.
                age = (now_ms() - known.received) / 1000
                self._heard_at[name] = now - min(max(0.0, age), since_last)
        self._heard_at = {name: at for name, at in self._heard_at.items() if name in nodes}


def require_newest(key: bytes, replicas: Replicas, nodes: Nodes) -> None:
    """Raises `Unavailable` when the index may not know yet that an encoded key has a newer value on several nodes.

    What was put is on so many nodes at least. So it is known as soon as the logs are applied of all nodes but fewer.
    A value that is to be on one node is found there, or is unknown, whatever the other nodes have.
    """
    if replicas.most > 1 and (wanted := replicas.wanted(key)) > 1:
        lacking = nodes.lacking()
        if lacking is None or lacking >= replicas.least(wanted):
            awaited = ", ".join(nodes.awaited())
            raise Unavailable(
                f"the index is being filled again and may not know the newest value; it waits for {awaited}"
            )


def missing(key: str, nodes: Nodes) -> Refused:
    """The error for a key that the index does not have."""
    if awaited := ", ".join(nodes.awaited()):
        return Unavailable(f"the index is being filled again and may not know this key yet; it waits for {awaited}")
    return NotFound(f"the key {key} is unknown")
