"""Celery as a yardstick: `python celery_app.py one|many COUNT` launches no-op tasks and prints figures as JSON.

Runs in the virtual environment of the yardsticks. The same file is the workers' application. Messages are persistent
and go through RabbitMQ, results into Redis, tasks are acknowledged when they are done; all else is Celery's default.
"""

from __future__ import annotations

import json
import os
import sys
import time

import redis
from celery import Celery

WARM = 40
PAUSE_SECS = 0.02  # between two looks whether all are done

# By default Celery listens for each result, which doubles the cost of a launch; so it does not when many are launched.
_LISTENS = sys.argv[1:2] != ["many"]

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_RESULTS"] if _LISTENS else None)
app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=True)


@app.task(name="bench.noop")
def noop() -> None:
    """Do nothing."""


def one(count: int) -> dict[str, object]:
    """Launch tasks one after the other and wait for each; the milliseconds of each."""
    took = []
    for number in range(WARM + count):
        began = time.perf_counter()
        noop.delay().get(timeout=60, interval=0.001)
        if number >= WARM:
            took.append((time.perf_counter() - began) * 1e3)
    return {"ms": took}


def many(count: int) -> dict[str, object]:
    """Launch all at once; the seconds until the last result, and the seconds of the launches."""
    results = redis.Redis.from_url(os.environ["BENCH_RESULTS"])
    _launch(results, WARM)
    began = time.perf_counter()
    launched = _launch(results, count)
    return {"seconds": time.perf_counter() - began, "launch_seconds": launched - began}


def _launch(results: redis.Redis, count: int) -> float:
    before = results.dbsize()  # one key for each result
    for _ in range(count):
        noop.delay()
    launched = time.perf_counter()
    while results.dbsize() < before + count:
        time.sleep(PAUSE_SECS)
    return launched


if __name__ == "__main__":
    print(json.dumps({"one": one, "many": many}[sys.argv[1]](int(sys.argv[2]))))
