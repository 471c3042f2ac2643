"""How many jobs and schedules may wait. Beyond that a launch is refused, long before RabbitMQ's alarms stop everything.

Accepted jobs are never refused later: retries, jobs whose node is lost, single executions of schedules.
"""

from __future__ import annotations

from typing import NamedTuple

from broker.refusals import Unavailable
from broker.settings import Settings
from master.jobs.ledger import LedgerView, Pile
from master.jobs.model import arguments_bytes


class CapacityLimits(NamedTuple):
    """How much may wait."""

    jobs: int = 100_000
    size: int = 256 << 20  # bytes of the arguments of all pending jobs, and of those of all schedules
    schedules: int = 10_000

    @classmethod
    def of(cls, config: Settings) -> CapacityLimits:
        """The configured limits."""
        return cls(config.jobs.max_pending, config.jobs.max_pending_bytes, config.jobs.max_schedules)


class Capacity:
    """Compares the ledger's counters with the limits."""

    def __init__(self, limits: CapacityLimits = CapacityLimits()) -> None:  # noqa: B008
        self._limits = limits

    def check_job(self, view: LedgerView, arguments: str) -> None:
        """Raise `Unavailable` when there is no room for one more pending job with these arguments."""
        self._check("pending jobs", view.pending(), "max_pending", self._limits.jobs, arguments)

    def check_schedule(self, view: LedgerView, arguments: str) -> None:
        """Raise `Unavailable` when there is no room for one more schedule with these arguments."""
        self._check("schedules", view.scheduled(), "max_schedules", self._limits.schedules, arguments)

    def full(self, view: LedgerView) -> bool:
        """Whether there is no room for one more pending job."""
        number, size = view.pending()
        return number >= self._limits.jobs or size >= self._limits.size

    def _check(self, noun: str, pile: Pile, name: str, most: int, arguments: str) -> None:
        if pile.number >= most:
            raise Unavailable(
                f"there are {pile.number} {noun}, and [jobs] {name} is {most}; nothing was launched, try again when"
                " there are fewer"
            )
        more = arguments_bytes(arguments)
        if pile.size + more > self._limits.size:
            raise Unavailable(
                f"the arguments of the {noun} have {pile.size} bytes, these {more} more, and [jobs] max_pending_bytes"
                f" is {self._limits.size}; nothing was launched, try again when there are fewer"
            )
