"""The agent: the single owner of a node's storage and jobs. It routes what the node receives.

Commands are carried out on the link's thread, since handing them over to another thread and back costs more than the
flush. Replays, heartbeats, maintenance of the storage, backups and jobs have threads of their own.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from broker import logs, process, settings, topology
from broker.errors import MessageError, SettingsError
from broker.link import Delivery, Link, roles
from broker.messages.backups import MakeBackup
from broker.messages.codec import decode_any
from broker.messages.runs import AskCatalog, Named, Withdraw, Withdrawn
from broker.messages.store import Announce, Commands, Confirm, Fetch, Replay
from broker.metrics.keeper import Keeper
from broker.service.companion import run_companion
from node import identity, twin
from node.backups import Backups
from node.command_executor import CommandExecutor
from node.errors import Broken
from node.fetcher import Fetcher
from node.gauges import Gauges
from node.healer import Healer
from node.heartbeat import Heartbeats
from node.jobs.service import Jobs
from node.metrics import figures
from node.replayer import Replayer
from node.storage.maintenance import Maintenance
from node.storage.staging import Staging
from node.storage.storage import Storage

log = logs.get(__name__)

PREFETCH = 32  # messages of up to 4 MiB


class Agent:
    """A node's consumer. It runs until `stop` is called."""

    def __init__(self, config: settings.Settings) -> None:
        """Opens the storage. Raises `SettingsError`, `StorageError`."""
        self.node = identity.load(config)
        self._stopping = threading.Event()
        self._failure: Broken | None = None
        self._control = ""
        self._storage = Storage.open(config)
        sender = roles.of_node(config, self.node)
        self._declared = topology.node_role if sender.user else topology.node
        self._link = Link(config.broker.url, f"pulzar node {self.node}", self._topology, sender, ca=config.security.ca)
        self._link.consume(topology.node_queue(self.node), self._receive, PREFETCH, exclusive=True)
        self._link.consume(lambda: self._control, self._receive_control, PREFETCH)
        self._commands = CommandExecutor(self.node, self._storage, self._link)
        staging = Staging(Path(config.volume.dir), config.volume.reserve)
        self._fetcher = Fetcher(config, staging, self._commands)
        self._healer = Healer(Path(config.volume.dir), self.node, self._storage, self._link)
        self._replayer = Replayer(self.node, self._storage, self._link)
        self._maintenance = Maintenance(self._storage, config)
        self._jobs = Jobs(config, self.node, self._link, self._commands.store_values)
        self._heartbeats = Heartbeats(config, self.node, self._storage, self._jobs, self._link)
        self._backups = Backups(config, self.node, self._storage, self._link)
        gauges = Gauges(Path(config.volume.dir), self._storage, self._jobs, figures.PROCESS.of(self._link))
        self._figures = Keeper(figures.LAYOUT, Path(config.volume.dir), "agent", gauges.measure)
        self._link.on_up += [self._heartbeats.send_catalog, self._jobs.link_up, self._backups.tell]
        self._link.on_wake += [self._jobs.work_link, self._work]
        self._link.on_down += [self._commands.forget, self._jobs.link_down]

    def stop(self) -> None:
        """End `run` soon."""
        self._stopping.set()

    def run(self) -> int:
        """Work until stopped.

        Exit status 1: the storage has failed; 2: a directory can't be used, or another process is this node; else 0.
        """
        try:
            self._jobs.start()
        except SettingsError as error:
            log.error("jobs can't be run", node=self.node, reason=error)
            return 2
        is_twin = False
        self._figures.start()
        self._link.start()
        self._heartbeats.start()
        self._replayer.start()
        self._fetcher.start()
        self._healer.start()
        self._maintenance.start()
        self._backups.start()
        while not self._stopping.wait(twin.LOOK_SECS) and not (is_twin := self._link.taken_secs > twin.PATIENCE_SECS):
            pass
        self._heartbeats.stop()
        self._backups.stop()
        self._maintenance.stop()
        self._jobs.stop()
        self._replayer.stop()
        self._healer.stop()
        self._fetcher.stop()
        self._commands.closed = True
        self._link.stop()
        self._storage.close()
        self._figures.close()
        if self._failure:
            # The log on the disk is good; what this process knows of it may not be.
            log.error("storage failed; the agent must start again", node=self.node, reason=self._failure)
            return 1
        if is_twin:
            log.error("another process is this node", node=self.node, remedy=twin.REMEDY)
            return 2
        return 0

    # On the link's thread.

    def _topology(self) -> list[topology.Declaration]:
        self._control = topology.control_queue(self.node)
        return list(self._declared(self.node, self._control))

    def _work(self) -> None:
        try:
            self._commands.work()
        except Broken as error:
            self._failure = error
            self._stopping.set()

    def _receive(self, delivery: Delivery) -> None:
        """Route a message of the node's own queue."""
        if self._commands.closed:
            return  # it comes again
        try:
            match decode_any(delivery.body):
                case Commands() as commands:
                    self._commands.add(delivery, commands)
                    return
                case Fetch() | Confirm() as question:
                    self._fetcher.take(question)
                case Replay() as request:
                    self._replayer.ask(request)
                case Named() | Withdrawn() as message:
                    self._jobs.told(message)
                case MakeBackup() as order:
                    self._backups.take(order)
                case AskCatalog():
                    self._heartbeats.send_catalog()
                case other:
                    raise MessageError(f"a {type(other).__name__} message on {delivery.queue}")
        except MessageError as error:
            self._link.bury(delivery, str(error))
        self._link.ack(delivery)

    def _receive_control(self, delivery: Delivery) -> None:
        """Route a message that goes to all nodes."""
        try:
            match decode_any(delivery.body):
                case Announce():
                    self._heartbeats.send_soon()
                    self._backups.tell()
                case Withdraw() as message:
                    self._jobs.told(message)
                case other:
                    raise MessageError(f"a {type(other).__name__} message on {topology.CONTROL}")
        except MessageError as error:
            self._link.bury(delivery, str(error))
        self._link.ack(delivery)


if __name__ == "__main__":
    process.hide()  # from jobs
    process.pass_no_capabilities()
    sys.exit(run_companion("agent", "node", Agent))
