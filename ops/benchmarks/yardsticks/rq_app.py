"""RQ as a yardstick: `python rq_app.py one|many COUNT` launches no-op jobs and prints figures as JSON.

Runs in the virtual environment of the yardsticks. The workers import this file too. Its default worker forks a
process for each job, as Pulzar does.
"""

from __future__ import annotations

import json
import os
import sys
import time

from redis import Redis
from rq import Queue
from rq.job import Job

WARM = 40
PAUSE_SECS = 0.02  # between two looks whether all are done
NOOP = "rq_app.noop"


def noop() -> None:
    """Do nothing."""


def one(queue: Queue, count: int) -> dict[str, object]:
    """Launch jobs one after the other and wait for each; the milliseconds of each."""
    took = []
    for number in range(WARM + count):
        began = time.perf_counter()
        _finish(queue.enqueue(NOOP))
        if number >= WARM:
            took.append((time.perf_counter() - began) * 1e3)
    return {"ms": took}


def many(queue: Queue, count: int) -> dict[str, object]:
    """Launch all at once; the seconds until the last one ended, and the seconds of the launches."""
    _launch(queue, WARM)
    began = time.perf_counter()
    launched = _launch(queue, count)
    return {"seconds": time.perf_counter() - began, "launch_seconds": launched - began}


def _launch(queue: Queue, count: int) -> float:
    finished = queue.connection.zcard(queue.finished_job_registry.key)
    for _ in range(count):
        queue.enqueue(NOOP)
    launched = time.perf_counter()
    while queue.connection.zcard(queue.finished_job_registry.key) < finished + count:
        if failed := queue.connection.zcard(queue.failed_job_registry.key):
            sys.exit(f"{failed} jobs failed")
        time.sleep(PAUSE_SECS)
    return launched


def _finish(job: Job) -> None:
    result = job.latest_result(timeout=60)
    if result is None or result.type != result.Type.SUCCESSFUL:
        sys.exit(f"a job came to this: {result}")


if __name__ == "__main__":
    queue = Queue(connection=Redis.from_url(os.environ["BENCH_REDIS"]))
    print(json.dumps({"one": one, "many": many}[sys.argv[1]](queue, int(sys.argv[2]))))
