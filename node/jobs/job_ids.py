"""Jobs that were published by hand get their ids from the master, which learns of them by their claims.

A claim may get lost on its way, for example in a restore of the master. So it is sent again until its job has an id.
"""

from __future__ import annotations

import time
from itertools import islice

from broker import logs
from broker.messages.runs import Named
from node.errors import StorageError
from node.jobs.claims import Claim
from node.jobs.completion import Completion
from node.jobs.context import JobContext

log = logs.get(__name__)

ASK_SECS = 10.0  # until the claim of a job without an id is sent once more; doubles each time
MOST_ASK_SECS = 300.0
MOST_ASKED = 5_000  # claims at a time


class JobIds:
    """Asks the master for the ids of jobs, and notes them. Used on the jobs thread."""

    def __init__(self, context: JobContext, completion: Completion) -> None:
        self._claims = context.claims
        self._reports = context.reports
        self._completion = completion
        self._ask_at = 0.0
        self._pause = ASK_SECS

    def ask_now(self) -> None:
        """Send the claims of all jobs without an id with the next tick."""
        self._ask_at, self._pause = 0.0, ASK_SECS

    def tick(self) -> None:
        """Send the claims of jobs without an id again, if it is time for that. Only called with a connection."""
        now = time.monotonic()
        if now >= self._ask_at:
            self._ask_at, self._pause = now + self._pause, min(2 * self._pause, MOST_ASK_SECS)
            for claim in list(islice((claim for claim in self._claims.open.values() if not claim.id), MOST_ASKED)):
                self._ask(claim)

    def named(self, message: Named) -> None:
        """Note the id that the master has given to a job; report its run if that has ended."""
        claim = self._claims.open.get(message.run)
        if claim is None or claim.id or not message.id:
            return
        self._pause = ASK_SECS
        self._claims.name(claim, message.id)
        if claim.result:
            self._completion.report(claim)

    def _ask(self, claim: Claim) -> None:
        try:
            self._reports.add(claim.report(self._claims.order(claim)))
        except StorageError as error:
            log.error("a job without an id is lost", run=claim.run, error=error)
            self._claims.drop(claim)
