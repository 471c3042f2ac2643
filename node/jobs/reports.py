"""What the node says of its runs: reports that the broker confirms, and progress, which may get lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from broker import logs, topology
from broker.errors import LinkDown
from broker.link import Link
from broker.messages import runs
from broker.messages.codec import encode
from broker.messages.runs import Claimed, Finished, Returned
from node.runs.model import RunProgress

log = logs.get(__name__)

Report = Claimed | Finished | Returned

MOST_ITEMS = 500  # of one message
MOST_BYTES = 2 << 20  # of the orders in it
_TEXT_CHARACTERS = 1000


class Reporter:
    """Of one node; any thread may use it."""

    def __init__(self, node: str, link: Link) -> None:
        self._node = node
        self._link = link

    def send(self, reports: Sequence[Report], done: Callable[[Sequence[Report], bool], None]) -> None:
        """Send reports, in order. `done` is called on the link's thread with some of them: whether the broker has them."""
        for some in _messages(reports):
            message = encode(runs.Reports(self._node, [_clean(report) for report in some]))
            self._link.publish(topology.RESULTS, message, durable=True, done=lambda sent, some=some: done(some, sent))  # type: ignore[misc]

    def progress(self, job: int, progress: RunProgress) -> None:
        """Say how far a run is, if there is somebody to tell."""
        run = progress.run
        message = runs.Progress(
            self._node,
            run.run,
            job,
            run.attempt,
            share(progress.done),
            share(progress.total),
            text(progress.text),
            progress.log,
            progress.offset,
        )
        try:
            self._link.publish(topology.PROGRESS, encode(message))
        except LinkDown as error:
            log.debug("progress not told", run=run.run, reason=error)


def text(given: str) -> str:
    """A text as a message can carry it."""
    return given[:_TEXT_CHARACTERS].encode("utf-8", "replace").decode()


def _messages(reports: Sequence[Report]) -> Iterator[list[Report]]:
    some: list[Report] = []
    size = 0
    for report in reports:
        size += 0 if isinstance(report, Finished) else len(report.order)
        if some and (len(some) == MOST_ITEMS or size > MOST_BYTES):
            yield some
            some, size = [], 0
        some.append(report)
    if some:
        yield some


def _clean(report: Report) -> Report:
    if isinstance(report, Claimed):
        return report
    return report._replace(reason=text(report.reason))


def share(value: float | None) -> float:
    """A number as a message can carry it."""
    return max(0.0, float(value)) if value is not None and math.isfinite(value) else 0.0
