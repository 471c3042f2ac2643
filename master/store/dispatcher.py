"""Sends commands to nodes in micro-batches and wakes the requests that wait for them.

Per node up to two batches are under way: while one is flushed there, the next one is on its way. The one after them
takes all that has gathered meanwhile. So a busy system shares every hop, flush and commit among many requests. Values
that any node may take gather in one pool. They go, a batch at a time, to the node that placement chooses among the
free ones. Few batches of the pool are under way, so that a value costs as much with 50 nodes as with two. One that
takes long does not count, so slow nodes hold nothing up.

A client that just had its response often comes back at once. So a batch waits until as many commands have gathered as
the last one had, or for `LINGER_SECS`. After a batch of one nothing waits, and an idle system adds no delay.

Everything happens on the event loop, where link and channel are, too. Requests and outcomes only leave notes. They are
read when the requests of this turn of the loop have had theirs. A command is packed before it is noted, so that one
that can't be packed fails alone.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable
from enum import Enum
from typing import NamedTuple

from broker import topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.batches import CommandPacker, batch
from broker.messages.codec import encode
from broker.messages.store import Commands, Delete, Fetch, Outcome, Status, Store
from master.metrics import figures

MAX_ITEMS = 1_000
MAX_BYTES = 4 << 20
MOST_UNDER_WAY = 2  # batches for one node: while one is flushed there, the next one is on its way
LINGER_SECS = 0.001
MOST_POOLED = 4  # batches for any node: with more of them under way at many nodes, each would have one value
POOLED_SECS = 0.1  # a batch that takes longer no longer counts among those
STALLED_SECS = 1.0  # a batch that takes longer no longer holds back the next one


class Failure(Enum):
    """Why it can't be said what a node made of a command; the value says so to a person."""

    LOST = "the connection to RabbitMQ was lost"  # it may yet arrive at the node
    NO_NODE = "no node that has room was heard from lately"  # it was not sent


Command = Store | Delete
Choose = Callable[[int, Collection[str]], str | None]  # the node for so many bytes that is none of these, or None


class Ticket:
    """One command under way. `wait` waits until its outcome is there. Both ends are on the event loop."""

    __slots__ = ("_settled", "node", "number", "reason", "status")

    def __init__(self, number: int, node: str | None) -> None:
        self.number = number
        self.node = node  # None until one is chosen
        self.status: Status | Failure | None = None
        self.reason = ""
        self._settled: asyncio.Future[None] | None = None

    async def wait(self, timeout: float) -> Status | Failure | None:
        """What became of the command; None when that is not known within `timeout` seconds."""
        if self.status is None:
            loop = asyncio.get_running_loop()
            self._settled = loop.create_future()
            timer = loop.call_later(max(0.0, timeout), self._wake)
            try:
                await self._settled
            finally:
                timer.cancel()
        return self.status

    def settle(self, status: Status | Failure, reason: str) -> None:
        """Note what became of the command, and wake the request that waits."""
        self.status = status
        self.reason = reason
        self._wake()

    def _wake(self) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)


class _PackedCommand(NamedTuple):
    """A command as it travels."""

    ticket: int
    body: bytes


class _Backlog:
    """Commands that wait for the next batch."""

    __slots__ = ("commands", "expected", "since", "size")

    def __init__(self) -> None:
        self.commands: deque[_PackedCommand] = deque()
        self.size = 0  # bytes
        self.expected = 1  # as many as the last batch had
        self.since: float | None = None  # when the first of them was seen, by the monotonic clock

    def add(self, command: _PackedCommand) -> None:
        """Add a command."""
        self.commands.append(command)
        self.size += len(command.body)

    def due(self, now: float) -> bool:
        """Whether a batch should leave now rather than wait for more."""
        if self.since is None:
            self.since = now
        return len(self.commands) >= self.expected or now - self.since >= LINGER_SECS

    def take(self) -> list[_PackedCommand]:
        """Take the commands of the next batch away from here."""
        taken: list[_PackedCommand] = []
        size = 0
        while self.commands and len(taken) < MAX_ITEMS and size < MAX_BYTES:
            taken.append(self.commands.popleft())
            size += len(taken[-1].body)
        self.size -= size
        self.since = None
        self.expected = len(taken)
        return taken

    def waited(self, now: float) -> float:
        """Seconds since the first command of the next batch was seen."""
        return 0.0 if self.since is None else now - self.since


class _Lane:
    """The way to one node: what is under way there, and commands that only it can carry out."""

    __slots__ = ("_batches", "_left", "_number", "_under_way", "backlog", "queue", "sent")

    def __init__(self, node: str) -> None:
        self.queue = topology.node_queue(node)
        self.backlog = _Backlog()
        self.sent = 0.0
        self._under_way: dict[int, int] = {}  # ticket → batch
        self._batches: dict[int, int] = {}  # batch → how many of its commands are under way
        self._left: dict[int, float] = {}  # batch → when it left
        self._number = 0

    def note_sent(self, tickets: Collection[int], now: float) -> int:
        """Note that a batch with these tickets has left; its number."""
        self._number += 1
        self._under_way.update(dict.fromkeys(tickets, self._number))
        self._batches[self._number] = len(tickets)
        self._left[self._number] = now
        figures.BATCHES.observe(len(tickets), figures.COMMANDS)
        self.sent = now
        return self._number

    def note_landed(self, ticket: int, now: float) -> None:
        """Note that a command is under way no more, if it was here."""
        batch = self._under_way.pop(ticket, 0)
        if batch:
            self._batches[batch] -= 1
            if not self._batches[batch]:
                del self._batches[batch]
                figures.PUT_STEPS.observe(now - self._left.pop(batch), figures.NODE)

    def has(self, batch: int) -> bool:
        """Whether a batch is under way."""
        return batch in self._batches

    @property
    def under_way(self) -> int:
        """How many batches are under way."""
        return len(self._batches)

    def busy(self, now: float) -> bool:
        """Whether no other batch should leave now."""
        return len(self._batches) >= MOST_UNDER_WAY and not self.stalled(now)

    def stalled(self, now: float) -> bool:
        """Whether its batches take too long."""
        return bool(self._batches) and now - self.sent >= STALLED_SECS


def _settle(settled: list[tuple[Ticket, int | Failure, str]]) -> None:
    for ticket, status, reason in settled:
        ticket.settle(status if isinstance(status, Failure) else Status(status), reason)


class Dispatcher:
    """Sends the commands of one web worker, and chooses the node for those that any may take.

    `origin` names the worker. A batch that stays in the broker for `ttl_ms` is dropped there. The worker has `work` and
    `fail_all` called by the link, and `settle` by the channel.
    """

    def __init__(self, link: Link, origin: str, ttl_ms: int, choose: Choose) -> None:
        self._link = link
        self._origin = origin
        self._ttl_ms = ttl_ms
        self._choose = choose
        self._numbers = itertools.count(1)
        self._packer = CommandPacker()
        self._tickets: dict[int, Ticket] = {}
        self._pool = _Backlog()
        self._pooled: list[tuple[float, _Lane, int]] = []  # batches of the pool: when they left, and their numbers
        self._lanes: dict[str, _Lane] = {}
        # Notes for `work`.
        self._new: deque[tuple[str | None, Collection[str], _PackedCommand]] = deque()  # node, or those not to choose
        self._releases: deque[tuple[str | None, int]] = deque()  # node and ticket of what is under way no more
        self._lingering = False
        self._watching = False

    # What requests and the reader of outcomes call.

    def send(self, make: Callable[[int], Command], node: str | None = None, exclude: Collection[str] = ()) -> Ticket:
        """Send a command to a node; without `node`, to one that has room and is none of `exclude`.

        `make` is given the ticket number and returns the command. Raises `LinkDown` when there is no
        connection to RabbitMQ, and `Unsendable` for a command that no node could read.
        """
        if not self._link.ready:
            raise LinkDown(f"no connection to RabbitMQ: {self._link.problem}")
        number = next(self._numbers)
        packed = _PackedCommand(number, self._packer.pack(make(number)))
        ticket = self._tickets[number] = Ticket(number, node)
        self._new.append((node, exclude, packed))
        self._link.wake()
        return ticket

    def fetch(self, make: Callable[[int, str], Fetch], node: str) -> Ticket:
        """Have a node fetch a value. `make` is given the ticket number and the origin. Raises `LinkDown`."""
        if not self._link.ready:
            raise LinkDown(f"no connection to RabbitMQ: {self._link.problem}")
        number = next(self._numbers)
        body = encode(make(number, self._origin))
        self._link.publish(topology.node_queue(node), body, ttl_ms=self._ttl_ms)
        ticket = self._tickets[number] = Ticket(number, node)
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """Note that nobody waits for this command any more."""
        if self._tickets.pop(ticket.number, None):
            figures.STORE_OUTCOMES.add(figures.UNKNOWN)
            self._releases.append((ticket.node, ticket.number))
            self._link.wake()

    def forget(self, node: str, key: bytes, version: int, *, purge: bool) -> None:
        """Have the node delete a version that it has or that may yet arrive there, however long that takes.

        With `purge`, neither that version nor an older one can be brought back there.
        """
        command = Commands("", [Delete(0, key, version, purge)])
        self._link.publish(topology.node_queue(node), encode(command), durable=True)

    def settle(self, outcomes: Iterable[Outcome | tuple[int, Failure, str]]) -> None:
        """Note what became of some commands, and wake the requests that wait for them."""
        settled: list[tuple[Ticket, int | Failure, str]] = []
        for number, status, reason in outcomes:
            ticket = self._tickets.pop(number, None)
            if ticket:
                self._releases.append((ticket.node, number))
                settled.append((ticket, status, reason))
                figures.STORE_OUTCOMES.add(figures.UNKNOWN if isinstance(status, Failure) else status)
        if settled:
            _settle(settled)
            self._link.wake()

    # Called by the link.

    def work(self) -> None:
        """Read the notes, and send every batch that is due."""
        now = time.monotonic()
        while self._releases:
            node, number = self._releases.popleft()
            # Abandoned while its node was being chosen: it may be on any lane by now.
            for lane in [self._lane(node)] if node else self._lanes.values():
                lane.note_landed(number, now)
        while self._new:
            node, exclude, command = self._new.popleft()
            if node is None and exclude and (node := self._choose_other(command, exclude)) is None:
                continue
            (self._pool if node is None else self._lane(node).backlog).add(command)
        waiting = False
        for lane in list(self._lanes.values()):
            if lane.backlog.commands and not lane.busy(now):
                if lane.backlog.due(now):
                    figures.PUT_STEPS.observe(lane.backlog.waited(now), figures.QUEUE)
                    self._publish(lane, lane.backlog.take(), now)
                else:
                    waiting = True
        if self._pool.commands:
            waiting |= self._work_pool(now)
        if waiting:
            if not self._lingering:
                self._lingering = True
                self._link.later(LINGER_SECS, self._end_linger)
        elif not self._watching and (
            self._pool.commands or any(lane.backlog.commands for lane in self._lanes.values())
        ):
            # If what they wait for never lands, nothing else would wake this thread.
            self._watching = True
            self._link.later(POOLED_SECS if self._pool.commands else STALLED_SECS, self._end_watch)

    def _choose_other(self, command: _PackedCommand, exclude: Collection[str]) -> str | None:
        """The node for a command that was tried on others; its request is told when there is none."""
        node = self._choose(len(command.body), exclude)
        if node is None:
            self._fail([command.ticket], Failure.NO_NODE)
        else:
            self._assign([command], node)
        return node

    def _assign(self, commands: list[_PackedCommand], node: str) -> None:
        for command in commands:
            ticket = self._tickets.get(command.ticket)
            if ticket:
                ticket.node = node

    def _work_pool(self, now: float) -> bool:
        """Send what any node may take; True when it waits for more."""
        lanes = self._lanes
        busy = [node for node, lane in lanes.items() if lane.busy(now)]
        self._pooled = [each for each in self._pooled if now - each[0] < POOLED_SECS and each[1].has(each[2])]
        while self._pool.commands and len(self._pooled) < MOST_POOLED:
            if not self._pool.due(now):
                return True
            size = min(self._pool.size, MAX_BYTES)
            taken = [node for node, lane in lanes.items() if lane.under_way]
            slow = [node for node in taken if lanes[node].stalled(now)]
            # A node that lets a batch wait too long gets another one only when there is nobody else.
            node = self._choose(size, taken) or self._choose(size, [*busy, *slow]) or self._choose(size, busy)
            if node is None:
                if not busy:
                    nowhere, self._pool = self._pool.commands, _Backlog()
                    self._fail([command.ticket for command in nowhere], Failure.NO_NODE)
                return False
            figures.PUT_STEPS.observe(self._pool.waited(now), figures.QUEUE)
            taking = self._pool.take()
            self._assign(taking, node)
            lane = self._lane(node)
            if number := self._publish(lane, taking, now):
                self._pooled.append((now, lane, number))
            if lane.busy(now):
                busy.append(node)
        return False

    def _end_linger(self) -> None:
        self._lingering = False
        self._link.wake()

    def _end_watch(self) -> None:
        self._watching = False
        self._link.wake()

    def _lane(self, node: str) -> _Lane:
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = _Lane(node)
        return lane

    def _publish(self, lane: _Lane, commands: list[_PackedCommand], now: float) -> int:
        """Send a batch; its number, 0 for none."""
        commands = [command for command in commands if command.ticket in self._tickets]  # the others were abandoned
        if not commands:
            return 0
        number = lane.note_sent([command.ticket for command in commands], now)
        body = batch(self._origin, [command.body for command in commands])
        # Not durable: the request that waits tries again, or tells its client that it does not know what came of it.
        try:
            self._link.publish(lane.queue, body, ttl_ms=self._ttl_ms)
        except LinkDown:
            self._fail([command.ticket for command in commands], Failure.LOST)
        return number

    def _fail(self, numbers: Iterable[int], failure: Failure) -> None:
        self.settle([(number, failure, failure.value) for number in numbers])

    def fail_all(self) -> None:
        """Tell whoever waits that the connection is lost."""
        self._lingering = self._watching = False  # their timers went with the connection
        self._pool = _Backlog()
        self._pooled.clear()
        self._lanes.clear()
        self._new.clear()
        self._releases.clear()
        self._fail(list(self._tickets), Failure.LOST)
