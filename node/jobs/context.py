"""What the parts of the node's jobs share."""

from __future__ import annotations

from dataclasses import dataclass

from broker.link import Link
from broker.settings import Settings
from node.jobs.claims import Claims
from node.jobs.event_queue import EventQueue
from node.jobs.reports import Reporter, ReportQueue


@dataclass(frozen=True)
class JobContext:
    """The parts and settings that several others need."""

    config: Settings
    node: str
    slot_count: int  # runs at once
    link: Link
    events: EventQueue
    claims: Claims
    reporter: Reporter
    reports: ReportQueue
