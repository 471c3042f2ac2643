"""A ledger with the rules of jobs around it, and a broker that is a list."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from broker.messages.jobs import Options, Order
from broker.messages.runs import Claimed, Finished, RunEnd, RunState, Withdraw
from master.jobs.capacity import Capacity
from master.jobs.effects import Effect, Publish
from master.jobs.leases import LastHeartbeat, Leases
from master.jobs.ledger import Ledger, LedgerTables, LedgerView
from master.jobs.model import AttemptId, Job, lane
from master.jobs.requeue import Requeue
from master.jobs.routing import Route
from master.jobs.schedules import Schedules
from master.jobs.timers import Timers
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
        self.lease_secs, self.retention_days = lease_secs, retention_days
        self.capacity = Capacity()
        self.now = NOW
        self.restart()

    def restart(self) -> None:
        """The rules as a new controller has them."""
        self.transitions = Transitions(self)  # type: ignore[arg-type]
        self.requeue = Requeue(self.transitions, self.retention_days)
        self.leases = Leases(self.transitions, self.lease_secs, START)
        self.schedules = Schedules(self.transitions, self.capacity)
        self.timers = Timers(self.transitions, self.schedules)

    def choose(self, _view: LedgerView, order: Order, without: str | None = None) -> Route | None:
        """The route as a `Router` chooses it."""
        possible = [node for node in self.nodes if node != without]
        if order.options.node:
            possible = [node for node in possible if node == order.options.node]
        node = "" if self.shared and not without and not order.options.node else None
        return self.route(possible[0] if node is None else node, order) if possible else None

    def again(self, _view: LedgerView, order: Order, name: str) -> Route:
        return self.route(name.partition(":")[0], order)

    def route(self, node: str, order: Order) -> Route:
        name = lane(node, order.options.priority)
        return Route(name, f"queue of {name}")

    def write(self, work: Callable[[LedgerTables], T]) -> T:
        with self.ledger.write() as tables:
            return work(tables)

    def aborted(self, work: Callable[[LedgerTables], T]) -> list[T]:
        """What was done in a transaction that came to nothing."""
        results = []
        with suppress(OSError), self.ledger.write() as tables:
            results.append(work(tables))
            raise OSError("no space")
        return results

    def launch(self, *orders: Order) -> tuple[list[int], list[Effect]]:
        with self.ledger.write() as tables:
            new = [self.transitions.launch(tables, order, "rest", self.now) for order in orders]
        return [job.id for job in new], [effect for job in new for effect in job.effects]

    def launched(self, options: Options = PLAIN, **arguments: Any) -> int:
        """Id of a new job whose message is in its queue."""
        (number,), _ = self.launch(Order("example/job", arguments, options))
        self.confirm(number)
        return number

    def confirm(self, number: int, attempt: int = 1) -> None:
        self.write(lambda tables: self.transitions.confirmed(tables, [AttemptId(number, attempt)], self.now))

    def claim(self, number: int, attempt: int = 1, run: int = 1, node: str = "n1", order: bytes = b"") -> list[Effect]:
        claim = Claimed(token(run), number, attempt, self.now, order)
        return self.write(lambda tables: self.transitions.claimed(tables, node, claim, self.now))

    def finish(
        self, number: int, state: RunState, attempt: int = 1, run: int = 1, node: str = "n1", reason: str = ""
    ) -> list[Effect]:
        end = RunEnd(state, reason, self.now, self.now + 1500)
        report = Finished(token(run), number, attempt, end, "log", "output")
        return self.write(lambda tables: self.transitions.finished(tables, node, report, self.now))

    def cancel(self, number: int) -> tuple[str, list[Effect]]:
        return self.write(lambda tables: self.transitions.cancel(tables, self.job(number), self.now))

    def emptied(self, *lanes: str) -> list[Effect]:
        return self.write(lambda tables: self.requeue.emptied(tables, lanes, self.now))

    def withdrawn(self, node: str) -> list[tuple[int, int]]:
        return self.read(lambda tables: self.requeue.withdrawn(tables, node))

    def check(self, clock: float, **nodes: LastHeartbeat) -> list[Effect]:
        return self.write(lambda tables: self.leases.check(tables, nodes, clock, self.now))

    def tick(self) -> list[Effect]:
        return self.write(lambda tables: self.timers.tick(tables, self.now))

    def job(self, number: int) -> Job:
        with self.ledger.read() as view:
            job = view.job(number)
        assert job is not None
        return job

    def read(self, work: Callable[[LedgerView], T]) -> T:
        with self.ledger.read() as view:
            return work(view)

    def ends(self, number: int) -> list[str]:
        """The events that a job has got its final state."""
        told = self.read(lambda view: view.events())
        finals = ("job.completed", "job.failed", "job.cancelled")
        return [event.type for _, event in told if event.type in finals and event.data["job_id"] == number]

    def keys(self, name: str) -> list[bytes]:
        """Keys of a database of the ledger."""
        return self.read(lambda view: [key for key, _ in view._up(name)])


def published(effects: Iterable[Effect]) -> list[tuple[int, int, str]]:
    """Id, attempt and node of what is to be published; "" for the queue of all."""
    return [
        (effect.order.id, effect.order.attempt, effect.route.lane.partition(":")[0])
        for effect in effects
        if isinstance(effect, Publish)
    ]


def withdrawn(effects: Iterable[Effect]) -> list[tuple[int, int, str]]:
    """Id, attempt and run of what is to be ended."""
    return [(effect.id, effect.attempt, effect.run) for effect in effects if isinstance(effect, Withdraw)]
