"""Fills the ledger of a stopped master with jobs that have ended.

    python -m ops.benchmarks.fill_jobs DIRECTORY COUNT

They are those of three scripts over the last thirty days; one in a hundred has failed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from broker.clock import now_ms
from broker.messages.jobs import Options
from broker.messages.runs import RunEnd, RunState
from master.jobs.ledger import Ledger
from master.jobs.model import Attempt, Job, JobState

GROUP = 5_000  # jobs in one transaction
SCRIPTS = ("example/factorial", "example/fibonacci", "keys/clean")
SPAN_MS = 30 * 86_400_000
FAILED_OF = 100


def fill(directory: Path, count: int) -> None:
    """Write `count` jobs into the ledger in `directory`."""
    ledger = Ledger(directory, write=True)
    begin = now_ms() - SPAN_MS
    for first in range(0, count, GROUP):
        with ledger.write() as tables:
            for number in range(first, min(count, first + GROUP)):
                tables.save(None, _job(tables.next_id(), number, begin + number * SPAN_MS // count))
    ledger.close()


def _job(job: int, number: int, at: int) -> Job:
    failed = number % FAILED_OF == 0
    end = RunEnd(RunState.FAILED if failed else RunState.COMPLETED, "it was to fail" if failed else "", at, at + 1500)
    run = f"{job:032x}"
    return Job(
        job,
        SCRIPTS[number % len(SCRIPTS)],
        json.dumps({"number": number % 50}),
        Options(),
        data="",
        source="rest",
        schedule=0,
        created=at,
        state=JobState.FAILED if failed else JobState.COMPLETED,
        node="node-1",
        run=run,
        claimed=at,
        started=at,
        ended=at + 1500,
        closed=at + 1500,
        reason=end.reason,
        attempts=(Attempt(1, "node-1", run, end, late=False),),
    )


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
