"""Jobs whose message is lost, perhaps: the broker has not confirmed it, or somebody has emptied its queue.

Called by the controller, in its transactions, once a second.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice

from broker import logs
from broker.clock import DAY_MS
from broker.messages.jobs import PRIORITIES
from master.jobs.effects import Effect
from master.jobs.ledger import LedgerTables, LedgerView
from master.jobs.model import AttemptId, Job, JobState, lane
from master.jobs.transitions import Setback, Transitions

log = logs.get(__name__)

MOST = 1_000  # jobs published in one go
MOST_FORGOTTEN = 200  # jobs a second: more than can end, and too few for others to wait for
SETTLE_MS = 5_000  # a message younger than this may be on its way
_PURGED = Setback("its queue was purged or deleted, perhaps")


class Requeue:
    """Publishes messages again, and forgets jobs that ended long ago."""

    def __init__(self, transitions: Transitions, retention_days: int) -> None:
        self._transitions = transitions
        self._retention_ms = retention_days * DAY_MS

    def unconfirmed(self, view: LedgerView, under_way: Collection[AttemptId], most: int = MOST) -> list[Effect]:
        """Publish jobs again, to the queue that they were committed to, whose message the broker may not have.

        Jobs with attempts that are `under_way` to the broker are left out. Called at the start, and for messages that
        the broker refused or that were lost with a connection.
        """
        # Of a job with any attempt under way nothing is looked up: there may be thousands.
        numbers = {number for number, _ in under_way}
        missing = (job for number in view.unconfirmed() if number not in numbers and (job := view.job(number)))
        return [self._transitions.publish_again(view, job) for job in islice(missing, most)]

    def emptied(self, tables: LedgerTables, lanes: Collection[str], now: int) -> list[Effect]:
        """Publish again what should be in these queues, which have been empty for several seconds.

        Empty: no message in them, none unacknowledged, and no reports of nodes left to handle. Lanes are named as
        `master.jobs.model.lane` does.
        """
        effects: list[Effect] = []
        for name in lanes:
            for job in self._pending(tables, islice(tables.waiting(name), MOST)):
                # RabbitMQ moves jobs from a node's own queue that are there for their data only.
                moved = not name.startswith(":") and bool(job.data) and not job.options.node
                if not job.confirmed or 0 <= now - job.confirmed < SETTLE_MS:
                    continue
                if moved and lane("", "normal") not in lanes:
                    continue
                log.warning("message is gone; publishing again", job=job.id, attempt=job.attempt, lane=name)
                effects += self._transitions.publish(tables, job, now, _PURGED)
            for attempt, time in list(tables.withdrawn(name)):
                if not 0 <= now - time < SETTLE_MS:
                    tables.drop_withdrawn(name, attempt.job)
        return effects

    def stranded(self, tables: LedgerTables, node: str, now: int) -> list[Effect]:
        """Publish the jobs in the queue of a node that is gone for other nodes, if they are not bound to it.

        If the node comes back, it is told to drop them (`withdrawn`).
        """
        effects: list[Effect] = []
        for job in self._pending(tables, islice(tables.waiting(lane(node, "")), MOST)):
            if self._transitions.elsewhere(tables, job, node):
                log.warning("its node is gone; publishing again", job=job.id, attempt=job.attempt, node=node)
                tables.withdraw(job, now)
                effects += self._transitions.publish(tables, job, now, Setback(f"node {node} is gone", node))
        return effects

    def withdrawn(self, view: LedgerView, node: str | None = None, most: int = 10_000) -> list[AttemptId]:
        """Attempts that a node must not run when it pulls them, for one that starts: the newest of them."""
        names = [lane("", priority) for priority in PRIORITIES] + ([lane(node, "")] if node else [])
        return sorted(attempt for name in names for attempt, _ in view.withdrawn(name))[-most:]

    def forgettable(self, view: LedgerView, now: int) -> list[int]:
        """Ids of jobs and schedules that ended so long ago that they are forgotten, some at a time."""
        return list(islice(view.closed(now - self._retention_ms), MOST_FORGOTTEN))

    def _pending(self, view: LedgerView, numbers: Iterable[int]) -> list[Job]:
        found = (view.job(number) for number in list(numbers))
        return [job for job in found if job and job.state is JobState.PENDING]
