"""The agent: the single owner of a node's storage, and the consumer of its commands.

On the link's thread it takes all commands that have come, has the storage apply them as one group,
publishes the results and acknowledges: handing them to another thread and back costs more than the flush.
Replays, heartbeats, upkeep of the storage and jobs have threads of their own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from broker import logs, service, settings, topology
from broker.errors import LinkDown, MessageError, SettingsError, Unsendable
from broker.link import Delivery, Link
from broker.messages.codec import decode_any, encode
from broker.messages.horizon import Horizon
from broker.messages.runs import AskCatalog, Named, NodeCatalog, Withdraw, Withdrawn
from broker.messages.store import Announce, Commands, Delete, Kind, Replay, Result, Results, Status, Store
from node import identity
from node.errors import Broken
from node.heartbeat import measure
from node.jobs.service import Jobs
from node.replayer import Replayer
from node.storage.maintenance import Maintenance
from node.storage.storage import Storage

log = logs.get(__name__)

PREFETCH = 32  # messages of up to 4 MiB
CATALOG_SECS = 2.0  # between two looks at the scripts

Kept = Callable[[list[Result]], None]


class Agent:
    """Runs until `stop` is called; `run` returns the exit status."""

    def __init__(self, config: settings.Settings) -> None:
        self._directory = Path(config.volume.dir)
        self.node = identity.load(config)
        self._url = f"http://{config.address(config.volume)}"
        self._heartbeat_secs = config.general.heartbeat
        self._inbox: list[Delivery] = []
        self._own: deque[tuple[Sequence[Store], Kept]] = deque()
        self._stopping = threading.Event()
        self._closed = False  # no more commands are carried out
        self._failure: Broken | None = None
        self._beat_now = threading.Event()
        self._tell_catalog = True
        self._catalog_at = 0.0
        self._control = ""
        self._storage = Storage.open(config)
        self._told_seq = self._storage.epoch.seq  # up to here the master asks by itself, when it sees the new epoch
        self._link = Link(config.broker.url, f"pulzar node {self.node}", self._topology)
        self._link.on_up = self._up
        self._link.on_wake = self._work
        self._link.on_down = self._down
        self._link.consume(topology.node_queue(self.node), self._commanded, PREFETCH, exclusive=True)
        self._link.consume(lambda: self._control, self._controlled, PREFETCH)
        self._replayer = Replayer(self.node, self._storage, self._link)
        self._upkeep = Maintenance(self._storage, config)
        self._jobs = Jobs(config, self.node, self._link, self.keep)

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopping.set()

    def keep(self, stores: Sequence[Store], then: Kept) -> None:
        """Have values of this node's own stored with the next commands; `then` gets the results, on the link's thread."""
        self._own.append((stores, then))
        self._link.wake()

    def run(self) -> int:
        """Carry out commands until stopped; exit status 1 when the storage has failed, 2 for directories of no use, else 0."""
        try:
            self._jobs.start()
        except SettingsError as error:
            log.error("jobs can't be run", node=self.node, reason=error)
            return 2
        self._link.start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        self._replayer.start()
        self._upkeep.start()
        self._stopping.wait()
        self._upkeep.stop()
        self._jobs.stop()
        self._replayer.stop()
        self._closed = True
        self._link.stop()
        self._storage.close()
        if self._failure:
            # The log on the disk is good; what this process knows of it may not be.
            log.error("storage failed; the agent must start again", node=self.node, reason=self._failure)
            return 1
        return 0

    # On the link's thread.

    def _topology(self) -> list[topology.Declaration]:
        self._control = topology.control_queue(self.node)
        return list(topology.node(self.node, self._control))

    def _commanded(self, delivery: Delivery) -> None:
        self._inbox.append(delivery)
        self._link.wake()

    def _up(self) -> None:
        self._tell_catalog = True
        self._beat_now.set()
        self._jobs.link_up()

    def _down(self) -> None:
        self._inbox.clear()  # all of it comes again
        self._jobs.link_down()

    def _work(self) -> None:
        """Carry out what has come."""
        self._jobs.work_link()
        if not (self._inbox or self._own) or self._closed or self._failure:
            return
        deliveries = self._inbox[:]
        self._inbox.clear()
        own = [self._own.popleft() for _ in range(len(self._own))]
        try:
            self._apply(deliveries, own)
        except Broken as error:
            self._failure = error
            self._stopping.set()

    def _controlled(self, delivery: Delivery) -> None:
        try:
            message = decode_any(delivery.body)
            if isinstance(message, Announce):
                self._beat_now.set()
            elif isinstance(message, Withdraw):
                self._jobs.told(message)
            else:
                raise MessageError(f"a {type(message).__name__} message on {topology.CONTROL}")
        except MessageError as error:
            self._link.bury(delivery, str(error))
        self._link.ack(delivery)

    def _apply(self, deliveries: list[Delivery], own: Sequence[tuple[Sequence[Store], Kept]]) -> None:
        batches: list[tuple[Delivery, Commands, list[Result]]] = []
        horizon = Horizon.now()
        for delivery in deliveries:
            try:
                message = decode_any(delivery.body)
                if isinstance(message, Commands):
                    batches.append((delivery, *self._believed(delivery, message, horizon)))
                    continue
                self._told(message, delivery)
            except MessageError as error:
                self._link.bury(delivery, str(error))
            self._link.ack(delivery)
        if not batches and not own:
            return
        commands: list[Store | Delete] = [item for _, batch, _ in batches for item in batch.items]
        for stores, _ in own:
            commands += stores
        results = self._storage.apply(commands)
        start = 0
        for delivery, batch, refused in batches:
            part = results[start : start + len(batch.items)]
            start += len(batch.items)
            self._publish(batch.origin, part + refused)
            self._link.ack(delivery)
        for stores, then in own:
            part = results[start : start + len(stores)]
            start += len(stores)
            # By the channel of the reports of runs: these must not overtake the keys that they name.
            self._publish("", part, done=lambda _sent: None)
            then(part)

    def _believed(self, delivery: Delivery, batch: Commands, horizon: Horizon) -> tuple[Commands, list[Result]]:
        """The batch without commands from the future, which are buried one by one, and what their senders are told."""
        good: list[Store | Delete] = []
        refused: list[Result] = []
        for item in batch.items:
            objection = horizon.objection(item.version, item.created if isinstance(item, Store) else 0)
            if not objection:
                good.append(item)
                continue
            self._link.bury(delivery._replace(body=encode(batch._replace(items=[item]))), objection)
            if item.ticket:
                refused.append(
                    Result(item.ticket, Status.FAILED, objection, 0, item.kind, item.key, 0, 0, 0, "", b"", 0, None)
                )
        return (batch._replace(items=good) if len(good) < len(batch.items) else batch), refused

    def _told(self, message: object, delivery: Delivery) -> None:
        """What comes on the node's own queue beside commands."""
        match message:
            case Replay():
                self._replayer.ask(message)
            case Named() | Withdrawn():
                self._jobs.told(message)
            case AskCatalog():
                self._tell_catalog = True
                self._beat_now.set()
            case _:
                raise MessageError(f"a {type(message).__name__} message on {delivery.queue}")

    def _publish(self, origin: str, results: list[Result], done: Callable[[bool], None] | None = None) -> None:
        """Tell the controller what became of some commands. A message lost here comes again by replay."""
        after = self._told_seq
        self._told_seq = max(after, *(result.seq for result in results)) if results else after
        message = Results(self.node, origin, "", after, self._told_seq, self._storage.seq, False, results)
        for result in results:
            if result.status not in (Status.DONE, Status.STALE):
                log.warning(
                    "command failed",
                    key=result.key,
                    version=result.version,
                    kind=Kind(result.kind).name,
                    status=Status(result.status).name,
                    reason=result.reason,
                )
        try:
            self._link.publish(topology.RESULTS, encode(message), done=done)
        except LinkDown as error:
            log.warning(
                "results not sent; the master will ask for them", after=after, upto=self._told_seq, reason=error
            )

    # On the heartbeat's thread.

    def _beat(self) -> None:
        while not self._stopping.is_set():
            self._beat_now.clear()
            try:
                self._look_at_scripts()
                heartbeat = measure(self.node, self._url, self._storage, self._jobs, self._directory)
                # One that waits for too long would make a node that is gone look alive.
                self._link.publish(topology.HEARTBEATS, encode(heartbeat), ttl_ms=int(1500 * self._heartbeat_secs))
            except LinkDown as error:
                log.debug("no heartbeat", reason=error)
            except Unsendable as error:
                log.error("a heartbeat or catalog can't be sent", reason=error)
            except OSError as error:
                log.error("the data directory can't be looked at", error=error)
            self._beat_now.wait(self._heartbeat_secs)

    def _look_at_scripts(self) -> None:
        """See whether the scripts have changed, now and then, and tell when they have, or when somebody asks."""
        catalog = self._jobs.catalog
        if time.monotonic() >= self._catalog_at:
            self._tell_catalog |= catalog.scan()
            self._catalog_at = time.monotonic() + CATALOG_SECS
        if self._tell_catalog and self._link.ready:
            self._tell_catalog = False
            self._link.publish(topology.HEARTBEATS, encode(NodeCatalog(self.node, catalog.digest, catalog.rows)))


if __name__ == "__main__":
    sys.exit(service.run_companion("agent", "node", Agent))
