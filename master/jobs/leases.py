"""Leases: whether the nodes still run what they have claimed.

A node's heartbeats renew the leases of the runs that they name. Time here is the monotonic clock, in seconds, so that
a clock that is set ends no lease. Leases are in memory: after a start of the controller every one begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from broker import logs
from broker.messages.runs import Withdraw
from master.jobs.effects import Effect
from master.jobs.ledger import LedgerTables, LedgerView
from master.jobs.model import Job, JobState
from master.jobs.rows import List
from master.jobs.transitions import Transitions

log = logs.get(__name__)

# A heartbeat that comes later than this after a claim was sent after it: it lives 10 s at most in its queue.
MARGIN_SECS = 12.0
BEATS = 2  # heartbeats without a run until it is lost


class LastHeartbeat(NamedTuple):
    """The runs in the last heartbeat of a node."""

    runs: list[tuple[str, int, int]]  # run, id of the job (0: not known yet), attempt
    received: float


class _Lease(NamedTuple):
    """How long a run may go on without a heartbeat that names it."""

    since: float  # when the run was claimed or first seen
    missed: int = 0  # heartbeats that did not name it
    last: float = 0.0  # when the last heartbeat that counted was received


class Leases:
    """Finds lost runs, and runs that go on although they do not count."""

    def __init__(self, transitions: Transitions, lease_secs: float, clock: float) -> None:
        self._transitions = transitions
        self._lease_secs = lease_secs
        self._start = clock
        self._leases: dict[str, _Lease] = {}  # by run
        self._checked: dict[str, float] = {}  # node → its last heartbeat that was checked for superseded runs

    def begin_anew(self, clock: float) -> None:
        """Until now no node could be heard: silence before this is no sign."""
        self._start = clock

    def silent(self, heartbeat: LastHeartbeat, clock: float) -> bool:
        """Whether a node has been silent for longer than a lease, in a time in which it could be heard."""
        return clock - max(heartbeat.received, self._start) > self._lease_secs

    def check(self, tables: LedgerTables, nodes: Mapping[str, LastHeartbeat], clock: float, now: int) -> list[Effect]:
        """What follows from the heartbeats for runs that are lost, and for runs that are not wanted any more.

        Call it when no reports of nodes wait to be handled: a report may be behind its heartbeat.
        """
        effects: list[Effect] = []
        leases: dict[str, _Lease] = {}
        for number in list(tables.listed(List.RUNNING)):
            job = tables.job(number)
            if job is None:
                continue
            lease = self._leases.get(job.run, _Lease(clock))
            lease, reason = self._renew(job, lease, nodes.get(job.node), clock)
            if reason:
                log.warning("run is lost", job=job.id, attempt=job.attempt, node=job.node, run=job.run, reason=reason)
                effects += self._transitions.lost(tables, job, reason, now)
            else:
                leases[job.run] = lease
        self._leases = leases
        for node, heartbeat in nodes.items():
            if heartbeat.received > self._checked.get(node, 0.0):
                self._checked[node] = heartbeat.received
                effects += self._superseded(tables, heartbeat)
        return effects

    def _renew(
        self, job: Job, lease: _Lease, heartbeat: LastHeartbeat | None, clock: float
    ) -> tuple[_Lease, str | None]:
        """The lease of a run after the node's last heartbeat, and why the run is lost, if it is."""
        last = max(heartbeat.received if heartbeat else 0.0, lease.since, self._start)
        if clock - last > self._lease_secs:
            return lease, f"node {job.node} was not heard of for {clock - last:.0f} s"
        if heartbeat is None or heartbeat.received <= lease.last or heartbeat.received - lease.since < MARGIN_SECS:
            return lease, None
        if any(run == job.run for run, _, _ in heartbeat.runs):
            return _Lease(lease.since, 0, heartbeat.received), None
        missed = lease.missed + 1
        reason = f"node {job.node} does not run it" if missed >= BEATS else None
        return _Lease(lease.since, missed, heartbeat.received), reason

    def _superseded(self, view: LedgerView, heartbeat: LastHeartbeat) -> list[Effect]:
        """End runs that go on although they do not count: their node was frozen, or cut off."""
        effects: list[Effect] = []
        for run, number, attempt in heartbeat.runs:
            job = view.job(number or view.by_run(run))
            if job is None:
                if number:
                    effects.append(Withdraw(number, attempt, run, "the master does not know this job"))
                continue
            ahead = job.state is JobState.PENDING and attempt >= job.attempt  # its claim is on the way
            if job.run != run and not ahead:
                log.warning("run does not count any more", job=job.id, attempt=attempt, run=run)
                effects.append(Withdraw(job.id, attempt, run, "another run of it is the one that counts"))
            elif job.run == run and job.cancelling:
                effects.append(Withdraw(job.id, attempt, run, "cancelled"))
        return effects
