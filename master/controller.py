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

import lmdb

from broker import logs, service, settings, topology
from broker.errors import LinkDown, MessageError
from broker.link import Delivery, Link
from broker.messages import Announce, Heartbeat, Results, decode, encode
from master.answers import AnswerServer
from master.housekeeping import Housekeeping
from master.index import Index, now_ms, pack
from master.projection import Applied, Projection, routing_key
from master.replays import Replays

log = logs.get(__name__)

PREFETCH = 256  # messages; each has up to a thousand results
MAX_BATCH = 64  # messages in one transaction
TICK_SECS = 1.0


class Controller:
    """Runs until `stop` is called. Everything but the link's callbacks happens on the thread that calls `run`."""

    def __init__(self, config: settings.Settings) -> None:
        directory = Path(config["server", "dir"])
        self._index = Index(directory / "index", config["server", "index_map"], write=True)
        self._projection = Projection(self._index)
        self._answers = AnswerServer(directory / "controller.sock")
        self._inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._events = config["general", "events"]
        self._stopping = threading.Event()
        self._link = Link(config["broker", "url"], "pulzar master controller", topology.master)
        self._link.on_up = self._up
        self._link.consume(topology.RESULTS, self._inbox.put, PREFETCH)
        self._link.consume(topology.HEARTBEATS, self._inbox.put, PREFETCH)
        self._replays = Replays(self._index, self._projection, self._link)
        self._housekeeping = Housekeeping(self._index, self._link, config["general", "tombstone_days"])

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopping.set()

    def run(self) -> int:
        """Consume and keep house until stopped; the exit status, 0."""
        self._link.start()
        next_tick = time.monotonic()
        while not self._stopping.is_set():
            deliveries = self._take(max(0.0, next_tick - time.monotonic()))
            if deliveries:
                self._persist(partial(self._handle_all, deliveries))
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_SECS
                self._persist(self._tick)
        self._link.stop()
        self._index.close()
        return 0

    def _up(self) -> None:
        try:
            self._link.publish("", encode(Announce("the master is here")), exchange=topology.CONTROL)
        except LinkDown as error:
            log.debug("no announcement", reason=error)

    def _take(self, timeout: float) -> list[Delivery]:
        """What waits, at least one message unless the time is over."""
        deliveries: list[Delivery] = []
        try:
            deliveries.append(self._inbox.get(timeout=timeout))
            while len(deliveries) < MAX_BATCH:
                deliveries.append(self._inbox.get_nowait())
        except queue.Empty:
            return deliveries
        return deliveries

    def _persist(self, work: Callable[[], None]) -> None:
        """Do the work; when the index can't be written, say so and try until it can."""
        while not self._stopping.is_set():
            try:
                work()
                return
            except (lmdb.Error, OSError) as error:
                log.error("the index can't be written; trying again", error=error)
                self._stopping.wait(1.0)

    def _handle_all(self, deliveries: list[Delivery]) -> None:
        """Handle what was taken; a message that makes it fail is found and buried, the others count."""
        try:
            self._handle(deliveries)
        except Exception as error:
            # The disk is nobody's fault but its own; a size that LMDB refuses comes from a message.
            if isinstance(error, lmdb.Error | OSError) and not isinstance(error, lmdb.BadValsizeError):
                raise
            if len(deliveries) > 1:
                for delivery in deliveries:
                    self._handle_all([delivery])
                return
            log.exception("message could not be applied", queue=deliveries[0].queue)
            self._link.bury(deliveries[0], f"it could not be applied: {error!r}")
            self._link.ack(deliveries[0])

    def _handle(self, deliveries: list[Delivery]) -> None:
        results, heartbeats = self._sort(deliveries)
        now = now_ms()
        with self._index.env.begin(write=True) as txn:
            applied = self._projection.apply(txn, results, now)
            for heartbeat in heartbeats.values():
                txn.put(heartbeat.node.encode(), pack((heartbeat, now)), db=self._index.nodes)
        # The answers first: somebody waits for them.
        self._answers.send(applied.answers)
        for delivery in deliveries:
            self._link.ack(delivery)
        self._replays.observe(results, heartbeats, applied.gaps)
        self._tell(applied)

    def _sort(self, deliveries: list[Delivery]) -> tuple[list[Results], dict[str, Heartbeat]]:
        results: list[Results] = []
        heartbeats: dict[str, Heartbeat] = {}
        for delivery in deliveries:
            try:
                if delivery.queue == topology.RESULTS:
                    results.append(decode(delivery.body, Results))
                else:
                    heartbeat = decode(delivery.body, Heartbeat)
                    heartbeats[heartbeat.node] = heartbeat
            except MessageError as error:
                self._link.bury(delivery, str(error))
        return results, heartbeats

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
        while not self._answers.requests.empty():
            name, *arguments = self._answers.requests.get()
            if name == "restore":
                self._replays.restore(arguments[0])
            else:
                log.error("a web worker asked for something unknown", request=name)
        self._housekeeping.tick(now_ms())
        self._replays.tick()


if __name__ == "__main__":
    sys.exit(service.run_companion("controller", "master", Controller))
