"""The controller: the one consumer of results and heartbeats, the one writer of the index, and the clock.

It takes everything that waits, applies it in one transaction, acknowledges, and tells the web workers.
What needs no message, lifetimes that end, deletions long past, versions that nodes shall forget, is done
once a second between two batches.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lmdb

from broker import logs, settings, topology
from broker.clock import now_ms
from broker.errors import LinkDown, MalformedMessage, MessageError
from broker.link import Delivery, Link
from broker.messages.codec import decode_any, encode
from broker.messages.horizon import Horizon
from broker.messages.runs import NodeCatalog, Progress, Reports
from broker.messages.store import Announce, Heartbeat, Result, Results
from broker.refusals import Refused, Unavailable
from broker.service.companion import run_companion
from master.channel import ControllerCall, ControllerServer
from master.index.environment import pack
from master.index.housekeeping import Housekeeping
from master.index.index import Index
from master.index.projection import Applied, Projection, routing_key
from master.index.replay_requests import Replays
from master.jobs.service import Jobs

log = logs.get(__name__)

PREFETCH = 256  # messages; each has up to a thousand results
MAX_BATCH = 64  # messages in one transaction
TICK_SECS = 1.0
_OWN_CALLS = ("restore", "forget")  # the others are about jobs


class _Came(NamedTuple):
    """Messages that came together, by what they are about."""

    results: list[Results]
    heartbeats: dict[str, Heartbeat]
    jobs: list[Reports | Progress | NodeCatalog]


class Controller:
    """Runs until `stop` is called. Everything but the link's callbacks happens on the thread that calls `run`."""

    def __init__(self, config: settings.Settings) -> None:
        directory = Path(config.server.dir)
        self._index = Index(directory / "index", config.server.index_map, write=True)
        self._projection = Projection(self._index)
        self._inbox: queue.SimpleQueue[Delivery | ControllerCall | None] = queue.SimpleQueue()  # None: look at the jobs
        self._answers = ControllerServer(directory / "controller.sock", self._inbox.put)
        self._events = config.general.events
        self._stopping = threading.Event()
        self._link = Link(config.broker.url, "pulzar master controller", topology.master)
        self._link.on_up = self._up
        self._link.consume(topology.RESULTS, self._inbox.put, PREFETCH)
        self._link.consume(topology.HEARTBEATS, self._inbox.put, PREFETCH)
        self._link.consume(topology.PROGRESS, self._inbox.put, PREFETCH)
        self._jobs = Jobs(self._index, self._link, config, lambda: self._inbox.put(None))
        self._replays = Replays(self._index, self._projection, self._link)
        self._housekeeping = Housekeeping(self._index, self._link, config.general.tombstone_days)

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopping.set()

    def run(self) -> int:
        """Consume and keep house until stopped; the exit status, 0."""
        self._link.start()
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            came = self._take(max(0.0, min(next_tick - time.monotonic(), self._replays.settles_in())))
            if came:
                calls = [item for item in came if isinstance(item, ControllerCall)]
                deliveries = [item for item in came if isinstance(item, Delivery)]
                self._persist(partial(self._handle_all, deliveries, calls))
            if self._replays.settles_in() <= 0:
                self._persist(self._replays.settle)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_SECS
                self._persist(self._tick)
        self._link.stop()
        self._jobs.close()
        self._index.close()
        return 0

    def _up(self) -> None:
        try:
            self._link.publish("", encode(Announce("the master is here")), exchange=topology.CONTROL)
        except LinkDown as error:
            log.debug("no announcement", reason=error)

    def _take(self, timeout: float) -> list[Delivery | ControllerCall | None]:
        """What waits, at least one thing unless the time is over."""
        came: list[Delivery | ControllerCall | None] = []
        try:
            came.append(self._inbox.get(timeout=timeout))
            while len(came) < MAX_BATCH:
                came.append(self._inbox.get_nowait())
        except queue.Empty:
            return came
        return came

    def _persist(self, work: Callable[[], None]) -> None:
        """Do the work; when the index can't be written, say so and try until it can."""
        while not self._stopping.is_set():
            try:
                work()
                return
            except (lmdb.Error, OSError) as error:
                log.error("the index can't be written; trying again", error=error)
                self._stopping.wait(1.0)

    def _handle_all(self, deliveries: list[Delivery], calls: list[ControllerCall]) -> None:
        """Handle what was taken; a message or call that makes it fail is found and buried, the others count."""
        try:
            self._handle(deliveries, calls)
        except Exception as error:
            # The disk is nobody's fault but its own; a size that LMDB refuses comes from a message.
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
        came = self._sort(deliveries)
        now = now_ms()
        if came.results or came.heartbeats:
            with self._index.env.begin(write=True) as txn:
                applied = self._projection.apply(txn, came.results, now)
                for heartbeat in came.heartbeats.values():
                    txn.put(heartbeat.node.encode(), pack((heartbeat, now)), db=self._index.nodes)
            # The answers first: somebody waits for them.
            self._answers.send(applied.answers)
            self._replays.observe(came.results, came.heartbeats, applied.gaps)
            self._tell(applied)
        for call in calls:
            if call.name in _OWN_CALLS:
                self._answer(call)
        # What runs have stored is in the index before it is said that they have ended.
        self._jobs.handle([call for call in calls if call.name not in _OWN_CALLS], came.jobs, came.heartbeats)
        for delivery in deliveries:
            self._link.ack(delivery)

    def _answer(self, call: ControllerCall) -> None:
        """Do what a web worker asks for of the nodes' logs."""
        try:
            if call.name == "restore":
                self._replays.restore(*call.arguments)
            else:
                self._replays.forget(*call.arguments)
                self._jobs.forget(call.arguments[0])
        except Refused as error:
            call.refuse(error)
        else:
            call.reply(None)

    def _sort(self, deliveries: list[Delivery]) -> _Came:
        came = _Came([], {}, [])
        horizon = Horizon.now()
        for delivery in deliveries:
            try:
                message = decode_any(delivery.body)
                if isinstance(message, Results) and delivery.queue == topology.RESULTS:
                    came.results.append(self._believed(delivery, message, horizon))
                elif isinstance(message, Reports) and delivery.queue == topology.RESULTS:
                    came.jobs.append(message)
                elif isinstance(message, Heartbeat) and delivery.queue == topology.HEARTBEATS:
                    if objection := horizon.objection(0, message.at):
                        raise MalformedMessage(f"heartbeat of {message.node}: {objection}")
                    came.heartbeats[message.node] = message
                elif isinstance(message, NodeCatalog | Progress) and delivery.queue != topology.RESULTS:
                    came.jobs.append(message)
                else:
                    raise MalformedMessage(f"a {type(message).__name__} message on {delivery.queue}")
            except MessageError as error:
                self._link.bury(delivery, str(error))
        return came

    def _believed(self, delivery: Delivery, message: Results, horizon: Horizon) -> Results:
        """The results without those from the future, which are buried one by one; their place in the log counts."""
        good: list[Result] = []
        for item in message.items:
            if objection := horizon.objection(item.version, item.created):
                body = encode(message._replace(items=[item]))
                self._link.bury(delivery._replace(body=body), f"result of {message.node}: {objection}")
            else:
                good.append(item)
        return message if len(good) == len(message.items) else message._replace(items=good)

    def _tell(self, applied: Applied) -> None:
        if not self._events:
            return
        for event in applied.events:
            try:
                self._link.publish(routing_key(event), event.body(), exchange=topology.EVENTS)
            except LinkDown as error:
                log.debug("event not published", name=event.name, reason=error)
                return

    def _tick(self) -> None:
        self._housekeeping.tick(now_ms())
        self._replays.tick()
        self._jobs.tick(self._inbox.empty())


if __name__ == "__main__":
    sys.exit(run_companion("controller", "master", Controller))
