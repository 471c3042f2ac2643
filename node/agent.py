"""The agent: the single owner of a node's storage, and the consumer of its commands.

On the link's thread it takes all commands that have come, has the storage apply them as one group,
publishes the results and acknowledges: handing them to another thread and back costs more than the flush.
Replays, heartbeats and upkeep of the storage have threads of their own.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from broker import logs, service, settings, topology
from broker.errors import LinkDown, MessageError
from broker.link import Delivery, Link
from broker.messages import Announce, Commands, Delete, Kind, Replay, Result, Results, Status, Store, decode_any, encode
from node import identity
from node.errors import Broken
from node.heartbeat import measure
from node.replay import Replayer
from node.storage import Storage
from node.upkeep import Upkeep

log = logs.get(__name__)

PREFETCH = 32  # messages of up to 4 MiB


class Agent:
    """Runs until `stop` is called; `run` returns the exit status."""

    def __init__(self, config: settings.Settings) -> None:
        self._directory = Path(config["volume", "dir"])
        self.node = identity.load(config)
        self._url = f"http://{config.address('volume')}"
        self._heartbeat_secs = config["general", "heartbeat"]
        self._inbox: list[Delivery] = []
        self._stopping = threading.Event()
        self._failure: Broken | None = None
        self._beat_now = threading.Event()
        self._control = ""
        self._storage = Storage.open(config)
        self._told = self._storage.epoch_seq  # up to here the master asks by itself, when it sees the new epoch
        self._link = Link(config["broker", "url"], f"pulzar node {self.node}", self._topology)
        self._link.on_up = self._beat_now.set
        self._link.on_wake = self._work
        self._link.on_down = self._inbox.clear  # all of it comes again
        self._link.consume(topology.node_queue(self.node), self._commanded, PREFETCH, exclusive=True)
        self._link.consume(lambda: self._control, self._controlled, PREFETCH)
        self._replayer = Replayer(self.node, self._storage, self._link)
        self._upkeep = Upkeep(self._storage, config)

    def stop(self) -> None:
        """Have `run` return soon."""
        self._stopping.set()

    def run(self) -> int:
        """Carry out commands until stopped; exit status 1 when the storage has failed, else 0."""
        self._link.start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        self._replayer.start()
        self._upkeep.start()
        self._stopping.wait()
        self._upkeep.stop()
        self._replayer.stop()
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

    def _work(self) -> None:
        """Carry out what has come."""
        if not self._inbox or self._stopping.is_set():
            return
        deliveries = self._inbox[:]
        self._inbox.clear()
        try:
            self._apply(deliveries)
        except Broken as error:
            self._failure = error
            self._stopping.set()

    def _controlled(self, delivery: Delivery) -> None:
        try:
            message = decode_any(delivery.body)
            if isinstance(message, Announce):
                self._beat_now.set()
            else:
                raise MessageError(f"a {type(message).__name__} message on {topology.CONTROL}")
        except MessageError as error:
            self._link.bury(delivery, str(error))
        self._link.ack(delivery)

    def _apply(self, deliveries: list[Delivery]) -> None:
        batches: list[tuple[Delivery, Commands]] = []
        for delivery in deliveries:
            try:
                message = decode_any(delivery.body)
                if isinstance(message, Commands):
                    batches.append((delivery, message))
                    continue
                if not isinstance(message, Replay):
                    raise MessageError(f"a {type(message).__name__} message on {delivery.queue}")
                self._replayer.ask(message)
            except MessageError as error:
                self._link.bury(delivery, str(error))
            self._link.ack(delivery)
        if not batches:
            return
        commands: list[Store | Delete] = [item for _, batch in batches for item in batch.items]
        results = self._storage.apply(commands)
        start = 0
        for delivery, batch in batches:
            part = results[start : start + len(batch.items)]
            start += len(batch.items)
            self._publish(delivery, batch.origin, part)
            self._link.ack(delivery)

    def _publish(self, delivery: Delivery, origin: str, results: list[Result]) -> None:
        """Tell the controller what became of some commands. A message lost here comes again by replay."""
        after = self._told
        self._told = max(after, *(result.seq for result in results)) if results else after
        message = Results(self.node, origin, "", after, self._told, self._storage.seq, False, results)
        for result in results:
            if result.status not in (Status.DONE, Status.STALE):
                log.warning(
                    "command failed", key=result.key, version=result.version, kind=Kind(result.kind).name,
                    status=Status(result.status).name, reason=result.reason, message=f"{delivery.connection}.{delivery.tag}",
                )  # fmt: skip
        try:
            self._link.publish(topology.RESULTS, encode(message))
        except LinkDown as error:
            log.warning("results not sent; the master will ask for them", after=after, upto=self._told, reason=error)

    # On the heartbeat's thread.

    def _beat(self) -> None:
        while not self._stopping.is_set():
            self._beat_now.clear()
            try:
                heartbeat = measure(self.node, self._url, self._storage, self._directory)
                # One that waits for too long would make a node that is gone look alive.
                self._link.publish(topology.HEARTBEATS, encode(heartbeat), ttl_ms=int(1500 * self._heartbeat_secs))
            except LinkDown as error:
                log.debug("no heartbeat", reason=error)
            except OSError as error:
                log.error("the data directory can't be looked at", error=error)
            self._beat_now.wait(self._heartbeat_secs)


if __name__ == "__main__":
    sys.exit(service.run_companion("agent", "node", Agent))
