"""What web workers and controller count. All of them have these cells; each adds to those of its own work."""

from __future__ import annotations

from broker.messages.store import Status
from broker.metrics.layout import LONG_SECONDS, SIZES, Layout
from broker.metrics.process_figures import ProcessFigures
from broker.metrics.requests import Requests
from master.security.routes import TABLE

LAYOUT = Layout()
PROCESS = ProcessFigures(LAYOUT)
REQUESTS = Requests(LAYOUT, list(TABLE))

# A PUT: rows of the next figure.
LOCK, QUEUE, NODE, COMMIT = range(4)
PUT_STEPS = LAYOUT.histogram(
    "pulzar_put_step_seconds",
    "Steps of a PUT: wait for the key's lock; of a batch: wait until it leaves, until its node's outcome is back; "
    "and the controller's transaction within that.",
    ("step",),
    [("lock",), ("queue",), ("node",), ("commit",)],
)
COMMANDS, RESULTS = range(2)
BATCHES = LAYOUT.histogram(
    "pulzar_batch_size",
    "Commands that went to a node together, and messages that the controller handled together.",
    ("kind",),
    [("commands",), ("messages",)],
    bounds=SIZES,
)
OUTCOMES = [status.name.lower() for status in Status]
UNKNOWN = len(OUTCOMES)  # the row of commands whose outcome is not known
STORE_OUTCOMES = LAYOUT.counter(
    "pulzar_store_outcomes_total",
    "What became of commands to nodes; unknown: the node did not answer in time, or there was none.",
    ("outcome",),
    [*((name,) for name in OUTCOMES), ("unknown",)],
)

# Jobs, in the controller.
SOURCES = ("rest", "queue", "schedule")
JOBS_LAUNCHED = LAYOUT.counter(
    "pulzar_jobs_launched_total", "Jobs by where they came from.", ("source",), [(source,) for source in SOURCES]
)
ENDS = ("completed", "failed", "cancelled")
JOBS_ENDED = LAYOUT.counter(
    "pulzar_jobs_ended_total", "Jobs by their final state.", ("state",), [(state,) for state in ENDS]
)
RUN_ENDS = (*ENDS, "lost")
RUNS_ENDED = LAYOUT.counter(
    "pulzar_runs_ended_total",
    "Runs, which are attempts at jobs, by how they ended; lost: with their node.",
    ("state",),
    [(state,) for state in RUN_ENDS],
)
WAIT, RUN, REPORT = range(3)
JOB_STEPS = LAYOUT.histogram(
    "pulzar_job_step_seconds",
    "Steps of a job: from its launch to the start of its first run, the run, and from its end to the ledger.",
    ("step",),
    [("wait",), ("run",), ("report",)],
    bounds=LONG_SECONDS,
)
LATENESS = LAYOUT.histogram(
    "pulzar_schedule_lateness_seconds", "By how much executions were launched after their time.", bounds=LONG_SECONDS
)
MISSED, OVERLAP = range(2)
LEFT_OUT = LAYOUT.counter(
    "pulzar_schedule_left_out_total",
    "Executions that were left out: the master did not run, or the last one was not over.",
    ("cause",),
    [("missed",), ("overlap",)],
)

# Events, in web workers.
LISTENERS = LAYOUT.gauge("pulzar_event_listeners", "Clients that listen to events.", own=True)
WAITERS = LAYOUT.gauge("pulzar_key_waiters", "Requests that wait for a key.", own=True)
CUT_OFF = LAYOUT.counter("pulzar_event_listeners_cut_off_total", "Clients that took events too slowly.")
