"""What agent and data server count. Both have these cells; each adds to those of its own work."""

from __future__ import annotations

from broker.http import internal_addresses
from broker.messages.store import Status
from broker.metrics.layout import LONG_SECONDS, SIZES, Layout
from broker.metrics.process_figures import ProcessFigures
from broker.metrics.requests import Requests

ROUTES = {
    "/get_key/": "/get_key/{key}",
    "/add_key/": "/add_key/{key}",
    "/autodiscovery": "/autodiscovery",
    "/health": "/health",
    internal_addresses.METRICS: internal_addresses.METRICS,
    internal_addresses.VERIFY: internal_addresses.VERIFY,
    internal_addresses.DELETED: internal_addresses.DELETED,
}

LAYOUT = Layout()
PROCESS = ProcessFigures(LAYOUT)
REQUESTS = Requests(LAYOUT, [(method, route) for route in ROUTES.values() for method in ("GET", "HEAD", "PUT")])

# The agent, on the thread of its link.
APPLY = LAYOUT.histogram(
    "pulzar_node_apply_seconds", "A batch of commands: written to the log, flushed, and in the node's index."
)
BATCHES = LAYOUT.histogram("pulzar_node_batch_size", "Commands that were carried out together.", bounds=SIZES)
OUTCOMES = [status.name.lower() for status in Status]
COMMANDS = LAYOUT.counter(
    "pulzar_node_commands_total",
    "Commands by what became of them.",
    ("outcome",),
    [(name,) for name in OUTCOMES],
)

# The agent's runs, on the thread of its jobs.
RUN_ENDS = ("completed", "failed", "cancelled", "lost")
RUNS = LAYOUT.histogram(
    "pulzar_node_run_seconds",
    "Runs of jobs by how they ended.",
    ("state",),
    [(state,) for state in RUN_ENDS],
    bounds=LONG_SECONDS,
)
SLOTS = LAYOUT.gauge("pulzar_node_slots", "Runs that the node can have at once.")
RUNNING = LAYOUT.gauge("pulzar_node_running", "Runs that the node has now.")

# The agent's maintenance, on a thread for each.
COMPACTED_BYTES = LAYOUT.counter("pulzar_node_compaction_freed_bytes_total", "Bytes of the log that were given back.")
WRITTEN, REMOVED = range(2)
COMPACTED_SEGMENTS = LAYOUT.counter(
    "pulzar_node_compaction_segments_total",
    "Segments that were written anew, and those removed as they held nothing.",
    ("how",),
    [("written",), ("removed",)],
)
COMPACTION_FAILURES = LAYOUT.counter("pulzar_node_compaction_failures_total", "Passes of compaction that failed.")
SCRUBBED_BYTES = LAYOUT.counter("pulzar_node_scrub_read_bytes_total", "Bytes that the scrub has read and compared.")
DAMAGES = LAYOUT.counter("pulzar_node_scrub_damages_total", "Damages that the scrub has found; each pass finds all.")
SCRUBBED_AT = LAYOUT.gauge("pulzar_node_scrub_ended_seconds", "When the last pass of the scrub ended, since the epoch.")
SCRUB_DAMAGED = LAYOUT.gauge("pulzar_node_scrub_damaged", "Damaged places that the last pass of the scrub found.")

# Gauges of the agent's storage.
KEYS = LAYOUT.gauge("pulzar_node_keys", "Values on the node.")
VALUE_BYTES = LAYOUT.gauge("pulzar_node_value_bytes", "Bytes of these values.")
HELD_KEYS = LAYOUT.gauge("pulzar_node_held_keys", "Deleted and overwritten values that can be brought back.")
HELD_BYTES = LAYOUT.gauge("pulzar_node_held_bytes", "Their bytes.")
LIVE_BYTES = LAYOUT.gauge("pulzar_node_log_live_bytes", "Bytes of the log with current records.")
GARBAGE_BYTES = LAYOUT.gauge("pulzar_node_log_garbage_bytes", "Bytes of the log that compaction could give back.")
LOG_BYTES = LAYOUT.gauge("pulzar_node_log_bytes", "Bytes of the log.")
SEGMENTS = LAYOUT.gauge("pulzar_node_log_segments", "Segments of the log.")
SEQ = LAYOUT.gauge("pulzar_node_log_seq", "Number of the newest record.")
DISK_TOTAL = LAYOUT.gauge("pulzar_node_disk_total_bytes", "Size of the data directory's filesystem.")
DISK_FREE = LAYOUT.gauge("pulzar_node_disk_free_bytes", "Free bytes of that filesystem.")
FULL = LAYOUT.gauge("pulzar_node_full", "1: the node takes no more values.")
DAMAGED_SEGMENTS = LAYOUT.gauge(
    "pulzar_node_damaged_segments", "Segments that compaction leaves alone, for they are damaged."
)
