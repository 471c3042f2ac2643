"""Sends commands to nodes in micro-batches and wakes the requests that wait for them.

Per node one batch is under way at a time, and the next one takes all that has gathered meanwhile. So a busy system
shares every hop, flush and commit among many requests. Values that any node may take gather in one pool. They go, a
batch at a time, to the node that placement chooses among the free ones.

A client that just had its response often comes back at once. So a batch waits until as many commands have gathered as
the last one had, or for `LINGER_SECS`. After a batch of one nothing waits, and an idle system adds no delay.

Requests, on the event loop, and outcomes, on the channel's thread, only leave notes. All decisions are made on the
link's thread. A command is packed before it is noted, so that one that can't be packed fails alone.
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
from broker.messages.store import Commands, Delete, Outcome, Status, Store

MAX_ITEMS = 1_000
MAX_BYTES = 4 << 20
LINGER_SECS = 0.001
STALLED_SECS = 1.0  # a batch that takes longer no longer holds back the next one


class Failure(Enum):
    """Why it can't be said what a node made of a command; the value says so to a person."""

    LOST = "the connection to RabbitMQ was lost"  # it may yet arrive at the node
    NO_NODE = "no node that has room was heard from lately"  # it was not sent


Command = Store | Delete
Choose = Callable[[int, Collection[str]], str | None]  # the node for so many bytes that is none of these, or None
Call = Callable[..., object]  # has a function called on the event loop, whichever thread this is


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


class _Lane:
    """The way to one node: what is under way there, and commands that only it can carry out."""

    __slots__ = ("backlog", "queue", "sent", "under_way")

    def __init__(self, node: str) -> None:
        self.queue = topology.node_queue(node)
        self.backlog = _Backlog()
        self.under_way: set[int] = set()
        self.sent = 0.0

    def busy(self, now: float) -> bool:
        """Whether a batch is under way."""
        return bool(self.under_way) and now - self.sent < STALLED_SECS


def _settle(settled: list[tuple[Ticket, int | Failure, str]]) -> None:
    for ticket, status, reason in settled:
        ticket.settle(status if isinstance(status, Failure) else Status(status), reason)


class Dispatcher:
    """Sends the commands of one web worker, and chooses the node for those that any may take.

    `origin` names the worker. A batch that stays in the broker for `ttl_ms` is dropped there. The worker has `work` and
    `fail_all` called on the link's thread, and `settle` by the channel.
    """

    def __init__(self, link: Link, origin: str, ttl_ms: int, choose: Choose) -> None:
        self._call: Call = lambda function, *arguments: function(*arguments)
        self._link = link
        self._origin = origin
        self._ttl_ms = ttl_ms
        self._choose = choose
        self._numbers = itertools.count(1)
        self._packer = CommandPacker()
        self._tickets: dict[int, Ticket] = {}
        self._pool = _Backlog()
        self._lanes: dict[str, _Lane] = {}
        # Notes for the link's thread.
        self._new: deque[tuple[str | None, Collection[str], _PackedCommand]] = deque()  # node, or those not to choose
        self._releases: deque[tuple[str | None, int]] = deque()  # node and ticket of what is under way no more
        self._lingering = False
        self._watching = False

    # What requests and the reader of outcomes call.

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake requests on this event loop; call it before the first one."""
        self._call = loop.call_soon_threadsafe

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

    def abandon(self, ticket: Ticket) -> None:
        """Note that nobody waits for this command any more."""
        if self._tickets.pop(ticket.number, None):
            self._releases.append((ticket.node, ticket.number))
            self._link.wake()

    def forget(self, node: str, key: bytes, version: int) -> None:
        """Have the node delete a version that may yet arrive there, however long that takes."""
        command = Commands("", [Delete(0, key, version)])
        self._link.publish(topology.node_queue(node), encode(command), durable=True)

    def settle(self, outcomes: Iterable[Outcome | tuple[int, Failure, str]]) -> None:
        """Note what became of some commands, and wake the requests that wait for them."""
        settled: list[tuple[Ticket, int | Failure, str]] = []
        for number, status, reason in outcomes:
            ticket = self._tickets.pop(number, None)
            if ticket:
                self._releases.append((ticket.node, number))
                settled.append((ticket, status, reason))
        if settled:
            self._call(_settle, settled)
            self._link.wake()

    # On the link's thread.

    def work(self) -> None:
        """Read the notes, and send every batch that is due."""
        now = time.monotonic()
        while self._releases:
            node, number = self._releases.popleft()
            # Abandoned while its node was being chosen: it may be on any lane by now.
            for lane in [self._lane(node)] if node else self._lanes.values():
                lane.under_way.discard(number)
        while self._new:
            node, exclude, command = self._new.popleft()
            if node is None and exclude and (node := self._choose_other(command, exclude)) is None:
                continue
            (self._pool if node is None else self._lane(node).backlog).add(command)
        waiting = False
        for lane in list(self._lanes.values()):
            if lane.backlog.commands and not lane.busy(now):
                if lane.backlog.due(now):
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
            self._link.later(STALLED_SECS, self._end_watch)

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
        taken = [node for node, lane in self._lanes.items() if lane.under_way]
        busy = [node for node in taken if self._lanes[node].busy(now)]
        while self._pool.commands:
            if not self._pool.due(now):
                return True
            size = min(self._pool.size, MAX_BYTES)
            # A node that lets a batch wait too long gets another one only when there is nobody else.
            node = self._choose(size, taken) or self._choose(size, busy)
            if node is None:
                if not busy:
                    nowhere, self._pool = self._pool.commands, _Backlog()
                    self._fail([command.ticket for command in nowhere], Failure.NO_NODE)
                return False
            taking = self._pool.take()
            self._assign(taking, node)
            self._publish(self._lane(node), taking, now)
            taken.append(node)
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

    def _publish(self, lane: _Lane, commands: list[_PackedCommand], now: float) -> None:
        commands = [command for command in commands if command.ticket in self._tickets]  # the others were abandoned
        if not commands:
            return
        lane.under_way.update(command.ticket for command in commands)
        lane.sent = now
        body = batch(self._origin, [command.body for command in commands])
        # Not durable: the request that waits tries again, or tells its client that it does not know what came of it.
        try:
            self._link.publish(lane.queue, body, ttl_ms=self._ttl_ms)
        except LinkDown:
            self._fail([command.ticket for command in commands], Failure.LOST)

    def _fail(self, numbers: Iterable[int], failure: Failure) -> None:
        self.settle([(number, failure, failure.value) for number in numbers])

    def fail_all(self) -> None:
        """Tell whoever waits that the connection is lost."""
        self._lingering = self._watching = False  # their timers went with the connection
        self._pool = _Backlog()
        self._lanes.clear()
        self._new.clear()
        self._releases.clear()
        self._fail(list(self._tickets), Failure.LOST)
