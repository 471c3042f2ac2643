"""The controller: the one consumer of results and heartbeats, the one writer of the index, and the clock.

It takes everything that waits, applies it in one transaction, acknowledges, and tells the web workers.
Once a second, between two batches, it does what needs no message: it ends lifetimes, forgets old deletions, tells
nodes which versions to forget, and orders backups.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lmdb

from broker import logs, settings, topology
from broker.clock import now_ms
from broker.errors import LinkDown, MalformedMessage, MessageError
from broker.link import Delivery, Link, roles
from broker.messages.backups import BackupState
from broker.messages.codec import decode_any, encode
from broker.messages.horizon import Horizon
from broker.messages.runs import NodeCatalog, Progress, Reports
from broker.messages.store import Announce, Confirmed, Damaged, Heartbeat, Result, Results
from broker.metrics.keeper import Keeper
from broker.refusals import Refused, Unavailable
from broker.service.companion import run_companion
from master.backup.schedule import BackupSchedule
from master.channel import (
    ControllerCall,
    ControllerServer,
    Drain,
    Forget,
    LaunchMany,
    Listen,
    MakeBackups,
    Restore,
)
from master.cluster.curves import Recorder
from master.cluster.good_copies import GoodCopies
from master.cluster.node_queues import NodeQueues
from master.cluster.nodes import Nodes
from master.cluster.repair import Repair
from master.cluster.replicas import Replicas
from master.events.desk import EventDesk
from master.index.housekeeping import Housekeeping
from master.index.index import Index
from master.index.projection import Projection
from master.index.replay_requests import ReplayRequests
from master.jobs.service import Jobs
from master.metrics import figures
from master.security import tokens

log = logs.get(__name__)

PREFETCH = 256  # messages; each has up to a thousand results
MAX_BATCH = 64  # messages in one transaction
MAX_LAUNCHES = 2_000  # in one transaction: about a tenth of a second
TICK_SECS = 1.0


class _Wake(Enum):
    """Stands in the inbox beside deliveries and calls."""

    JOBS = "look at the jobs"


class _Messages(NamedTuple):
    """Messages that came together, by what they are about."""

    results: list[Results]
    heartbeats: dict[str, Heartbeat]
    apart: set[str]  # nodes with heartbeats that are users of their own in RabbitMQ
    jobs: list[Reports | Progress | NodeCatalog]
    backups: list[BackupState]
    damaged: list[Damaged]
    confirmed: list[Confirmed]


class Controller:
    """Consumes results, heartbeats, reports and calls, until `stop` is called.

    Everything but the link's callbacks happens on the thread that calls `run`.
    """

    def __init__(self, config: settings.Settings) -> None:
        directory = Path(config.server.dir)
        self._index = Index(directory / "index", config.server.index_map, write=True)
        self._projection = Projection()
        self._inbox: queue.SimpleQueue[Delivery | ControllerCall | _Wake] = queue.SimpleQueue()
        self._channel = ControllerServer(directory / "controller.sock", self._inbox.put)
        self._stopping = threading.Event()
        sender = roles.of_master(config)
        self._roles = bool(sender.user)
        declared = topology.master_role if self._roles else topology.master
        self._link = Link(config.broker.url, "pulzar master controller", declared, sender, ca=config.security.ca)
        self._node_queues = NodeQueues(self._link, declared() if self._roles else ())
        self._link.on_up.append(self._up)
        self._link.on_down.append(self._node_queues.lost)
        for name in (topology.RESULTS, topology.HEARTBEATS, topology.PROGRESS):
            self._link.consume(name, self._inbox.put, PREFETCH)
        self._jobs = Jobs(
            self._index,
            self._link,
            config,
            partial(self._inbox.put, _Wake.JOBS),
            queue=tokens.of_queue(config.security.queue).name,
        )
        self._replays = ReplayRequests(self._index, self._projection, self._link)
        self._housekeeping = Housekeeping(
            self._index,
            self._link,
            tombstone_days=config.general.tombstone_days,
            retention_days=config.general.retention_policy,
        )
        nodes = Nodes(self._index, config.general.heartbeat)
        self._good_copies = GoodCopies(self._index, nodes, self._link, config.secret())
        self._repair = Repair(
            self._index,
            nodes,
            self._link,
            Replicas.of(config.general),
            secret=config.secret(),
            after=config.general.repair_after,
            put_secs=config.server.put_timeout,
            rebalance=config.general.rebalance,
        )
        self._curves = Recorder(directory)
        self._backups = BackupSchedule(config, self._index, self._link, self._jobs.ledger)
        self._desk = EventDesk(config, self._index, self._link, self._jobs, self._backups)
        self._figures = Keeper(figures.LAYOUT, directory, "controller", figures.PROCESS.of(self._link))

    def stop(self) -> None:
        """Make `run` return soon; from any thread."""
        self._stopping.set()

    def run(self) -> int:
        """Consume and keep house until stopped. Returns the exit status, 0."""
        self._figures.start()
        self._link.start()
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            taken = self._take(max(0.0, min(next_tick - time.monotonic(), self._replays.settles_in())))
            if taken:
                calls = [item for item in taken if isinstance(item, ControllerCall)]
                deliveries = [item for item in taken if isinstance(item, Delivery)]
                self._persist(partial(self._handle_all, deliveries, calls))
                self._persist(self._desk.tell)
            if self._replays.settles_in() <= 0:
                self._persist(self._replays.settle)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_SECS
                self._persist(self._tick)
        self._backups.close()
        self._channel.close()
        self._link.stop()
        self._jobs.close()
        self._index.close()
        self._figures.close()
        return 0

    def _up(self) -> None:
        try:
            self._link.publish("", encode(Announce("the master is here")), exchange=topology.CONTROL)
        except LinkDown as error:
            log.debug("no announcement", reason=error)

    def _take(self, timeout: float) -> list[Delivery | ControllerCall | _Wake]:
        """What waits in the inbox, at least one thing unless `timeout` seconds are over."""
        taken: list[Delivery | ControllerCall | _Wake] = []
        with suppress(queue.Empty):  # the time is over, or the inbox is empty
            taken.append(self._inbox.get(timeout=timeout))
            launches = _launches(taken[0])
            while len(taken) < MAX_BATCH and launches < MAX_LAUNCHES:
                taken.append(self._inbox.get_nowait())
                launches += _launches(taken[-1])
        return taken

    def _persist(self, work: Callable[[], None]) -> None:
        """Do the work; when the index can't be written, log that and try again until it can."""
        full = False
        while not self._stopping.is_set():
            try:
                work()
                return
            except (lmdb.Error, OSError) as error:
                self._index.make_durable()  # then pages can be used again that the last checkpoint needs
                if isinstance(error, lmdb.MapFullError) and not full:
                    full = True
                    continue
                log.error("the index can't be written; trying again", error=error)
                self._stopping.wait(1.0)

    def _handle_all(self, deliveries: list[Delivery], calls: list[ControllerCall]) -> None:
        """Handle what was taken. A message or call that makes it fail is found and buried; the others count."""
        try:
            self._handle(deliveries, calls)
        except Exception as error:
            # No message is to blame for the disk; a size that LMDB refuses comes from a message.
            if isinstance(error, lmdb.Error | OSError) and not isinstance(error, lmdb.BadValsizeError):
                raise
            if len(deliveries) + len(calls) > 1:
                for delivery in deliveries:
                    self._handle_all([delivery], [])
                for call in calls:
                    self._handle_all([], [call])
                return
            log.exception("message could not be applied", queue=deliveries[0].queue if deliveries else "")
            for delivery in deliveries:
                self._link.bury(delivery, f"it could not be applied: {error!r}")
                self._link.ack(delivery)
            for call in calls:
                call.refuse(Unavailable("something went wrong in the master; its log says what"))

    def _handle(self, deliveries: list[Delivery], calls: list[ControllerCall]) -> None:
        messages = self._sort(deliveries)
        now = now_ms()
        if messages.results or messages.heartbeats:
            began = time.monotonic()
            with self._index.write() as tables:
                changes = self._projection.apply(tables, messages.results, now)
                for heartbeat in messages.heartbeats.values():
                    tables.set_node(heartbeat, now)
            if messages.results:
                figures.PUT_STEPS.observe(time.monotonic() - began, figures.COMMIT)
                figures.BATCHES.observe(len(messages.results), figures.RESULTS)
            self._curves.note(messages.heartbeats.values(), now)
            if not self._index.survives(messages.heartbeats):
                # After a power cut the index must know of whose keys it may lack some.
                self._index.make_durable()
            self._node_queues.make(messages.apart)
            # The outcomes first: somebody waits for them.
            self._channel.send(changes.outcomes)
            self._replays.observe(messages.results, messages.heartbeats, changes.gaps)
            for told in messages.results:
                self._repair.observe(told.node, told.items)
            self._desk.heard(messages.heartbeats)
        for answers in messages.confirmed:
            self._repair.thinning.observe(answers)
        # What runs have stored is in the index before it is said that they have ended.
        about_jobs = [call for call in calls if not self._do(call)]
        self._jobs.handle(about_jobs, messages.jobs, messages.heartbeats)
        self._backups.observe(messages.backups, now)
        for damaged in messages.damaged:
            self._good_copies.send_to(damaged)
        for delivery in deliveries:
            self._link.ack(delivery)

    def _do(self, call: ControllerCall) -> bool:
        """Do what a web worker asks for about logs and backups; False when its call is about jobs."""
        reply: object = None
        try:
            match call.request:
                case Restore(node):
                    self._replays.restore(node)
                    self._index.make_durable()
                case Forget(node, entries):
                    self._replays.forget(node, entries)
                    self._repair.drain(node, begin=False)
                    self._jobs.forget(node)
                    self._backups.forget(node)
                    self._curves.forget(node)
                    self._index.make_durable()
                case Drain(node, begin):
                    self._repair.drain(node, begin=begin)
                    self._index.make_durable()
                case MakeBackups(member, target):
                    now = now_ms()
                    reply = [self._backups.start(member, target, now), now / 1000]
                case Listen(number):
                    self._desk.listen(call, number)
                    return True
                case _:
                    return False
        except Refused as error:
            call.refuse(error)
        else:
            call.reply(reply)
        return True

    def _sort(self, deliveries: list[Delivery]) -> _Messages:
        messages = _Messages([], {}, set(), [], [], [], [])
        horizon = Horizon.now()
        for delivery in deliveries:
            try:
                message = decode_any(delivery.body)
                self._check_sender(delivery, message)
                if isinstance(message, Results) and delivery.queue == topology.RESULTS:
                    messages.results.append(self._believed(delivery, message, horizon))
                elif isinstance(message, Reports) and delivery.queue == topology.RESULTS:
                    messages.jobs.append(message)
                elif isinstance(message, Confirmed) and delivery.queue == topology.RESULTS:
                    messages.confirmed.append(message)
                elif isinstance(message, BackupState) and delivery.queue == topology.RESULTS:
                    messages.backups.append(message)
                elif isinstance(message, Damaged) and delivery.queue == topology.RESULTS:
                    messages.damaged.append(message)
                elif isinstance(message, Heartbeat) and delivery.queue == topology.HEARTBEATS:
                    if objection := horizon.objection(0, message.at):
                        raise MalformedMessage(f"heartbeat of {message.node}: {objection}")
                    messages.heartbeats[message.node] = message
                    if delivery.user:
                        messages.apart.add(message.node)
                elif isinstance(message, NodeCatalog | Progress) and delivery.queue != topology.RESULTS:
                    messages.jobs.append(message)
                else:
                    raise MalformedMessage(f"a {type(message).__name__} message on {delivery.queue}")
            except MessageError as error:
                self._link.bury(delivery, str(error))
        return messages

    def _check_sender(self, delivery: Delivery, message: object) -> None:
        """Raise `MalformedMessage` unless the user who sent the message may speak for the node that it names.

        Where nodes are users of their own, a message that names none is refused, too.
        """
        node = getattr(message, "node", "") or getattr(message, "member", "")
        user = delivery.user
        if user == topology.MASTER_USER:  # sent again from `pulzar.dead`
            user = str(delivery.headers.get(topology.ON_BEHALF, user))
        sender = topology.node_of(user)
        if (sender or self._roles) and sender != node:
            raise MalformedMessage(
                f"a {type(message).__name__} message of node {node} from "
                f"{f'the user {user}' if user else 'a user without a name'}; "
                f"RabbitMQ's user {topology.node_user(node)} may send it"
            )

    def _believed(self, delivery: Delivery, message: Results, horizon: Horizon) -> Results:
        """The results without those from the future. These are buried one by one; their place in the log counts."""
        good: list[Result] = []
        for item in message.items:
            if objection := horizon.objection(item.version, item.created):
                body = encode(message._replace(items=[item]))
                self._link.bury(delivery._replace(body=body), f"result of {message.node}: {objection}")
            else:
                good.append(item)
        return message if len(good) == len(message.items) else message._replace(items=good)

    def _tick(self) -> None:
        self._index.tick()
        self._node_queues.tick()
        self._housekeeping.tick(now_ms())
        self._replays.tick()
        self._repair.tick()
        self._jobs.tick(self._inbox.empty())
        self._backups.tick(now_ms())
        self._desk.tick()


def _launches(item: Delivery | ControllerCall | _Wake) -> int:
    """How many jobs a call launches together; 0 for what launches one or none."""
    if isinstance(item, ControllerCall) and isinstance(item.request, LaunchMany):
        return len(item.request.orders)
    return 0


if __name__ == "__main__":
    sys.exit(run_companion("controller", "master", Controller))
