"""Leases: whether the nodes still run what they have claimed.

A node's heartbeats renew the leases of the runs that they name. Time here is the monotonic clock, in
seconds, so that a clock that is set ends no lease. All of it is in memory: after a start of the controller
every lease begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from broker import logs
from broker.messages.runs import Withdraw
from master.jobs.effects import Action
from master.jobs.ledger import List
from master.jobs.model import Job, JobState
from master.jobs.transitions import Transitions

log = logs.get(__name__)

# A heartbeat that comes later than this after a claim was sent after it: it lives 10 s at most in its queue.
MARGIN_SECS = 12.0
BEATS = 2  # heartbeats without a run until it is lost


class Heard(NamedTuple):
    """The last heartbeat of a node."""

    running: list[tuple[str, int, int]]  # run, id of the job (0: not known yet), attempt
    at: float  # when it was received


class _Watch(NamedTuple):
    since: float  # the run was claimed, or the watch began
    missed: int = 0  # heartbeats that did not name it
    last: float = 0.0  # when the last heartbeat that was looked at was received


class Leases:
    """Of the controller; used on its thread alone."""

    def __init__(self, runs: Transitions, lease_secs: float, clock: float) -> None:
        self._runs = runs
        self._ledger = runs.ledger
        self._lease = lease_secs
        self._start = clock
        self._watched: dict[str, _Watch] = {}  # by run
        self._told: dict[str, float] = {}  # node → its last heartbeat that superseded runs were looked for in

    def begin_anew(self, clock: float) -> None:
        """Until now nobody could be heard: silence before this is no sign."""
        self._start = clock

    def silent(self, heard: Heard, clock: float) -> bool:
        """Whether a node has been silent for longer than a lease, in a time in which it could be heard."""
        return clock - max(heard.at, self._start) > self._lease

    def check(self, txn: Any, nodes: Mapping[str, Heard], clock: float, now: int) -> list[Action]:
        """What is to be done about runs that are lost, and about runs that nobody wants any more.

        To be called when no reports of nodes wait to be handled: a report may be behind its heartbeat.
        """
        actions: list[Action] = []
        running: dict[str, _Watch] = {}
        for number in list(self._ledger.listed(txn, List.RUNNING)):
            job = self._ledger.job(txn, number)
            if job is None:
                continue
            watch = self._watched.get(job.run, _Watch(clock))
            watch, reason = self._look(job, watch, nodes.get(job.node), clock)
            if reason:
                log.warning("run is lost", job=job.id, attempt=job.attempt, node=job.node, run=job.run, reason=reason)
                actions += self._runs.lost(txn, job, reason, now)
            else:
                running[job.run] = watch
        self._watched = running
        for node, heard in nodes.items():
            if heard.at > self._told.get(node, 0.0):
                self._told[node] = heard.at
                actions += self._superseded(txn, heard)
        return actions

    def _look(self, job: Job, watch: _Watch, heard: Heard | None, clock: float) -> tuple[_Watch, str]:
        """What is known now of a run, and why it is lost ("": it is not)."""
        last = max(heard.at if heard else 0.0, watch.since, self._start)
        if clock - last > self._lease:
            return watch, f"node {job.node} was not heard of for {clock - last:.0f} s"
        if heard is None or heard.at <= watch.last or heard.at - watch.since < MARGIN_SECS:
            return watch, ""
        if any(run == job.run for run, _, _ in heard.running):
            return _Watch(watch.since, 0, heard.at), ""
        missed = watch.missed + 1
        return _Watch(watch.since, missed, heard.at), f"node {job.node} does not run it" if missed >= BEATS else ""

    def _superseded(self, txn: Any, heard: Heard) -> list[Action]:
        """Have runs ended that go on although they do not count: their node was frozen, or cut off."""
        actions: list[Action] = []
        for run, number, attempt in heard.running:
            job = self._ledger.job(txn, number or self._ledger.by_run(txn, run))
            if job is None:
                if number:
                    actions.append(Withdraw(number, attempt, run, "the master does not know this job"))
                continue
            ahead = job.state is JobState.PENDING and attempt >= job.attempt  # its claim is on the way
            if job.run != run and not ahead:
                log.warning("run does not count any more", job=job.id, attempt=attempt, run=run)
                actions.append(Withdraw(job.id, attempt, run, "another run of it is the one that counts"))
            elif job.run == run and job.cancelling:
                actions.append(Withdraw(job.id, attempt, run, "cancelled"))
        return actions
