"""Stores one version of a value on several nodes.

All nodes that can make it by a command get it at once. When the bytes are on one node alone, as those of an upload, the
others fetch them from there. A node that fails is replaced by another one, as long as there is time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, TypeVar

from broker import logs
from broker.errors import LinkDown
from broker.messages.store import Delete, Fetch, Status, Store
from master.cluster.nodes import Nodes
from master.cluster.replicas import FETCHED_BYTES, Replicas, source_addresses
from master.store.dispatcher import Dispatcher, Failure, Ticket

log = logs.get(__name__)

Command = TypeVar("Command", Store, Delete)

# A node that does not answer gets this share of the time a client waits; then another one is tried.
ATTEMPT_SHARE = 0.4
_SAME_SECS = 0.003  # values that come so close together go to the same nodes, for larger batches


class NewVersion(NamedTuple):
    """A version that is to be on several nodes."""

    store: Store  # the command that makes it; its ticket counts for nothing
    wanted: int  # on so many nodes
    places: Sequence[str]  # nodes that alone can carry out the command, since the bytes are there; empty: all can
    holders: Sequence[str]  # nodes with the version before it: they come first
    staged: Mapping[str, str] = MappingProxyType({})  # by node: the upload with its bytes, if not the command's

    def command(self, node: str) -> Store:
        """The command that makes it at a node."""
        return self.store._replace(staged=self.staged.get(node, self.store.staged))


@dataclass
class Outcome:
    """What became of it."""

    least: int  # nodes that it takes
    stored: list[str] = field(default_factory=list)  # nodes that have it, durable and in the index
    tried: set[str] = field(default_factory=set)
    abandoned: list[str] = field(default_factory=list)  # nodes where it may yet arrive
    full: bool = False  # a node had no room
    stale: bool = False  # a node has a newer version
    missing: bool = False  # a place does not have the bytes
    reason: str = ""

    @property
    def enough(self) -> bool:
        """Whether its client can be told that it is stored."""
        return len(self.stored) >= self.least


class CopyWriter:
    """Stores copies for one web worker, on its event loop. A node has a share of `timeout` seconds to answer."""

    def __init__(
        self, nodes: Nodes, dispatcher: Dispatcher, replicas: Replicas, secret: bytes, *, timeout: float
    ) -> None:
        self.replicas = replicas
        self._nodes = nodes
        self._dispatcher = dispatcher
        self._secret = secret
        self._timeout = timeout
        self._last: tuple[float, int, list[str]] = (float("-inf"), 0, [])  # when, how many and which were chosen

    async def store(self, new: NewVersion, deadline: float) -> Outcome:
        """Store it on as many nodes as are wanted, or as there are at `deadline` by the monotonic clock."""
        outcome = Outcome(self.replicas.least(new.wanted))
        if new.places:
            deadline += new.store.size / FETCHED_BYTES
        while len(outcome.stored) < new.wanted and not outcome.stale and time.monotonic() < deadline:
            nodes = self._first(new, outcome) if not outcome.tried else self._further(new, outcome)
            if not nodes:
                break
            fetches = bool(new.places) and bool(outcome.stored)
            outcome.tried.update(nodes)
            tickets: list[Ticket] = []
            try:
                for node in nodes:
                    tickets.append(self._send(new.command(node), node, outcome.stored if fetches else ()))  # noqa: PERF401
            except LinkDown as error:
                outcome.reason = str(error)
                deadline = time.monotonic() + self._timeout * ATTEMPT_SHARE
            patience = deadline - time.monotonic()
            await self._settle(tickets, patience if fetches else min(self._timeout * ATTEMPT_SHARE, patience), outcome)
            if len(tickets) < len(nodes):
                break
        return outcome

    async def delete(self, command: Delete, holders: Sequence[str], deadline: float) -> Outcome:
        """Write a tombstone at all holders that are heard from, and at other nodes in place of the others.

        One tombstone is enough: then the key is gone, and the outbox tells the other holders.
        """
        outcome = Outcome(1)
        while len(outcome.stored) < len(holders) and time.monotonic() < deadline:
            missing = len(holders) - len(outcome.stored)
            nodes = [node for node in holders if node not in outcome.tried and self._nodes.alive(node)]
            while len(nodes) < missing and (other := self._nodes.any_alive([*outcome.tried, *holders, *nodes])):
                nodes.append(other)
            if not nodes:
                break
            outcome.tried.update(nodes)
            tickets = [self._dispatcher.send(partial(_numbered, command), node) for node in nodes]
            await self._settle(tickets, min(self._timeout * ATTEMPT_SHARE, deadline - time.monotonic()), outcome)
        return outcome

    def _first(self, new: NewVersion, outcome: Outcome) -> list[str]:
        """The nodes that get the command; none when there are too few for what it takes."""
        alive = [node for node in new.holders if self._nodes.takes(node)]
        nodes = list(new.places or alive)[: new.wanted]
        since, number, chosen = self._last
        recent = number == new.wanted and time.monotonic() - since <= _SAME_SECS and all(map(self._nodes.alive, chosen))
        if nodes or not recent:
            chosen = self._nodes.choose_several(new.store.size, new.wanted - len(nodes), (), nodes)
            if not nodes:
                self._last = (time.monotonic(), new.wanted, chosen)
        found = len(nodes) + len(chosen)
        if found < outcome.least:
            outcome.full = self._nodes.count_alive() >= outcome.least
            outcome.reason = f"it takes {outcome.least} nodes, and {found} can take it"
            return []
        return nodes if new.places else [*nodes, *chosen]

    def _further(self, new: NewVersion, outcome: Outcome) -> list[str]:
        """Nodes in place of those that failed, or that fetch what another one has."""
        if new.places and not outcome.stored:
            return []
        missing = new.wanted - len(outcome.stored)
        near = [node for node in new.holders if node not in outcome.tried and self._nodes.takes(node)][:missing]
        others = self._nodes.choose_several(
            new.store.size, missing - len(near), outcome.tried, [*outcome.stored, *near]
        )
        return [*near, *others]

    def _send(self, store: Store, node: str, sources: Sequence[str]) -> Ticket:
        """Send the command to a node, or have it fetch the value from `sources`. Raises `LinkDown`."""
        if not sources:
            return self._dispatcher.send(partial(_numbered, store), node)
        addresses = source_addresses(self._nodes.url, self._secret, store.key, sources)
        bare = store._replace(value=None, staged="")
        return self._dispatcher.fetch(lambda ticket, origin: Fetch(origin, _numbered(bare, ticket), addresses), node)

    async def _settle(self, tickets: Sequence[Ticket], patience: float, outcome: Outcome) -> None:
        """Wait for what became of some commands."""
        deadline = time.monotonic() + patience
        for ticket in tickets:
            status = await ticket.wait(deadline - time.monotonic())
            node = ticket.node or ""
            if status is Status.DONE:
                outcome.stored.append(node)
                continue
            outcome.reason = ticket.reason
            if status is None:
                self._dispatcher.abandon(ticket)
                self._nodes.doubt(node)
                outcome.reason = f"node {node} did not answer within {patience:.1f} s"
            if status is Status.STALE:
                outcome.stale = True
            elif status is Status.FULL:
                outcome.full = True
            elif status is Status.MISSING:
                outcome.missing = True
            elif status is not Failure.NO_NODE:
                outcome.abandoned.append(node)
            log.warning("copy not stored", node=node, status=status, reason=outcome.reason)


def _numbered(command: Command, ticket: int) -> Command:
    return command._replace(ticket=ticket)
