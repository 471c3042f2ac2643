"""Sends commands to nodes in micro-batches and wakes the requests that wait for them.

Per node one batch is under way at a time, and the next one takes all that has gathered meanwhile: a
busy system shares every hop, flush and commit among many requests. Values that any node may take gather
in one pool and go, a batch at a time, to the node that placement chooses among the free ones.

Whoever was just answered often comes back at once: so a batch waits until as many have gathered as the
last one had, or for `LINGER_SECS`. After a batch of one nothing waits, and an idle system adds no delay.

Requests, on the event loop, and answers only leave notes; all decisions are made on the link's thread. A command is
packed before it is noted, so that one that can't be fails alone.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import NamedTuple

from broker import topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages.batches import CommandPacker, batch
from broker.messages.codec import encode
from broker.messages.store import Commands, Delete, Status, Store

MAX_ITEMS = 1_000
MAX_BYTES = 4 << 20
LINGER_SECS = 0.001
STALLED_SECS = 1.0  # a batch that takes longer no longer holds back the next one

LOST = "the connection to RabbitMQ was lost"
NOWHERE = "no node that has room was heard from lately"

Command = Store | Delete
# The node for so many bytes that is none of these; None when there is none.
Choose = Callable[[int, Collection[str]], str | None]
# Has a function called on the event loop, whichever thread this is.
Call = Callable[..., object]


class Ticket:
    """One command under way. `wait` waits until its answer is there. Both ends are on the event loop."""

    __slots__ = ("_answered", "node", "reason", "status")

    def __init__(self, node: str) -> None:
        self.node = node  # "" until one is chosen
        self.status: Status | None = None
        self.reason = ""
        self._answered: asyncio.Future[None] | None = None

    async def wait(self, timeout: float) -> Status | None:
        """What became of the command; None when no answer came within `timeout` seconds."""
        if self.status is None:
            loop = asyncio.get_running_loop()
            self._answered = loop.create_future()
            timer = loop.call_later(max(0.0, timeout), self._wake)
            try:
                await self._answered
            finally:
                timer.cancel()
        return self.status

    def answer(self, status: Status, reason: str) -> None:
        """Wake the request that waits."""
        self.status = status
        self.reason = reason
        self._wake()

    def _wake(self) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)


class _Packed(NamedTuple):
    """A command as it travels."""

    ticket: int
    body: bytes


class _Gathering:
    """Commands that wait for the next batch."""

    __slots__ = ("commands", "expected", "since", "size")

    def __init__(self) -> None:
        self.commands: deque[_Packed] = deque()
        self.size = 0  # bytes
        self.expected = 1  # as many as the last batch had
        self.since = 0.0  # when the first of them was seen; 0: none was

    def add(self, command: _Packed) -> None:
        """One more."""
        self.commands.append(command)
        self.size += len(command.body)

    def due(self, now: float) -> bool:
        """Whether a batch should leave now rather than wait for more."""
        if not self.since:
            self.since = now
        return len(self.commands) >= self.expected or now - self.since >= LINGER_SECS

    def take(self) -> list[_Packed]:
        """The next batch."""
        taken: list[_Packed] = []
        size = 0
        while self.commands and len(taken) < MAX_ITEMS and size < MAX_BYTES:
            taken.append(self.commands.popleft())
            size += len(taken[-1].body)
        self.size -= size
        self.since = 0.0
        self.expected = len(taken)
        return taken


class _Lane:
    """The way to one node: what is under way there, and commands that only it can carry out."""

    __slots__ = ("gathering", "queue", "sent", "under_way")

    def __init__(self, node: str) -> None:
        self.queue = topology.node_queue(node)
        self.gathering = _Gathering()
        self.under_way: set[int] = set()
        self.sent = 0.0

    def busy(self, now: float) -> bool:
        """Whether a batch is under way."""
        return bool(self.under_way) and now - self.sent < STALLED_SECS


def _answer(answers: list[tuple[Ticket, int, str]]) -> None:
    for ticket, status, reason in answers:
        ticket.answer(Status(status), reason)


class Dispatcher:
    """Of one web worker. `origin` names the worker; the answers for it come in through `answered`."""

    def __init__(self, link: Link, origin: str, ttl_ms: int, choose: Choose) -> None:
        self._call: Call = lambda function, *arguments: function(*arguments)
        self._link = link
        self._origin = origin
        self._ttl_ms = ttl_ms
        self._choose = choose
        self._numbers = itertools.count(1)
        self._packer = CommandPacker()
        self._tickets: dict[int, Ticket] = {}
        self._pool = _Gathering()
        self._lanes: dict[str, _Lane] = {}
        self._new: deque[tuple[str, _Packed]] = deque()  # notes for the link's thread
        self._landed: deque[tuple[str, int]] = deque()
        self._lingering = False
        self._watching = False
        link.on_wake = self._work
        link.on_down = self._down

    # What requests and the reader of answers call.

    def run_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Requests wait on this loop; to be called before the first one."""
        self._call = loop.call_soon_threadsafe

    def send(self, node: str, make: Callable[[int], Command]) -> tuple[int, Ticket]:
        """Send a command to a node, or to any that has room when `node` is "".

        `make` is given the ticket number and returns the command. Raises `LinkDown` when there is no
        connection to RabbitMQ, and `Unsendable` for a command that no node could read.
        """
        if not self._link.ready:
            raise LinkDown(f"no connection to RabbitMQ: {self._link.problem}")
        number = next(self._numbers)
        packed = _Packed(number, self._packer.pack(make(number)))
        ticket = self._tickets[number] = Ticket(node)
        self._new.append((node, packed))
        self._link.wake()
        return number, ticket

    def abandon(self, number: int) -> None:
        """Nobody waits for this command any more."""
        ticket = self._tickets.pop(number, None)
        if ticket:
            self._landed.append((ticket.node, number))
            self._link.wake()

    def forget(self, node: str, key: bytes, version: int) -> None:
        """Have the node delete a version that may yet arrive there, however long that takes."""
        command = Commands("", [Delete(0, key, version)])
        self._link.publish(topology.node_queue(node), encode(command), durable=True)

    def answered(self, answers: list[tuple[int, int, str]]) -> None:
        """The controller says what became of some commands."""
        wanted: list[tuple[Ticket, int, str]] = []
        for number, status, reason in answers:
            ticket = self._tickets.pop(number, None)
            if ticket:
                self._landed.append((ticket.node, number))
                wanted.append((ticket, status, reason))
        if wanted:
            self._call(_answer, wanted)
            self._link.wake()

    # On the link's thread.

    def _work(self) -> None:
        """Read the notes, and send every batch that is due."""
        now = time.monotonic()
        while self._landed:
            node, number = self._landed.popleft()
            # Abandoned while its node was being chosen: it may be on any lane by now.
            for lane in [self._lane(node)] if node else self._lanes.values():
                lane.under_way.discard(number)
        while self._new:
            node, command = self._new.popleft()
            (self._lane(node).gathering if node else self._pool).add(command)
        waiting = False
        for lane in list(self._lanes.values()):
            if lane.gathering.commands and not lane.busy(now):
                if lane.gathering.due(now):
                    self._publish(lane, lane.gathering.take(), now)
                else:
                    waiting = True
        if self._pool.commands:
            waiting |= self._work_pool(now)
        if waiting:
            if not self._lingering:
                self._lingering = True
                self._link.later(LINGER_SECS, self._lingered)
        elif not self._watching and (
            self._pool.commands or any(lane.gathering.commands for lane in self._lanes.values())
        ):
            # If what they wait for never lands, nothing else would wake this thread.
            self._watching = True
            self._link.later(STALLED_SECS, self._watched)

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
                    self._nowhere()
                return False
            taking = self._pool.take()
            for command in taking:
                ticket = self._tickets.get(command.ticket)
                if ticket:
                    ticket.node = node
            self._publish(self._lane(node), taking, now)
            taken.append(node)
            busy.append(node)
        return False

    def _lingered(self) -> None:
        self._lingering = False
        self._link.wake()

    def _watched(self) -> None:
        self._watching = False
        self._link.wake()

    def _lane(self, node: str) -> _Lane:
        lane = self._lanes.get(node)
        if lane is None:
            lane = self._lanes[node] = _Lane(node)
        return lane

    def _publish(self, lane: _Lane, commands: list[_Packed], now: float) -> None:
        commands = [command for command in commands if command.ticket in self._tickets]  # the others were abandoned
        if not commands:
            return
        lane.under_way.update(command.ticket for command in commands)
        lane.sent = now
        body = batch(self._origin, [command.body for command in commands])
        # Not durable: whoever waits is the retry, and is told when it can't be said what became of it.
        try:
            self._link.publish(lane.queue, body, ttl_ms=self._ttl_ms)
        except LinkDown:
            self._fail(commands, LOST)

    def _nowhere(self) -> None:
        commands, self._pool = self._pool.commands, _Gathering()
        self._fail(list(commands), NOWHERE)

    def _fail(self, commands: list[_Packed], reason: str) -> None:
        self.answered([(command.ticket, Status.FAILED, reason) for command in commands])

    def _down(self) -> None:
        """The connection is lost: whoever waits is told so."""
        self._lingering = self._watching = False  # their timers went with the connection
        self._pool = _Gathering()
        self._lanes.clear()
        self._new.clear()
        self._landed.clear()
        self.answered([(number, Status.FAILED, LOST) for number in list(self._tickets)])
