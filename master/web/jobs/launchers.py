"""For whom a run acts: the token that its job was launched with."""

from __future__ import annotations

import time

from master.jobs.ledger import Ledger

CLAIM_SECS = 300.0  # within which the master hears of a run, whatever the clocks say


class Launchers:
    """Looks runs up in the ledger."""

    def __init__(self, ledger: Ledger, queue: str) -> None:
        """`ledger` is opened to be read. `queue`: name of the token that jobs act for which were published by hand."""
        self._ledger = ledger
        self._queue = queue

    def name(self, job: int, attempt: int) -> str | None:
        """Name of the token that a job was launched with, "" for none; None when this attempt at it is over."""
        with self._ledger.read() as view:
            found = view.job(job)
        # The node has begun before the ledger says so.
        if found is None or found.state.final or found.attempt != attempt:
            return None
        return found.by

    def of_unnamed(self, run: str, begun: int) -> str | None:
        """The same for a run whose job was published by hand, and began at this time, in seconds since the epoch."""
        with self._ledger.read() as view:
            found = view.job(number) if (number := view.by_run(run)) else None
        if found is None:
            # Its claim is on its way. After that time it is over, and was forgotten.
            return self._queue if abs(time.time() - begun) < CLAIM_SECS else None
        return None if found.state.final or found.run != run else found.by
