"""Carries out commands in groups, with one flush for all that have come, and sends their results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby, islice
from typing import NamedTuple

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Delivery, Link
from broker.messages.codec import encode
from broker.messages.horizon import Horizon
from broker.messages.store import (
    Command,
    Commands,
    Confirm,
    Confirmed,
    Delete,
    Kind,
    Result,
    Results,
    Status,
    Store,
)
from node.errors import Broken, StorageError
from node.metrics import figures
from node.storage.storage import Storage

log = logs.get(__name__)

OnResults = Callable[[list[Result]], None]
OnResult = Callable[[Result], None]


class _Batch(NamedTuple):
    """A message with commands. Commands from the future are not among `items`, but have results in `refused`."""

    delivery: Delivery
    origin: str
    items: list[Command]
    refused: list[Result]


class _Fetched(NamedTuple):
    """A value that came from another node, for the process `origin`."""

    origin: str
    store: Store
    done: OnResult


class CommandExecutor:
    """Collects commands; `work` applies all of them at once.

    Belongs to the link's thread, but for `store_values`, `store_fetched`, `report` and `answer`.
    """

    def __init__(self, node: str, storage: Storage, link: Link) -> None:
        self._node = node
        self._storage = storage
        self._link = link
        self._batches: list[_Batch] = []
        self._values: deque[tuple[Sequence[Store], OnResults]] = deque()  # the node's own
        self._fetched: deque[_Fetched] = deque()
        self._reports: deque[tuple[str, Result]] = deque()  # by origin; of what was not stored
        self._answers: deque[tuple[Confirm, str]] = deque()  # and why a value is not what was put; "": it is
        self._sent_seq = storage.epoch.seq  # the master asks for everything before by itself
        self.closed = False  # True: apply nothing more

    def add(self, delivery: Delivery, commands: Commands) -> None:
        """Take in a message; `work` acknowledges it."""
        horizon = Horizon.now()
        items: list[Command] = []
        refused: list[Result] = []
        for item in commands.items:
            objection = horizon.objection(item.version, item.created if isinstance(item, Store) else 0)
            if not objection:
                items.append(item)
                continue
            self._link.bury(delivery._replace(body=encode(commands._replace(items=[item]))), objection)
            if item.ticket:
                # Without version and times: the controller would not believe them either.
                result = Delete(item.ticket, item.key, version=0).result(Status.FAILED, objection)
                refused.append(result._replace(kind=item.kind))
        self._batches.append(_Batch(delivery, commands.origin, items, refused))
        self._link.wake()

    def store_values(self, stores: Sequence[Store], done: OnResults) -> None:
        """Store values of this node's own with the next commands; `done` gets the results on the link's thread."""
        self._values.append((stores, done))
        self._link.wake()

    def store_fetched(self, origin: str, store: Store, done: OnResult) -> None:
        """Store a value of another node with the next commands; `done` gets the result on the link's thread."""
        self._fetched.append(_Fetched(origin, store, done))
        self._link.wake()

    def report(self, origin: str, result: Result) -> None:
        """Send the result of a command that stores nothing."""
        self._reports.append((origin, result))
        self._link.wake()

    def answer(self, question: Confirm, reason: str) -> None:
        """Say that a value is what was put, or why it is not, after the commands that came before the question."""
        self._answers.append((question, reason))
        self._link.wake()

    def forget(self) -> None:
        """Drop the messages of a lost connection: they come again."""
        self._batches.clear()

    def work(self) -> None:
        """Apply everything that has come, send the results, acknowledge. Raises `Broken`, and applies nothing later."""
        while self._reports and not self.closed:
            origin, report = self._reports.popleft()
            self._send(origin, [report])
        if self.closed or not (self._batches or self._values or self._fetched or self._answers):
            return
        answers = [self._answers.popleft() for _ in range(len(self._answers))]
        batches, self._batches = self._batches, []
        values = [self._values.popleft() for _ in range(len(self._values))]
        commands: list[Command] = [item for batch in batches for item in batch.items]
        for stores, _ in values:
            commands += stores
        fetched = [self._fetched.popleft() for _ in range(len(self._fetched))]
        commands += [one.store for one in fetched]
        try:
            began = time.perf_counter()
            applied = self._storage.apply(commands)
        except Broken:
            self.closed = True
            raise
        figures.APPLY.observe(time.perf_counter() - began)
        figures.BATCHES.observe(len(commands))
        for result in applied:
            figures.COMMANDS.add(result.status)
        results = iter(applied)
        for batch in batches:
            self._send(batch.origin, [*islice(results, len(batch.items)), *batch.refused])
            self._link.ack(batch.delivery)
        for stores, done in values:
            part = list(islice(results, len(stores)))
            # On the channel of the runs' reports: a report must not overtake the keys that it names.
            self._send("", part, sent=lambda _sent: None)
            done(part)
        # In the order of the log: a message says up to where the log is told.
        for origin, group in groupby(fetched, key=lambda one: one.origin):
            these = list(group)
            part = list(islice(results, len(these)))
            self._send(origin, part)
            for one, result in zip(these, part, strict=True):
                one.done(result)
        self._send_answers(answers)

    def _send_answers(self, answers: Sequence[tuple[Confirm, str]]) -> None:
        """Say which values are what was put. One may have been overwritten or dropped since it was read."""
        items: list[tuple[str, str]] = []
        for question, objection in answers:
            store, reason = question.store, objection
            try:
                if not reason and not self._storage.has(store.key, store.version, store.digest):
                    reason = "the node has another version of it, or none"
            except StorageError as error:
                reason = str(error)
            items.append((question.request, reason))
        if items:
            try:
                self._link.publish(topology.RESULTS, encode(Confirmed(self._node, items)))
            except LinkDown as error:
                log.debug("answers not sent; the master will ask again", count=len(items), reason=error)

    def _send(self, origin: str, results: list[Result], sent: Callable[[bool], None] | None = None) -> None:
        """Send results to the controller. If they are lost, it asks for a replay."""
        after = self._sent_seq
        self._sent_seq = upto = max([after, *(result.seq for result in results)])
        for result in results:
            if result.status not in (Status.DONE, Status.STALE):
                what = {"kind": Kind(result.kind).name, "status": Status(result.status).name}
                log.warning("command failed", key=result.key, version=result.version, reason=result.reason, **what)
        end = self._storage.seq
        message = Results(self._node, origin, request="", after=after, upto=upto, end=end, last=False, items=results)
        try:
            self._link.publish(topology.RESULTS, encode(message), done=sent)
        except LinkDown as error:
            log.warning("results not sent; the master will ask for them", after=after, upto=upto, reason=error)
