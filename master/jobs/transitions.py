"""What launches, reports, cancels and lost leases do to the jobs of the ledger.

Rules only: every method works in a transaction of the controller and returns the effects to carry out after the commit.
A job has one final state, which nothing changes. A report counts only for the current attempt, and only from the run
that claimed it first. Another report is kept as late at most.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from broker import logs
from broker.errors import MalformedMessage
from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import Claimed, Finished, Named, Progress, Returned, RunEnd, RunState, Withdraw
from broker.refusals import Conflict
from master.jobs import script_catalog, unique_tokens
from master.jobs.effects import Bury, Effect, NodeMessage, Publish
from master.jobs.ledger import LedgerTables, LedgerView
from master.jobs.model import Attempt, AttemptId, Job, JobProgress, JobState, arguments_text
from master.jobs.routing import Router
from master.metrics import figures

log = logs.get(__name__)

MAX_DELAY_SECS = 3600.0
MAX_PUBLISHED = 10  # times that the message of one attempt may get lost
LOG_TAIL_BYTES = 16 << 10
_MOST_ATTEMPTS = 2 * jobs.MAX_ATTEMPTS  # rows of the history; late reports are in it, too


class Setback(NamedTuple):
    """Why the message of a job is published once more."""

    problem: str  # part of the reason if the job fails for it
    node: str | None = None  # that must not get the message


class NewJob(NamedTuple):
    """The id of a launched job, and what follows from the launch."""

    id: int
    effects: list[Effect]


class Cancellation(NamedTuple):
    """The words for who asked for it, and what follows from it."""

    message: str
    effects: list[Effect]


class Transitions:
    """The rules that move jobs from state to state."""

    def __init__(self, router: Router, lost_attempts: int = 3, queue: str = "") -> None:
        """`lost_attempts`: how often a job is tried whose runs get lost, if it does not say so itself.

        `queue`: name of the token that jobs act for which were published by hand.
        """
        self._queue = queue
        self._router = router
        self._lost_attempts = lost_attempts

    # Launch.

    def launch(
        self,
        tables: LedgerTables,
        order: Order,
        source: str,
        now: int,
        *,
        arguments: str | None = None,
        schedule: int = 0,
        without: str | None = None,
        by: str = "",
    ) -> NewJob:
        """Launch a job, on any node but `without`; if its unique token is known already, it is the job with that token.

        `arguments`: those of the order as the ledger's text, where it is known. `by`: whose job it is. Raises
        `Conflict` when the unique token belongs to another job.
        """
        known = unique_tokens.known(tables, order, schedule=schedule)
        if known:
            return NewJob(known, [])
        route = self._router.choose(tables, order, without)
        lane = route.lane if route else ""
        job = self._new(tables, order, source, now, arguments, schedule=schedule, by=by, lane=lane)
        if route is None:
            reason = "" if without else script_catalog.lacking(tables, job.path)
            _close(tables, None, job._replace(state=JobState.FAILED, reason=reason), now)
            return NewJob(job.id, [])
        tables.save(None, job)
        return NewJob(job.id, [Publish(order._replace(id=job.id, attempt=job.attempt), route)])

    def _new(
        self,
        tables: LedgerTables,
        order: Order,
        source: str,
        now: int,
        arguments: str | None = None,
        *,
        schedule: int = 0,
        by: str = "",
        lane: str = "",
    ) -> Job:
        number = tables.next_id()
        figures.JOBS_LAUNCHED.add(figures.SOURCES.index(source))
        if order.options.unique:
            tables.save_token(order.options.unique, number)
        text = arguments_text(order.arguments) if arguments is None else arguments
        launch = order.job, text, order.options, order.data
        published = 1 if lane else 0
        # Not made by `_replace` step by step, which costs a third of a launch.
        return Job(
            number, *launch, source=source, schedule=schedule, created=now, by=by, lane=lane, published=published
        )

    def publish(self, tables: LedgerTables, job: Job, now: int, setback: Setback | None = None) -> list[Effect]:
        """Publish the message of a pending job. If no node can run it, the job has failed."""
        return self._publish(tables, job, job, job.order(), now=now, setback=setback)

    def _publish(
        self, tables: LedgerTables, old: Job | None, job: Job, order: Order, *, now: int, setback: Setback | None = None
    ) -> list[Effect]:
        problem, without = setback or Setback("")
        if job.published >= MAX_PUBLISHED:
            problem = f"given up: {job.published} messages with it came to nothing; {problem}"
            _close(tables, old, job._replace(state=JobState.FAILED, reason=problem), now)
            return []
        route = self._router.choose(tables, order, without)
        if route is None:
            reason = problem if without else script_catalog.lacking(tables, job.path)
            _close(tables, old, job._replace(state=JobState.FAILED, reason=reason), now)
            return []
        tables.save(old, job._replace(lane=route.lane, published=job.published + 1, confirmed=0, due=0))
        return [Publish(order, route)]

    def publish_again(self, view: LedgerView, job: Job) -> Publish:
        """The message of a job, to the queue that it has been committed to already."""
        order = job.order()
        return Publish(order, self._router.again(view, order, job.lane))

    def elsewhere(self, view: LedgerView, job: Job, node: str) -> bool:
        """Whether a pending job could go to another node than this one."""
        return self._router.choose(view, job.order(), node) is not None

    def confirmed(self, tables: LedgerTables, attempts: Iterable[AttemptId], now: int) -> None:
        """The broker has confirmed the messages of these attempts."""
        for number, attempt in attempts:
            job = tables.job(number)
            if job and job.state is JobState.PENDING and job.attempt == attempt and job.lane:
                tables.save(job, job._replace(confirmed=now))

    # Reports of nodes.

    def claimed(self, tables: LedgerTables, node: str, claim: Claimed, now: int) -> list[Effect]:
        """A node has taken a job."""
        if claim.id == 0:
            return self._claimed_by_hand(tables, node, claim, now)
        job = tables.job(claim.id)
        if job is None:
            return [Withdraw(claim.id, claim.attempt, claim.run, "the master does not know this job")]
        if job.run == claim.run and job.attempt == claim.attempt:
            return []
        if _is_out(job, claim.attempt):
            self._run(tables, job, job, node, claim, now=now)
            return []
        reason = "another run of it is the one that counts"
        if job.state is JobState.CANCELLED:
            reason = "it was cancelled"
        elif claim.attempt > job.attempt or job.state is JobState.PENDING:
            reason = "the master has not published this attempt"
        log.warning("claim is not wanted", job=job.id, attempt=claim.attempt, node=node, run=claim.run, reason=reason)
        return [Withdraw(job.id, claim.attempt, claim.run, reason)]

    def _claimed_by_hand(self, tables: LedgerTables, node: str, claim: Claimed, now: int) -> list[Effect]:
        known = tables.by_run(claim.run)
        if known:
            return [NodeMessage(node, Named(claim.run, known))]
        try:
            order = jobs.read(claim.order)
        except MalformedMessage as error:
            log.error("a node runs what is no job", node=node, run=claim.run, reason=error)
            return [Withdraw(0, claim.attempt, claim.run, str(error))]
        try:
            known = unique_tokens.known(tables, order)
        except Conflict as error:
            return [Withdraw(0, claim.attempt, claim.run, str(error)), Bury(claim.order, str(error))]
        if known:
            return [Withdraw(0, claim.attempt, claim.run, f"job {known} has the same unique token")]
        job = self._new(tables, order, "queue", now)._replace(attempt=max(1, claim.attempt), by=self._queue)
        tables.save_run(claim.run, job.id)
        self._run(tables, None, job, node, claim, now=now)
        return [NodeMessage(node, Named(claim.run, job.id))]

    def _run(self, tables: LedgerTables, old: Job | None, job: Job, node: str, claim: Claimed, *, now: int) -> Job:
        return tables.save(old, _running(job, node, claim, now))

    def finished(self, tables: LedgerTables, node: str, report: Finished, now: int) -> list[Effect]:
        """A node reports the end of a run."""
        job = tables.job(report.id or tables.by_run(report.run))
        if job is None:
            log.warning("unknown job has ended", job=report.id, node=node, run=report.run)
            return []
        kept = job
        if _is_out(job, report.attempt):
            # Its node had no reason to tell of the claim before, or that was buried: the report stands for it.
            claim = Claimed(run=report.run, id=job.id, attempt=report.attempt, at=report.end.started, order=b"")
            job = _running(job, node, claim, now)
        if not 1 <= report.attempt <= job.attempt or (job.state is JobState.PENDING and report.attempt == job.attempt):
            log.warning("unknown attempt has ended", job=job.id, attempt=report.attempt, node=node, run=report.run)
            return []
        if job.state is not JobState.RUNNING or (job.run, job.attempt) != (report.run, report.attempt):
            self._save_late(tables, node, job, report)
            return []
        ended = job._replace(log_key=report.log_key, output_key=report.output_key, progress=report.progress)
        return self._end(tables, kept, ended, report.end, now)

    def lost(self, tables: LedgerTables, job: Job, reason: str, now: int) -> list[Effect]:
        """The run of a job is lost. If it still goes on, it is told to end."""
        end = RunEnd(RunState.LOST, reason, job.started, now)
        ended = self._end(tables, job, job._replace(run=""), end, now)
        return [Withdraw(job.id, job.attempt, "", reason), *ended]

    def _end(self, tables: LedgerTables, old: Job, job: Job, end: RunEnd, now: int) -> list[Effect]:
        """The run of a job has ended: the end of the job, or another attempt."""
        state, reason, started, ended = end
        figures.RUNS_ENDED.add(state)
        figures.JOB_STEPS.observe((ended - started) / 1000, figures.RUN)
        figures.JOB_STEPS.observe((now - ended) / 1000, figures.REPORT)
        job = _with_attempt(job, Attempt(job.attempt, job.node, job.run or old.run, end, late=False))
        job = job._replace(started=started, ended=ended)
        last = tables.progress(job.id)
        if last:
            if not any(job.progress):  # the report has none
                job = job._replace(progress=last.progress)
            tables.save_progress(job.id, None)
        most = job.options.attempts or (self._lost_attempts if state is RunState.LOST else 1)
        retry = state in (RunState.FAILED, RunState.LOST) and job.attempt < most
        if job.cancelling and (retry or state is RunState.LOST):
            _close(tables, old, job._replace(state=JobState.CANCELLED, reason="cancelled"), now)
            return []
        if not retry:
            if state is RunState.LOST and job.attempt > 1:
                reason = f"{reason} (attempt {job.attempt} of {most})"
            _close(tables, old, job._replace(state=JobState.after(state), reason=reason), now)
            return []
        delay = 0.0 if state is RunState.LOST else retry_delay(job)
        job = job._replace(state=JobState.PENDING, attempt=job.attempt + 1, run="", reason=reason)
        job = job._replace(lane="", published=0, confirmed=0, due=now + int(delay * 1000))
        log.info("another attempt", job=job.id, attempt=job.attempt, delay=delay, reason=reason)
        if delay == 0:
            return self._publish(tables, old, job, job.order(), now=now)
        tables.save(old, job)
        return []

    def _save_late(self, tables: LedgerTables, node: str, job: Job, report: Finished) -> None:
        state = report.end.state
        if any(attempt.run == report.run and attempt.end.state is state for attempt in job.attempts):
            return  # it was reported twice
        log.warning("late report", job=job.id, attempt=report.attempt, node=node, run=report.run, state=state)
        late = Attempt(report.attempt, node, report.run, report.end, late=True)
        tables.save(job, _with_attempt(job, late))

    def returned(self, tables: LedgerTables, node: str, report: Returned, now: int) -> list[Effect]:
        """A node without the script gives a job back; it is published for another node."""
        try:
            order = jobs.read(report.order, sealed=True)  # the node has checked the seal
        except MalformedMessage as error:
            log.error("a node gives back what is no job", node=node, reason=error)
            return []
        if order.id == 0:
            if self._router.choose(tables, order, node) is None:
                node = order.options.node
                reason = script_catalog.lacking(tables, order.job)
                if node and tables.nodes_with(order.job):
                    reason = f"node {node} has no script {order.job}"
                return [Bury(report.order, reason)]
            # The token makes it one job even if it is reported twice.
            unique = order.options.unique or f"returned {report.token}"
            order = order._replace(options=order.options._replace(unique=unique))
            try:
                return self.launch(tables, order, "queue", now, without=node, by=self._queue).effects
            except Conflict as error:
                return [Bury(report.order, str(error))]
        job = tables.job(order.id)
        if job is None or job.state is not JobState.PENDING or job.attempt != order.attempt or not job.lane:
            return []
        return self.publish(tables, job, now, Setback(f"node {node}: {report.reason}", node))

    def progress(self, tables: LedgerTables, report: Progress) -> None:
        """How far a run is; a report of a run that does not count is dropped."""
        job = tables.job(report.id or tables.by_run(report.run))
        if job is None or job.state is not JobState.RUNNING or job.run != report.run:
            return
        old = tables.progress(job.id)
        tail, end = (old.log, old.end) if old and old.run == report.run else (b"", 0)
        if report.offset > end:  # something in between was dropped on the way
            tail, end = b"", report.offset
        new = report.log[end - report.offset :]
        tail = (tail + new)[-LOG_TAIL_BYTES:]
        progress = report.done, report.total, report.text
        tables.save_progress(job.id, JobProgress(report.run, progress, tail, end + len(new)))

    # Ends that the master decides on.

    def cancel(self, tables: LedgerTables, job: Job, now: int) -> Cancellation:
        """Cancel a job that has not ended."""
        withdrawal = Withdraw(job.id, job.attempt, "", "cancelled")
        if job.state is JobState.RUNNING:
            tables.save(job, job._replace(cancelling=True))
            return Cancellation(f"Job {job.id} is being stopped", [withdrawal])
        effects: list[Effect] = []
        if job.lane:
            tables.withdraw(job, now)
            effects.append(withdrawal)
        _close(tables, job, job._replace(state=JobState.CANCELLED, reason="cancelled"), now)
        return Cancellation(f"Job {job.id} cancelled", effects)


def _close(tables: LedgerTables, old: Job | None, job: Job, now: int) -> None:
    """Save a job that has got its final state."""
    figures.JOBS_ENDED.add(figures.ENDS.index(job.state.name.lower()))
    tables.save(old, job._replace(closed=now, lane="", due=0, confirmed=0, cancelling=False))


def retry_delay(job: Job) -> float:
    """Seconds until a failed job is tried again: twice as long after each attempt, up to `MAX_DELAY_SECS`."""
    return float(min(job.options.retry_delay * 2 ** min(job.attempt - 1, 30), MAX_DELAY_SECS))


def _running(job: Job, node: str, claim: Claimed, now: int) -> Job:
    """A job that this node has taken."""
    if job.attempt == 1:
        figures.JOB_STEPS.observe((claim.at - job.created) / 1000, figures.WAIT)
    return job._replace(
        state=JobState.RUNNING,
        node=node,
        run=claim.run,
        claimed=now,
        started=claim.at,
        ended=0,
        lane="",
        due=0,
        reason="",
        progress=(0.0, 0.0, ""),
    )


def _is_out(job: Job, attempt: int) -> bool:
    """Whether a message with this attempt may be in a queue. No other attempt can be claimed."""
    return job.state is JobState.PENDING and job.attempt == attempt and bool(job.lane)


def _with_attempt(job: Job, attempt: Attempt) -> Job:
    return job._replace(attempts=(*job.attempts, attempt)[-_MOST_ATTEMPTS:])
