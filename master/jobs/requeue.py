"""Jobs that wait: for the broker's word, for their retry, in a queue that somebody has emptied; and those to forget.

Called by the controller, in its transactions, once a second.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any

from broker import logs
from broker.clock import DAY_MS
from broker.messages.jobs import PRIORITIES
from master.index.environment import stamped
from master.jobs.effects import Action, Publish
from master.jobs.ledger import number_of
from master.jobs.model import Job, JobState, lane
from master.jobs.transitions import Transitions, retry_delay

log = logs.get(__name__)

MOST = 1_000  # jobs published in one go
MOST_FORGOTTEN = 2_000
SETTLE_MS = 5_000  # a message younger than this may be on its way
CLOCK_STEP_MS = 1_000  # a clock that goes back by less is only being tuned
_PURGED = "its queue was purged or deleted, perhaps"


class Requeue:
    """Of the controller; used on its thread alone."""

    def __init__(self, runs: Transitions, retention_days: int) -> None:
        self._runs = runs
        self._ledger = runs.ledger
        self._retention_ms = retention_days * DAY_MS
        self._seen = 0  # ms, the clock at the last look; 0 before the first

    def retries(self, txn: Any, now: int) -> list[Action]:
        """Publish the jobs whose retry is due."""
        if now < self._seen - CLOCK_STEP_MS or not self._seen:
            self._pull_back(txn, now)
        self._seen = now
        due: list[int] = []
        for row, _ in self._ledger.up(txn, "due"):
            if row > stamped(now, (1 << 64) - 1) or len(due) >= MOST:
                break
            due.append(number_of(row))
        actions: list[Action] = []
        for job in self._jobs(txn, due):
            actions += self._runs.publish(txn, job, now)
        return actions

    def _pull_back(self, txn: Any, now: int) -> None:
        """The clock went back, or may have: no retry is further ahead than its delay."""
        late = [number_of(row) for row, _ in self._ledger.up(txn, "due") if row > stamped(now, 0)]
        for job in self._jobs(txn, late):
            # The attempt that failed set the delay.
            most = now + int(retry_delay(job._replace(attempt=job.attempt - 1)) * 1000)
            if job.due > most:
                self._ledger.save(txn, job, job._replace(due=most))

    def unconfirmed(self, txn: Any, under_way: Collection[tuple[int, int]], most: int = MOST) -> list[Action]:
        """Jobs that were committed and whose message the broker may not have, to be published as they were.

        Not those (id, attempt) whose message is under way to the broker just now. For the start, and for
        whenever the broker has refused messages or was away.
        """
        actions: list[Action] = []
        for key, _ in self._ledger.up(txn, "open"):
            if len(actions) >= most:
                break
            job = self._ledger.job(txn, number_of(key))
            if job and (job.id, job.attempt) not in under_way:
                actions.append(Publish(job.order(), job.lane.partition(":")[0]))
        return actions

    def emptied(self, txn: Any, lanes: Collection[str], now: int) -> list[Action]:
        """Publish again what should be in these queues, which have been empty for several seconds.

        Empty: no message in them, none unacknowledged, and no reports of nodes that are still to be handled.
        Lanes are named as `master.jobs.model.lane` does.
        """
        actions: list[Action] = []
        for name in lanes:
            rows = self._ledger.up(txn, "waiting", name.encode() + b"\0")
            gone = [number_of(key) for key, _ in islice(rows, MOST)]
            for job in self._jobs(txn, gone):
                # A node's queue passes on in time what is there for its data only.
                moved = not name.startswith(":") and bool(job.data) and not job.options.node
                if not job.confirmed or 0 <= now - job.confirmed < SETTLE_MS:
                    continue
                if moved and lane("", "normal") not in lanes:
                    continue
                log.warning("message is gone; publishing again", job=job.id, attempt=job.attempt, lane=name)
                actions += self._runs.publish(txn, job, now, problem=_PURGED)
            for number, _, at in list(self._ledger.withdrawn(txn, name)):
                if not 0 <= now - at < SETTLE_MS:
                    self._ledger.drop_withdrawn(txn, name, number)
        return actions

    def stranded(self, txn: Any, node: str, now: int) -> list[Action]:
        """Have the jobs in the queue of a node that is gone run elsewhere, but for those that are bound to it.

        Should the node come back, it is told to drop them (`withdrawn`).
        """
        own = lane(node, "")
        waiting = [number_of(key) for key, _ in islice(self._ledger.up(txn, "waiting", own.encode() + b"\0"), MOST)]
        actions: list[Action] = []
        for job in self._jobs(txn, waiting):
            if self._runs.elsewhere(txn, job, node):
                log.warning("its node is gone; publishing again", job=job.id, attempt=job.attempt, node=node)
                self._ledger.withdraw(txn, job, now)
                actions += self._runs.publish(txn, job, now, node, f"node {node} is gone")
        return actions

    def withdrawn(self, txn: Any, node: str = "", most: int = 10_000) -> list[tuple[int, int]]:
        """Jobs (id, attempt) that a node must not run when it pulls them, for one that starts: the newest of them."""
        names = [lane("", priority) for priority in PRIORITIES] + ([lane(node, "")] if node else [])
        rows = sorted((number, attempt) for name in names for number, attempt, _ in self._ledger.withdrawn(txn, name))
        return rows[-most:]

    def forget(self, txn: Any, now: int) -> int:
        """Forget jobs and schedules that ended long ago, some at a time; returns how many."""
        old: list[int] = []
        for row, _ in self._ledger.up(txn, "closed"):
            if row > stamped(max(0, now - self._retention_ms), 0) or len(old) >= MOST_FORGOTTEN:
                break
            old.append(number_of(row))
        for number in old:
            self._ledger.remove(txn, number)
        if old:
            log.info("old jobs forgotten", jobs=len(old))
        return len(old)

    def _jobs(self, txn: Any, numbers: list[int]) -> list[Job]:
        found = (self._ledger.job(txn, number) for number in numbers)
        return [job for job in found if job and job.state is JobState.PENDING]
