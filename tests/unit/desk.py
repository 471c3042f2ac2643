"""A ledger with the rules of jobs around it, and a broker that is a list."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from broker.messages.jobs import Options, Order
from broker.messages.runs import Claimed, Finished, RunEnd, RunState, Withdraw
from master.jobs.capacity import Capacity
from master.jobs.effects import Action, JobEvent, Publish
from master.jobs.leases import Heard, Leases
from master.jobs.ledger import Ledger
from master.jobs.model import Job
from master.jobs.requeue import Requeue
from master.jobs.schedules import Schedules
from master.jobs.transitions import Transitions

NOW = 1_700_000_000_000
PLAIN = Options()
START = 1_000.0  # of the monotonic clock

T = TypeVar("T")


def token(number: int) -> str:
    """A name of a run."""
    return f"{number:032x}"


class Desk:
    """Calls the rules as the controller does, one transaction each."""

    def __init__(self, directory: Path, retention_days: int = 90, lease_secs: float = 30.0) -> None:
        self.ledger = Ledger(directory / "ledger", write=True, map_size=256 << 20)
        self.nodes: list[str] = ["n1", "n2"]  # that have every script
        self.shared = True  # whether all nodes are among them
        self.runs = Transitions(self.ledger, self.place)
        self.waiting = Requeue(self.runs, retention_days)
        self.leases = Leases(self.runs, lease_secs, START)
        self.room = Capacity(self.ledger)
        self.schedules = Schedules(self.runs, self.room)
        self.now = NOW

    def place(self, _txn: Any, order: Order, without: Collection[str]) -> str | None:
        possible = [node for node in self.nodes if node not in without]
        if order.options.node:
            return order.options.node if order.options.node in possible else None
        return None if not possible else "" if self.shared and not without else possible[0]

    def write(self, work: Callable[[Any], T]) -> T:
        with self.ledger.begin(write=True) as txn:
            return work(txn)

    def launch(self, *orders: Order) -> tuple[list[int], list[Action]]:
        return self.write(lambda txn: self.runs.launch(txn, orders, "rest", self.now))

    def launched(self, options: Options = PLAIN, **arguments: Any) -> int:
        """Id of a new job whose message is in its queue."""
        (number,), _ = self.launch(Order("example/job", arguments, options))
        self.confirm(number)
        return number

    def confirm(self, number: int, attempt: int = 1) -> None:
        self.write(lambda txn: self.runs.confirmed(txn, [(number, attempt)], self.now))

    def claim(self, number: int, attempt: int = 1, run: int = 1, node: str = "n1", order: bytes = b"") -> list[Action]:
        claim = Claimed(token(run), number, attempt, self.now, order)
        return self.write(lambda txn: self.runs.claimed(txn, node, claim, self.now))

    def finish(
        self, number: int, state: RunState, attempt: int = 1, run: int = 1, node: str = "n1", reason: str = ""
    ) -> list[Action]:
        end = RunEnd(state, reason, self.now, self.now + 1500)
        report = Finished(token(run), number, attempt, end, "log", "output")
        return self.write(lambda txn: self.runs.finished(txn, node, report, self.now))

    def cancel(self, number: int) -> tuple[str, list[Action]]:
        return self.write(lambda txn: self.runs.cancel(txn, self.job(number), self.now))

    def retries(self) -> list[Action]:
        return self.write(lambda txn: self.waiting.retries(txn, self.now))

    def emptied(self, *lanes: str) -> list[Action]:
        return self.write(lambda txn: self.waiting.emptied(txn, lanes, self.now))

    def withdrawn(self, node: str) -> list[tuple[int, int]]:
        return self.read(lambda txn: self.waiting.withdrawn(txn, node))

    def check(self, clock: float, **nodes: Heard) -> list[Action]:
        return self.write(lambda txn: self.leases.check(txn, nodes, clock, self.now))

    def tick(self) -> list[Action]:
        return self.write(lambda txn: self.schedules.tick(txn, self.now))

    def job(self, number: int) -> Job:
        with self.ledger.begin() as txn:
            job = self.ledger.job(txn, number)
        assert job is not None
        return job

    def read(self, work: Callable[[Any], T]) -> T:
        with self.ledger.begin() as txn:
            return work(txn)

    def keys(self, name: str) -> list[bytes]:
        """Keys of a database of the ledger."""
        return self.read(lambda txn: [key for key, _ in self.ledger.up(txn, name)])


def published(actions: Iterable[Action]) -> list[tuple[int, int, str]]:
    """Id, attempt and node of what is to be published."""
    return [(action.order.id, action.order.attempt, action.node) for action in actions if isinstance(action, Publish)]


def withdrawn(actions: Iterable[Action]) -> list[tuple[int, int, str]]:
    """Id, attempt and run of what is to be ended."""
    return [(action.id, action.attempt, action.run) for action in actions if isinstance(action, Withdraw)]


def events(actions: Sequence[Action]) -> list[str]:
    """Names of the events."""
    return [action.name for action in actions if isinstance(action, JobEvent)]
