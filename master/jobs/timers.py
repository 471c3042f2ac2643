"""Timers: retries and schedules whose time has come. Both wait in the ledger's table `due`."""

from __future__ import annotations

from itertools import islice

from broker import logs
from master.jobs.effects import Effect
from master.jobs.ledger import LedgerTables
from master.jobs.model import Job, JobState
from master.jobs.schedules import Schedules
from master.jobs.transitions import Transitions, retry_delay

log = logs.get(__name__)

MOST = 1_000  # timers in one go
CLOCK_STEP_MS = 1_000  # a clock that goes back by less is only being tuned


class Timers:
    """Launches and publishes what is due, once a second."""

    def __init__(self, transitions: Transitions, schedules: Schedules) -> None:
        self._transitions = transitions
        self._schedules = schedules
        self._seen = 0  # ms, the clock at the last tick; 0 before the first

    def tick(self, tables: LedgerTables, now: int) -> list[Effect]:
        """Publish the jobs whose retry is due, and launch the jobs of schedules that are due."""
        if now < self._seen - CLOCK_STEP_MS or not self._seen:
            self._pull_back(tables, now)
        self._seen = now
        effects: list[Effect] = []
        for number in list(islice(tables.due(now), MOST)):
            job = tables.job(number)
            schedule = None if job else tables.schedule(number)
            if job and _is_retry(job) and job.due <= now:
                effects += self._transitions.publish(tables, job, now)
            elif schedule and schedule.active and schedule.next <= now:
                effects += self._schedules.execute(tables, schedule, now)
            else:
                log.warning("timer without a job dropped", job=number)
                tables.drop_timer(number, now)
        return effects

    def _pull_back(self, tables: LedgerTables, now: int) -> None:
        """The clock went back, or may have: no timer is further ahead than a retry's delay or a schedule's period."""
        for number in list(tables.ahead(now)):
            job, schedule = tables.job(number), tables.schedule(number)
            if job and _is_retry(job):
                # The attempt that failed set the delay.
                most = now + int(retry_delay(job._replace(attempt=job.attempt - 1)) * 1000)
                if job.due > most:
                    tables.save(job, job._replace(due=most))
            elif schedule:
                self._schedules.pull_back(tables, schedule, now)


def _is_retry(job: Job) -> bool:
    return job.state is JobState.PENDING and bool(job.due)
