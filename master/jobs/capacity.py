"""How many jobs and schedules may wait. Beyond that a launch is refused, long before RabbitMQ's alarms stop everything.

What has been accepted is never refused later: retries, jobs whose node is lost, single executions of schedules.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from broker.messages.jobs import Order
from broker.refusals import Unavailable
from broker.settings import Settings
from master.jobs.ledger import Ledger
from master.jobs.model import arguments_bytes, arguments_text


class CapacityLimits(NamedTuple):
    """What may wait."""

    jobs: int = 100_000
    size: int = 256 << 20  # bytes, of the arguments of all pending jobs, and of those of all schedules
    schedules: int = 10_000

    @classmethod
    def of(cls, config: Settings) -> CapacityLimits:
        """As they are configured."""
        return cls(config.jobs.max_pending, config.jobs.max_pending_bytes, config.jobs.max_schedules)


class Capacity:
    """Of the controller; used in its transactions. The ledger has the counters, so that a look costs next to nothing."""

    def __init__(self, ledger: Ledger, limits: CapacityLimits = CapacityLimits()) -> None:  # noqa: B008
        self._ledger = ledger
        self._limits = limits

    def check_job(self, txn: Any, order: Order) -> None:
        """Raise `Unavailable` when too much waits already for one more job."""
        number, size = self._ledger.pending(txn)
        _check("pending jobs", number, "max_pending", self._limits.jobs)
        _check_size("pending jobs", size, order, self._limits.size)

    def check_schedule(self, txn: Any, order: Order) -> None:
        """Raise `Unavailable` when there are too many schedules already for one more."""
        number, size = self._ledger.scheduled(txn)
        _check("schedules", number, "max_schedules", self._limits.schedules)
        _check_size("schedules", size, order, self._limits.size)

    def full(self, txn: Any) -> bool:
        """Whether no job more would be taken."""
        number, size = self._ledger.pending(txn)
        return number >= self._limits.jobs or size >= self._limits.size


def _check(what: str, number: int, name: str, most: int) -> None:
    if number >= most:
        raise Unavailable(
            f"there are {number} {what}, and [jobs] {name} is {most}; nothing was launched, try again when there are fewer"
        )


def _check_size(what: str, size: int, order: Order, most: int) -> None:
    more = arguments_bytes(arguments_text(order.arguments))
    if size + more > most:
        raise Unavailable(
            f"the arguments of the {what} have {size} bytes, these {more} more, and [jobs] max_pending_bytes is {most};"
            " nothing was launched, try again when there are fewer"
        )
