"""What the rules about jobs want done outside of the ledger. The controller does it after the commit."""

from __future__ import annotations

import json
from typing import NamedTuple

from broker.messages.jobs import Order
from broker.messages.runs import Named, Withdraw
from master.jobs.model import Job
from master.jobs.routing import Route


class Publish(NamedTuple):
    """Publish a job. `Transitions.confirmed` is called once the broker has confirmed it."""

    order: Order
    route: Route
    packed: bytes = b""  # the order as a web worker packed it, before it had an id; b"": it is packed anew


class NodeMessage(NamedTuple):
    """Tell one node the id of a job that was published by hand."""

    node: str
    message: Named


class Bury(NamedTuple):
    """Put a job that was published by hand, and that no node can run, where people find it."""

    order: bytes
    reason: str


class JobEvent(NamedTuple):
    """Something users may listen for."""

    name: str  # job.finished.completed, job.finished.failed or job.finished.cancelled
    job: Job

    def routing_key(self) -> str:
        """Name of the event, folder and script."""
        return f"{self.name}.{self.job.path.replace('/', '.')}"

    def body(self) -> bytes:
        """The event as JSON, which users read."""
        job = self.job
        fields = {"event": self.name, "job_id": job.id, "job_path": job.path, "attempt": job.attempt, "node": job.node}
        return json.dumps(fields | {"reason": job.reason, "schedule": job.schedule or None}).encode()


Effect = Publish | Withdraw | NodeMessage | Bury | JobEvent
