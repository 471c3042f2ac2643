"""What launches, reports, cancels and lost leases do to the jobs of the ledger.

Rules only: every method works in a transaction of the controller and returns what is to be done outside
when that is committed. A job has one final state, which nothing changes; what is said of an attempt that
is not the current one, or of a run that is not the one that claimed it first, is kept as late at most.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from broker import logs
from broker.errors import MalformedMessage
from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import Claimed, Finished, Named, Progress, Returned, RunEnd, RunState, Withdraw
from broker.refusals import Conflict
from master.jobs import unique_tokens
from master.jobs.effects import Action, Bury, JobEvent, Publish, Tell
from master.jobs.ledger import Ledger
from master.jobs.model import Attempt, Job, JobProgress, JobState, arguments_text, lane

log = logs.get(__name__)

MAX_DELAY_SECS = 3600.0
MAX_PUBLISHED = 10  # times that the message of one attempt may get lost
LOG_TAIL_BYTES = 16 << 10
_MOST_ATTEMPTS = 2 * jobs.MAX_ATTEMPTS  # rows of the history; late reports are in it, too

# Node whose queue a job goes to, "" for the queue of all, None when no node has the script.
Place = Callable[[Any, Order, Collection[str]], str | None]


class Transitions:
    """Of the controller; used on its thread alone."""

    def __init__(self, ledger: Ledger, place: Place, lost_attempts: int = 3) -> None:
        self.ledger = ledger
        self._place = place
        self._lost_attempts = lost_attempts

    # Launch.

    def launch(
        self, txn: Any, orders: Iterable[Order], source: str, now: int, schedule: int = 0
    ) -> tuple[list[int], list[Action]]:
        """Ids of new jobs, one for each order; of a launch whose unique token is known already, the first one's id.

        Raises `Conflict` when that token belongs to another job.
        """
        ids, actions = [], []
        for order in orders:
            number, todo = self._launch(txn, order, source, now, schedule)
            ids.append(number)
            actions += todo
        return ids, actions

    def _launch(
        self, txn: Any, order: Order, source: str, now: int, schedule: int = 0, without: str = ""
    ) -> tuple[int, list[Action]]:
        known = unique_tokens.known(self.ledger, txn, order)
        if known:
            return known, []
        job = self._new(txn, order, source, now)._replace(schedule=schedule)
        if order.options.unique:
            self.ledger.keep_token(txn, order.options.unique, job.id)
        order = order._replace(id=job.id, attempt=job.attempt)
        return job.id, self._publish(txn, None, job, order, now, without)

    def _new(self, txn: Any, order: Order, source: str, now: int) -> Job:
        arguments = arguments_text(order.arguments)
        return Job(self.ledger.next_id(txn), order.job, arguments, order.options, order.data, source, 0, now)

    def publish(self, txn: Any, job: Job, now: int, without: str = "", problem: str = "") -> list[Action]:
        """Have the message of a pending job sent, once more perhaps, but not to the node `without`.

        Where it can't be, the job has failed, and `problem` is part of the reason.
        """
        return self._publish(txn, job, job, job.order(), now, without, problem)

    def _publish(
        self, txn: Any, old: Job | None, job: Job, order: Order, now: int, without: str = "", problem: str = ""
    ) -> list[Action]:
        if job.published >= MAX_PUBLISHED:
            problem = f"given up: {job.published} messages with it came to nothing; {problem}"
            return self._close(txn, old, job, JobState.FAILED, problem, now)
        node = self._place(txn, order, (without,) if without else ())
        if node is None:
            reason = problem if without else f"no node has the script {job.path}"
            return self._close(txn, old, job, JobState.FAILED, reason, now)
        where = lane(node, job.options.priority)
        self.ledger.save(txn, old, job._replace(lane=where, published=job.published + 1, confirmed=0, due=0))
        return [Publish(order, node)]

    def elsewhere(self, txn: Any, job: Job, node: str) -> bool:
        """Whether a pending job could go to another node, one that is there perhaps."""
        return self._place(txn, job.order(), (node,)) is not None

    def confirmed(self, txn: Any, published: Iterable[tuple[int, int]], now: int) -> None:
        """The broker has the messages of these jobs (id, attempt) safe."""
        for number, attempt in published:
            job = self.ledger.job(txn, number)
            if job and job.state is JobState.PENDING and job.attempt == attempt and job.lane:
                self.ledger.save(txn, job, job._replace(confirmed=now))

    # Reports of nodes.

    def claimed(self, txn: Any, node: str, claim: Claimed, now: int) -> list[Action]:
        """A node has taken a job."""
        if claim.id == 0:
            return self._claimed_by_hand(txn, node, claim, now)
        job = self.ledger.job(txn, claim.id)
        if job is None:
            return [Withdraw(claim.id, claim.attempt, claim.run, "the master does not know this job")]
        if job.run == claim.run and job.attempt == claim.attempt:
            return []
        if _is_out(job, claim.attempt):
            self._run(txn, job, job, node, claim, now)
            return []
        reason = "another run of it is the one that counts"
        if job.state is JobState.CANCELLED:
            reason = "it was cancelled"
        elif claim.attempt > job.attempt or job.state is JobState.PENDING:
            reason = "the master has not published this attempt"
        log.warning("claim is not wanted", job=job.id, attempt=claim.attempt, node=node, run=claim.run, reason=reason)
        return [Withdraw(job.id, claim.attempt, claim.run, reason)]

    def _claimed_by_hand(self, txn: Any, node: str, claim: Claimed, now: int) -> list[Action]:
        known = self.ledger.by_run(txn, claim.run)
        if known:
            return [Tell(node, Named(claim.run, known))]
        try:
            order = jobs.read(claim.order)
        except MalformedMessage as error:
            log.error("a node runs what is no job", node=node, run=claim.run, reason=error)
            return [Withdraw(0, claim.attempt, claim.run, str(error))]
        try:
            known = unique_tokens.known(self.ledger, txn, order)
        except Conflict as error:
            return [Withdraw(0, claim.attempt, claim.run, str(error)), Bury(claim.order, str(error))]
        if known:
            return [Withdraw(0, claim.attempt, claim.run, f"job {known} has the same unique token")]
        job = self._new(txn, order, "queue", now)._replace(attempt=max(1, claim.attempt))
        if order.options.unique:
            self.ledger.keep_token(txn, order.options.unique, job.id)
        self.ledger.keep_run(txn, claim.run, job.id)
        self._run(txn, None, job, node, claim, now)
        return [Tell(node, Named(claim.run, job.id))]

    def _run(self, txn: Any, old: Job | None, job: Job, node: str, claim: Claimed, now: int) -> Job:
        running = job._replace(
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
        return self.ledger.save(txn, old, running)

    def finished(self, txn: Any, node: str, report: Finished, now: int) -> list[Action]:
        """A run has ended."""
        job = self.ledger.job(txn, report.id or self.ledger.by_run(txn, report.run))
        if job is None:
            log.warning("unknown job has ended", job=report.id, node=node, run=report.run)
            return []
        if _is_out(job, report.attempt):
            # Its claim was buried, or is the one that comes now: the node's word for it is good.
            claim = Claimed(report.run, job.id, report.attempt, report.end.started, b"")
            job = self._run(txn, job, job, node, claim, now)
        if not 1 <= report.attempt <= job.attempt or (job.state is JobState.PENDING and report.attempt == job.attempt):
            log.warning("unknown attempt has ended", job=job.id, attempt=report.attempt, node=node, run=report.run)
            return []
        if job.state is not JobState.RUNNING or (job.run, job.attempt) != (report.run, report.attempt):
            self._keep_late(txn, node, job, report)
            return []
        ended = job._replace(log_key=report.log_key, output_key=report.output_key, progress=report.progress)
        return self._end(txn, job, ended, report.end, now)

    def lost(self, txn: Any, job: Job, reason: str, now: int) -> list[Action]:
        """Nothing is known any more of the run of a job; if it still goes on, it shall end."""
        gone: list[Action] = [Withdraw(job.id, job.attempt, "", reason)]
        end = RunEnd(RunState.LOST, reason, job.started, now)
        return gone + self._end(txn, job, job._replace(run=""), end, now)

    def _end(self, txn: Any, old: Job, job: Job, end: RunEnd, now: int) -> list[Action]:
        """The run of a job has ended like this: the end of the job, or another attempt."""
        state, reason, started, ended = end
        job = _with_attempt(job, Attempt(job.attempt, job.node, old.run, end, late=False))
        job = job._replace(started=started, ended=ended)
        live = self.ledger.live(txn, job.id)
        if live:
            if not any(job.progress):  # nobody has said what it was at the end
                job = job._replace(progress=live.progress)
            self.ledger.save_live(txn, job.id, None)
        most = job.options.attempts or (self._lost_attempts if state is RunState.LOST else 1)
        retry = state in (RunState.FAILED, RunState.LOST) and job.attempt < most
        if job.cancelling and (retry or state is RunState.LOST):
            return self._close(txn, old, job, JobState.CANCELLED, "cancelled", now)
        if not retry:
            if state is RunState.LOST and job.attempt > 1:
                reason = f"{reason} (attempt {job.attempt} of {most})"
            return self._close(txn, old, job, JobState.after(state), reason, now)
        delay = 0.0 if state is RunState.LOST else retry_delay(job)
        job = job._replace(
            state=JobState.PENDING,
            attempt=job.attempt + 1,
            lane="",
            published=0,
            confirmed=0,
            run="",
            reason=reason,
            due=now + int(delay * 1000),
        )
        log.info("another attempt", job=job.id, attempt=job.attempt, delay=delay, reason=reason)
        if delay == 0:
            return self._publish(txn, old, job, job.order(), now)
        self.ledger.save(txn, old, job)
        return []

    def _keep_late(self, txn: Any, node: str, job: Job, report: Finished) -> None:
        state = report.end.state
        if any(attempt.run == report.run and attempt.end.state is state for attempt in job.attempts):
            return  # told twice
        log.warning("late report", job=job.id, attempt=report.attempt, node=node, run=report.run, state=state)
        late = Attempt(report.attempt, node, report.run, report.end, late=True)
        self.ledger.save(txn, job, _with_attempt(job, late))

    def returned(self, txn: Any, node: str, report: Returned, now: int) -> list[Action]:
        """A node that does not have the script gives a job back: another one that has it shall run it."""
        try:
            order = jobs.read(report.order, sealed=True)  # the node has looked
        except MalformedMessage as error:
            log.error("a node gives back what is no job", node=node, reason=error)
            return []
        if order.id == 0:
            if self._place(txn, order, (node,)) is None:
                node = order.options.node
                reason = f"node {node} has no script {order.job}" if node else f"no node has the script {order.job}"
                return [Bury(report.order, reason)]
            # Told twice, it is one job all the same.
            unique = order.options.unique or f"returned {report.token}"
            order = order._replace(options=order.options._replace(unique=unique))
            try:
                return self._launch(txn, order, "queue", now, without=node)[1]
            except Conflict as error:
                return [Bury(report.order, str(error))]
        job = self.ledger.job(txn, order.id)
        if job is None or job.state is not JobState.PENDING or job.attempt != order.attempt or not job.lane:
            return []
        return self.publish(txn, job, now, node, f"node {node}: {report.reason}")

    def progress(self, txn: Any, report: Progress) -> None:
        """How far a run is; what is said of a run that does not count is dropped."""
        job = self.ledger.job(txn, report.id or self.ledger.by_run(txn, report.run))
        if job is None or job.state is not JobState.RUNNING or job.run != report.run:
            return
        old = self.ledger.live(txn, job.id)
        if old is None or old.run != report.run:
            old = JobProgress(report.run, (0.0, 0.0, ""), b"", 0)
        tail, end = old.log, old.end
        if report.offset > end:  # something in between was dropped on the way
            tail, end = b"", report.offset
        new = report.log[end - report.offset :]
        tail = (tail + new)[-LOG_TAIL_BYTES:]
        live = JobProgress(report.run, (report.done, report.total, report.text), tail, end + len(new))
        self.ledger.save_live(txn, job.id, live)

    # Ends that the master decides on.

    def cancel(self, txn: Any, job: Job, now: int) -> tuple[str, list[Action]]:
        """Cancel a job that has not ended: what to answer, and what is to be done."""
        reason = "cancelled"
        if job.state is JobState.RUNNING:
            self.ledger.save(txn, job, job._replace(cancelling=True))
            return f"Job {job.id} is being stopped", [Withdraw(job.id, job.attempt, "", reason)]
        actions: list[Action] = []
        if job.lane:
            self.ledger.withdraw(txn, job, now)
            actions.append(Withdraw(job.id, job.attempt, "", reason))
        return f"Job {job.id} cancelled", actions + self._close(txn, job, job, JobState.CANCELLED, reason, now)

    def _close(self, txn: Any, old: Job | None, job: Job, state: JobState, reason: str, now: int) -> list[Action]:
        job = job._replace(state=state, reason=reason, closed=now, lane="", due=0, confirmed=0, cancelling=False)
        self.ledger.save(txn, old, job)
        return [JobEvent(f"job.finished.{state.name.lower()}", job)]


def retry_delay(job: Job) -> float:
    """Seconds until a failed job is tried again: twice as long after each attempt."""
    return float(min(job.options.retry_delay * 2 ** min(job.attempt - 1, 30), MAX_DELAY_SECS))


def _is_out(job: Job, attempt: int) -> bool:
    """Whether a message with this attempt is, or may be, in a queue: no other attempt can be claimed."""
    return job.state is JobState.PENDING and job.attempt == attempt and bool(job.lane)


def _with_attempt(job: Job, attempt: Attempt) -> Job:
    return job._replace(attempts=(*job.attempts, attempt)[-_MOST_ATTEMPTS:])
