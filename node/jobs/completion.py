"""What follows the end of a run: its log and its output become keys, then its report is sent.

A job that was published by hand has no id until the master has named it. Until then the result waits on the disk.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from broker import logs
from broker.messages.runs import RunState
from broker.messages.store import Result, Store
from node.errors import StorageError
from node.jobs.artifacts import ArtifactStore, add_problem, build_report
from node.jobs.claims import NO_ARTIFACT, Artifact, Claim, RunResult
from node.jobs.context import JobContext
from node.jobs.reports import GROUP_SECS, share, text
from node.metrics import figures
from node.runs.model import Outcome

log = logs.get(__name__)

# Applies commands to the node's storage, then calls the function with their outcomes, on the link's thread.
StoreValues = Callable[[Sequence[Store], Callable[[list[Result]], None]], None]


class _Ended(NamedTuple):
    """A run that has ended, and the commands that store its artifacts."""

    claim: Claim
    result: RunResult
    stores: list[Store]


class Completion:
    """Takes runs from their end to their report. Used on the jobs thread."""

    def __init__(self, context: JobContext, artifacts: ArtifactStore, store_values: StoreValues) -> None:
        self._claims = context.claims
        self._reports = context.reports
        self._events = context.events
        self._artifacts = artifacts
        self._store_values = store_values
        self._unstaged = 0  # runs whose log or output is still being written to a file
        self._unstored: list[_Ended] = []
        self._since = 0.0  # when the first of these ended, by the monotonic clock

    def end(self, claim: Claim, result: RunResult) -> None:
        """Note how a run ended, and report it if the id of its job is known."""
        self._claims.end(claim, result._replace(end=result.end._replace(reason=text(result.end.reason))))
        if claim.id:
            self.report(claim)

    def lose(self, claim: Claim, reason: str) -> None:
        """End a run as lost: nobody saw how it ended."""
        self.end(claim, claim.ended_now(RunState.LOST, reason))

    def run_ended(self, claim: Claim, outcome: Outcome) -> None:
        """End a run as the runner says. A large log or output is written to a file first, on a thread of its own."""
        if self._artifacts.is_large(outcome.log) or self._artifacts.is_large(outcome.output):
            self._unstaged += 1
            threading.Thread(target=self._stage, args=(claim, outcome), name="artifacts", daemon=True).start()
        else:
            self.end(claim, _result(outcome, Artifact.of(outcome.log), Artifact.of(outcome.output)))

    def report(self, claim: Claim) -> None:
        """Store the artifacts of an ended run whose job has an id, then add its report to those that are sent."""
        assert claim.result is not None
        try:
            result = self._claims.full_result(claim)
        except StorageError as error:
            result = claim.result._replace(end=add_problem(claim.result.end, "log and output", error))
        stores = self._artifacts.stores(claim, result)
        if not stores:
            self._stored(claim, result, [])
            return
        if not self._unstored:
            self._since = time.monotonic()
        self._unstored.append(_Ended(claim, result, stores))

    @property
    def due(self) -> float:
        """When what has ended is to be stored at the latest, by the monotonic clock; inf when there is nothing."""
        return self._since + GROUP_SECS if self._unstored else math.inf

    def store(self, more: bool = False) -> None:
        """Store the artifacts of all runs that have ended; when there will be `more` soon, not before they are due."""
        if not self._unstored or (more and time.monotonic() < self.due):
            return
        ended, self._unstored = self._unstored, []
        stores = [store for each in ended for store in each.stores]
        self._store_values(stores, lambda outcomes: self._events.put(self._all_stored, ended, outcomes))

    @property
    def idle(self) -> bool:
        """Whether the broker has every report that can be sent."""
        if self._unstaged or self._unstored:
            return False
        return not any(claim.result and claim.id for claim in self._claims.open.values())

    def _stage(self, claim: Claim, outcome: Outcome) -> None:
        artifacts = []
        end = outcome.end
        for name, data in (("log", outcome.log), ("output", outcome.output)):
            try:
                artifacts.append(self._artifacts.stage(data))
            except StorageError as error:
                log.warning("artifact of a run could not be kept", run=claim.run, what=name, error=error)
                end = add_problem(end, name, error)
                artifacts.append(NO_ARTIFACT)
        self._events.put(self._staged, claim, _result(outcome._replace(end=end), *artifacts))

    def _staged(self, claim: Claim, result: RunResult) -> None:
        self._unstaged -= 1
        self.end(claim, result)

    def _all_stored(self, ended: Sequence[_Ended], outcomes: Sequence[Result]) -> None:
        by_key = {outcome.key: outcome for outcome in outcomes}
        for claim, result, stores in ended:
            self._stored(claim, result, [by_key[store.key] for store in stores if store.key in by_key])

    def _stored(self, claim: Claim, result: RunResult, outcomes: Sequence[Result]) -> None:
        finished = build_report(claim, result, outcomes)
        state, reason, started, ended = finished.end
        took, name = (ended - started) / 1000, state.name.lower()
        figures.RUNS.observe(took, state)
        say = log.debug if state is RunState.COMPLETED and not reason else log.info
        say("run ended", job=claim.id, attempt=claim.attempt, run=claim.run, state=name, seconds=took, reason=reason)
        self._reports.add(finished)


def _result(outcome: Outcome, log_artifact: Artifact, output: Artifact) -> RunResult:
    done, total, words = outcome.progress
    return RunResult(outcome.end, log_artifact, output, (share(done), share(total), text(words)))
