"""What follows the end of a run: its log and its output become keys, its report is sent until the broker has it.

A job that was published by hand has no id until the master has named it; until then all of that waits, on the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

from broker import logs
from broker.clock import now_ms
from broker.messages.runs import Claimed, Finished, Named, RunState
from broker.messages.store import Result, Store
from node.errors import StorageError
from node.jobs.artifacts import Artifacts, and_also, finished
from node.jobs.claims import NOTHING, Claim, Claims, Ended, Left
from node.jobs.reports import Report, Reporter, share, text
from node.runs.model import Outcome, State

log = logs.get(__name__)

ASK_SECS = 10.0  # until the claim of a job without an id is sent once more; doubles each time
MOST_ASK_SECS = 300.0
MOST_ASKED = 5_000  # claims at a time
AGAIN_SECS = 2.0  # until a report that found no queue is sent once more

_STATES = {State.COMPLETED: RunState.COMPLETED, State.FAILED: RunState.FAILED, State.CANCELLED: RunState.CANCELLED}

Post = Callable[[Callable[[], None]], None]
Keep = Callable[[Sequence[Store], Callable[[list[Result]], None]], None]


class Completion:
    """Of the thread of the node's jobs; `post` has something done on it."""

    def __init__(self, claims: Claims, leavings: Artifacts, reporter: Reporter, keep: Keep, post: Post) -> None:
        self._claims = claims
        self._leavings = leavings
        self._reporter = reporter
        self._keep = keep
        self._post = post
        self._reports: list[Report] = []
        self._again: list[Report] = []  # such as found no queue
        self._again_at = 0.0
        self._ask_at, self._ask_pause = 0.0, ASK_SECS
        self._writing = 0  # runs whose log or output is being written

    def settle(self, claim: Claim, ended: Ended) -> None:
        """A run has ended."""
        self._claims.end(claim, ended._replace(reason=text(ended.reason)))
        if claim.id:
            self._keep_left(claim)

    def lost(self, claim: Claim, reason: str) -> None:
        """A run has ended and nobody saw how."""
        self.settle(claim, Ended(RunState.LOST, reason, claim.at, max(now_ms(), claim.at)))

    def ended(self, claim: Claim, outcome: Outcome) -> None:
        """The runner says that a run has ended."""
        if self._leavings.is_large(outcome.log) or self._leavings.is_large(outcome.output):
            self._writing += 1
            threading.Thread(target=self._write_left, args=(claim, outcome), name="leavings", daemon=True).start()
        else:
            self.settle(claim, _ended(outcome, Left.of(outcome.log), Left.of(outcome.output)))

    def named(self, message: Named) -> None:
        """The master has given an id to a job that was published by hand."""
        claim = self._claims.open.get(message.run)
        if claim is None or claim.id or not message.id:
            return
        self._ask_pause = ASK_SECS
        self._claims.name(claim, message.id)
        if claim.ended:
            self._keep_left(claim)

    def resume(self, claim: Claim) -> None:
        """Go on with what the last process could not bring to its end."""
        self._keep_left(claim)

    def say(self, report: Report) -> None:
        """Have a report sent with the next ones."""
        self._reports.append(report)

    def send(self) -> None:
        """Send what is to be said."""
        reports, self._reports = self._reports, []
        if reports:
            self._reporter.send(reports, lambda some, sent: self._post(partial(self._sent, some, sent)))

    def ask(self) -> None:
        """Have the master told soon of the jobs that it has not named yet."""
        self._ask_at, self._ask_pause = 0.0, ASK_SECS

    def tick(self, connected: bool) -> None:
        """Do what time brings."""
        now = time.monotonic()
        if self._again and now >= self._again_at:
            self._again_at = now + AGAIN_SECS
            self._reports += self._again
            self._again.clear()
        if connected and now >= self._ask_at:
            self._ask_at, self._ask_pause = now + self._ask_pause, min(2 * self._ask_pause, MOST_ASK_SECS)
            for claim in islice((claim for claim in self._claims.open.values() if not claim.id), MOST_ASKED):
                self._claimed_again(claim)

    @property
    def idle(self) -> bool:
        """Whether the broker has all that there is to say."""
        return not self._writing and not any(claim.ended and claim.id for claim in self._claims.open.values())

    def _claimed_again(self, claim: Claim) -> None:
        try:
            self.say(Claimed(claim.run, 0, claim.attempt, claim.at, self._claims.order(claim)))
        except StorageError as error:
            log.error("a job without an id is lost", run=claim.run, error=error)
            self._claims.drop(claim)

    def _write_left(self, claim: Claim, outcome: Outcome) -> None:
        """Write what is large to files, which takes a while, on a thread of its own."""
        reason = outcome.reason
        lefts = []
        for name, data in (("log", outcome.log), ("output", outcome.output)):
            try:
                lefts.append(self._leavings.left(data))
            except StorageError as error:
                log.warning("what a run left could not be kept", run=claim.run, what=name, error=error)
                reason = and_also(reason, f"its {name} could not be kept: {error}")
                lefts.append(NOTHING)
        self._post(partial(self._written, claim, _ended(outcome._replace(reason=reason), *lefts)))

    def _written(self, claim: Claim, ended: Ended) -> None:
        self._writing -= 1
        self.settle(claim, ended)

    def _keep_left(self, claim: Claim) -> None:
        try:
            ended = self._claims.ending(claim)
        except StorageError as error:
            assert claim.ended is not None
            reason = and_also(claim.ended.reason, f"its log and output could not be kept: {error}")
            ended = claim.ended._replace(reason=reason)
        stores = self._leavings.stores(claim, ended)
        if stores:
            self._keep(stores, lambda results: self._post(partial(self._kept, claim, ended, results)))
        else:
            self._kept(claim, ended, [])

    def _kept(self, claim: Claim, ended: Ended, results: Sequence[Result]) -> None:
        report = finished(claim, ended, results)
        say = log.debug if report.state is RunState.COMPLETED and not report.reason else log.info
        say(
            "run ended",
            job=claim.id,
            attempt=claim.attempt,
            run=claim.run,
            state=report.state.name.lower(),
            seconds=(report.ended - report.started) / 1000,
            reason=report.reason,
        )
        self.say(report)

    def _sent(self, reports: Sequence[Report], sent: bool) -> None:
        if not sent:
            self._again += reports
            return
        for report in reports:
            if isinstance(report, Finished):
                self._claims.report(report)


def _ended(outcome: Outcome, log_left: Left, output_left: Left) -> Ended:
    done, total, words = outcome.progress
    progress = share(done), share(total), text(words)
    return Ended(
        _STATES[outcome.state], outcome.reason, outcome.started, outcome.ended, log_left, output_left, progress
    )
