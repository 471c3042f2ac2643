"""The parts of a node's jobs without its threads: a test says what comes, what is confirmed, and when a turn is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from broker import settings, topology
from broker.link import Delivery
from broker.messages.runs import Reports
from broker.messages.store import Kind, Result, Status, Store
from node.jobs.claims import Claim, Claims
from node.jobs.context import JobContext
from node.jobs.event_queue import EventQueue
from node.jobs.reports import Report, Reporter, ReportQueue
from tests.support import decode, wait_for

RUNS = [f"{number:032x}" for number in range(20)]


class FakePuller:
    """Notes what is wanted of the queues and what becomes of messages."""

    def __init__(self) -> None:
        self.wanted = 0
        self.ahead = 0
        self.connected = True  # else no acknowledgement gets through
        self.done: list[tuple[str, int]] = []
        self.handler: Any = None

    def want(self, free: int, ahead: int = 0, window: int = 0) -> None:
        self.wanted, self.ahead = free, ahead

    def ack(self, delivery: Delivery, soon: bool = False) -> bool:
        self.done.append(("ack soon" if soon else "ack", delivery.tag))
        return self.connected

    def give_back(self, delivery: Delivery) -> None:
        self.done.append(("back", delivery.tag))

    def deliver(self, tag: int, body: bytes = b"", **fields: Any) -> Delivery:
        delivery = Delivery(body, "q", tag, 1, {}, False)._replace(**fields)
        self.wanted -= 1
        self.handler(delivery)
        return delivery


class FakeLink:
    """Takes what is published; a test says when it is confirmed."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.unconfirmed: list[Callable[[bool], None]] = []
        self.buried: list[tuple[int, str]] = []
        self.puller = FakePuller()

    def publish(self, _queue: str, body: bytes, *, done: Any = None, **_options: Any) -> None:
        self.sent.append(body)
        if done:
            self.unconfirmed.append(done)

    def pull(self, queues: Any, handler: Any) -> FakePuller:
        assert set(queues) <= set(topology.job_queues("node-1"))
        self.puller.handler = handler
        return self.puller

    def bury(self, delivery: Delivery, reason: str, then: Callable[[], None]) -> None:
        self.buried.append((delivery.tag, reason))
        then()

    def wake(self) -> None:
        pass

    def confirm(self, sent: bool = True) -> None:
        """The broker has all that was published, or found no queue for it."""
        waiting, self.unconfirmed = self.unconfirmed, []
        for done in waiting:
            done(sent)


class JobsThread:
    """The context of a node's jobs, with real claims on the disk."""

    def __init__(self, directory: Path, **variables: str) -> None:
        environment = {"PULZAR_VOLUME_DIR": str(directory), "PULZAR_JOBS_DIR": str(directory / "scripts")}
        self.directory = directory
        self.link = FakeLink()
        self.claims = Claims(directory / "runs")
        self.events = EventQueue()
        reporter = Reporter("node-1", self.link)  # type: ignore[arg-type]
        self.context = JobContext(
            config=settings.load(environ=environment | variables),
            node="node-1",
            slot_count=2,
            link=self.link,  # type: ignore[arg-type]
            events=self.events,
            claims=self.claims,
            reporter=reporter,
            reports=ReportQueue(reporter, self.claims, self.events),
        )
        self.stores: list[tuple[Sequence[Store], Callable[[list[Result]], None]]] = []

    def claim(self, number: int, job: int | None = None, attempt: int = 1, order: bytes = b"order") -> Claim:
        """A claimed run of a job, without an id if that is 0."""
        job = number + 1 if job is None else job
        claim = Claim(RUNS[number], job, attempt, 1_000, by_hand=not job)
        self.claims.add([(claim, order if not job else b"")])
        return claim

    def turn(self, seconds: float = 0.001) -> None:
        """Do what was put into the queue, as the jobs thread does it; waits for the first event for so many seconds."""
        for event in self.events.take(seconds):
            event.function(*event.arguments)
        self.store_ended()
        self.claims.flush()
        self.context.reports.send()

    def store_ended(self) -> None:
        """Store the artifacts of runs that have ended, where a test has any."""

    def turn_until(self, condition: Callable[[], object]) -> None:
        """Do turns until something is so."""

        def turned() -> object:
            self.turn()
            return condition()

        wait_for(turned)

    def told(self) -> list[Report]:
        """The reports that were sent since the last call."""
        bodies, self.link.sent = self.link.sent, []
        return [report for body in bodies for report in decode(body, Reports).items]

    def store_values(self, stores: Sequence[Store], then: Callable[[list[Result]], None]) -> None:
        """What the agent does: `stored` says how it went."""
        self.stores.append((stores, then))

    def stored(self, status: Status = Status.DONE, reason: str = "") -> None:
        """The storage has carried out the commands."""
        commands, self.stores = self.stores, []
        for stores, then in commands:
            then(
                [Result(0, status, reason, 1, Kind.PUT, one.key, one.version, 0, 0, "", b"", 0, None) for one in stores]
            )
