"""The controller's part in events: puts those of jobs, nodes and backups into the ring, and wakes who listens.

Those of keys are in the ring already: in the transaction that changed the keys.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.clock import now_ms
from broker.link import Link
from broker.settings import Settings
from master.backup.schedule import BackupSchedule
from master.channel import ControllerCall
from master.events.cloud_events import CloudEvents
from master.events.exchange import Exchange
from master.events.node_watch import NodeWatch
from master.index.events import Event
from master.index.index import Index
from master.jobs.service import Jobs


class EventDesk:
    """For the controller's thread alone. Its methods raise `lmdb.Error` when the index can't be written."""

    def __init__(self, config: Settings, index: Index, link: Link, jobs: Jobs, backups: BackupSchedule) -> None:
        self._index = index
        self._jobs = jobs
        self._backups = backups
        self._watch = NodeWatch(index, config.general.heartbeat)
        self._away = set(self._watch.away)  # as the index has them
        self._of_nodes: list[Event] = []  # that the index has not told yet
        shape = CloudEvents(config.url(config.server))
        self._exchange = Exchange(index, link, shape, wanted=config.general.events)
        self._listening: dict[str, ControllerCall] = {}  # by the web worker they came from
        with index.read() as tables:
            self._newest = tables.newest_event().number
            self._told_of_jobs = tables.told_of_jobs()
        if self._told_of_jobs > jobs.newest_event:  # an older ledger was put back
            self._told_of_jobs = 0

    def listen(self, call: ControllerCall, number: int) -> None:
        """Reply to a web worker's call as soon as there is an event behind the one with this number."""
        if number < self._newest:
            call.reply(self._newest)
        else:
            self._listening[call.origin] = call

    def heard(self, nodes: Iterable[str]) -> None:
        """Note heartbeats of these nodes, which the index has."""
        self._watch.heard(nodes)

    def tell(self) -> None:
        """Put what has happened into the ring, and tell who listens of all that is new there."""
        jobs = [(number, event) for number, event in self._jobs.events if number > self._told_of_jobs]
        self._write(jobs, self._backups.events)
        self._backups.events.clear()
        if self._jobs.events:
            self._jobs.told(self._told_of_jobs)
        with self._index.read() as tables:
            newest = tables.newest_event().number
        if newest != self._newest:
            self._newest = newest
            calls, self._listening = self._listening, {}
            for call in calls.values():
                call.reply(newest)
            self._exchange.tell()

    def tick(self) -> None:
        """Notice nodes that come and go; publish what waits."""
        with self._index.read() as tables:
            nodes = tables.nodes()
        self._of_nodes += self._watch.changes(nodes, now_ms())
        if self._of_nodes or self._away != self._watch.away:
            with self._index.write() as tables:
                tables.tell(*self._of_nodes)
                tables.set_away(sorted(self._watch.away))
            self._of_nodes.clear()
            self._away = set(self._watch.away)
        self.tell()
        self._exchange.tick()

    def _write(self, jobs: list[tuple[int, Event]], others: list[Event]) -> None:
        if not jobs and not others:
            return
        with self._index.write() as tables:
            tables.tell(*(event for _, event in jobs), *others)
            if jobs:
                tables.set_told_of_jobs(jobs[-1][0])
        if jobs:
            self._told_of_jobs = jobs[-1][0]
