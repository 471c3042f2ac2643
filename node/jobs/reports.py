"""What the node reports of its runs: reports that the broker confirms, and progress, which may get lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages import runs
from broker.messages.codec import encode
from broker.messages.runs import Claimed, Finished, Returned
from node.jobs.claims import Claims
from node.jobs.event_queue import EventQueue
from node.runs.model import RunProgress

log = logs.get(__name__)

Report = Claimed | Finished | Returned

RESEND_SECS = 2.0  # until reports that found no queue are sent once more
GROUP_SECS = 0.05  # while more jobs are here than slots, reports of this time are sent together
MOST_ITEMS = 500  # in one message
MOST_BYTES = 2 << 20  # of the orders in it
_TEXT_CHARACTERS = 1000


class Reporter:
    """Sends messages about the runs of one node. Thread-safe."""

    def __init__(self, node: str, link: Link) -> None:
        self._node = node
        self._link = link

    def send(self, reports: Sequence[Report], done: Callable[[Sequence[Report], bool], None]) -> None:
        """Send reports in order. On the link's thread, `done` gets those of a message, and whether it is safe."""
        for part in _messages(reports):
            message = encode(runs.Reports(self._node, [_clean(report) for report in part]))
            self._link.publish(topology.RESULTS, message, durable=True, done=partial(done, part))

    def progress(self, job: int, progress: RunProgress) -> None:
        """Send how far a run is; without a connection nothing is sent."""
        run = progress.run
        message = runs.Progress(
            *(self._node, run.token, job, run.attempt),
            *(share(progress.done), share(progress.total), text(progress.text)),
            log=progress.log,
            offset=progress.offset,
        )
        try:
            self._link.publish(topology.PROGRESS, encode(message))
        except LinkDown as error:
            log.debug("progress not sent", run=run.token, reason=error)


class ReportQueue:
    """Reports that are sent together at the end of a turn, until the broker has them. Used on the jobs thread."""

    def __init__(self, reporter: Reporter, claims: Claims, events: EventQueue) -> None:
        self._reporter = reporter
        self._claims = claims
        self._events = events
        self._reports: list[Report] = []
        self._since = 0.0  # when the first of these was added, by the monotonic clock
        self._refused: list[Report] = []  # found no queue
        self._resend_at = 0.0

    def add(self, report: Report) -> None:
        """Add a report to those that are sent next."""
        if not self._reports:
            self._since = time.monotonic()
        self._reports.append(report)

    @property
    def due(self) -> float:
        """When the reports that were added are to be sent at the latest, by the monotonic clock; inf without any."""
        return self._since + GROUP_SECS if self._reports else math.inf

    def send(self, more: bool = False) -> None:
        """Send the reports that were added; when there will be `more` soon, not before they are due."""
        if not self._reports or (more and time.monotonic() < self.due and len(self._reports) < MOST_ITEMS):
            return
        reports, self._reports = self._reports, []
        self._reporter.send(_joined(reports), lambda part, sent: self._events.put(self._sent, part, sent))

    def tick(self) -> None:
        """Add again, now and then, the reports that found no queue."""
        now = time.monotonic()
        if self._refused and now >= self._resend_at:
            self._resend_at = now + RESEND_SECS
            for report in self._refused:
                self.add(report)
            self._refused.clear()

    def _sent(self, reports: Sequence[Report], sent: bool) -> None:
        if not sent:
            self._refused += reports
            return
        for report in reports:
            if isinstance(report, Finished):
                self._claims.report(report)


def text(given: str) -> str:
    """A text as a message can carry it."""
    return given[:_TEXT_CHARACTERS].encode("utf-8", "replace").decode()


def share(value: float | None) -> float:
    """A number as a message can carry it."""
    return max(0.0, float(value)) if value is not None and math.isfinite(value) else 0.0


def _joined(reports: Sequence[Report]) -> list[Report]:
    """The reports without claims of runs that have ended since. A job without an id needs both."""
    ended = {report.run for report in reports if isinstance(report, Finished) and report.id}
    return [report for report in reports if not (isinstance(report, Claimed) and report.id and report.run in ended)]


def _messages(reports: Sequence[Report]) -> Iterator[list[Report]]:
    """The reports in parts that fit into a message each."""
    part: list[Report] = []
    size = 0
    for report in reports:
        size += 0 if isinstance(report, Finished) else len(report.order)
        if part and (len(part) == MOST_ITEMS or size > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(report)
    if part:
        yield part


def _clean(report: Report) -> Report:
    """The report with a reason that a message can carry."""
    if isinstance(report, Claimed):
        return report
    if isinstance(report, Returned):
        return report._replace(reason=text(report.reason))
    return report._replace(end=report.end._replace(reason=text(report.end.reason)))
