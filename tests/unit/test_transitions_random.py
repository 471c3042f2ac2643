"""Whatever happens, in whatever order: every job gets one final state and keeps it."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.messages.jobs import Options, Order
from broker.messages.runs import Named, RunState, Withdraw
from master.jobs.effects import Effect, NodeMessage, Publish
from master.jobs.model import Job, JobState
from tests.unit.desk import Desk

STEPS = (
    "launch",
    "hand",
    "claim",
    "claim",
    "claim",
    "double claim",
    "lose message",
    "finish",
    "finish",
    "finish",
    "finish again",
    "cancel",
    "lose",
    "time",
    "crash",
    "purge",
)


class World:
    """A broker that loses, doubles and reorders, and nodes that run or are lost."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.random = random.Random(seed)
        self.queue: list[Order] = []
        self.runs: list[tuple[int, int, int]] = []  # job, attempt, run
        self.reports: list[tuple[int, int, int, RunState]] = []
        self.final: dict[int, Job] = {}
        self.told: Counter[int] = Counter()
        self.next_run = 1

    def do(self, actions: Sequence[Effect]) -> None:
        for action in actions:
            if isinstance(action, Publish):
                self.queue.append(action.order)
                if self.random.random() < 0.8:
                    self.desk.confirm(action.order.id, action.order.attempt)
            elif isinstance(action, Withdraw) and self.random.random() < 0.5:  # half of them don't arrive
                for number, attempt, run in list(self.runs):
                    if number == action.id and attempt <= action.attempt and f"{run:032x}".endswith(action.run):
                        self.end((number, attempt, run), RunState.CANCELLED)
            elif isinstance(action, NodeMessage):
                assert isinstance(action.message, Named)

    def end(self, run: tuple[int, int, int], state: RunState) -> None:
        self.runs.remove(run)
        self.reports.append((*run, state))
        number, attempt, name = run
        self.do(self.desk.finish(number, state, attempt, name))

    def step(self, name: str) -> None:
        desk, pick = self.desk, self.random
        if name == "launch":
            options = Options(attempts=pick.choice((0, 1, 3)), retry_delay=pick.choice((0, 0, 30)))
            self.do(desk.launch(Order("a/b", {}, options))[1])
        elif name == "hand":
            run = self.new_run()
            (told,) = desk.claim(0, run=run, order=b'{"job": "a/b"}')
            assert isinstance(told, NodeMessage)
            self.runs.append((told.message.id, 1, run))
        elif name in ("claim", "double claim") and self.queue:
            order = self.queue[pick.randrange(len(self.queue))]
            if name == "claim":
                self.queue.remove(order)
            self.claim(order)
        elif name == "lose message" and self.queue:
            self.queue.pop(pick.randrange(len(self.queue)))
        elif name == "finish" and self.runs:
            state = pick.choice((RunState.COMPLETED, RunState.FAILED, RunState.LOST))
            self.end(pick.choice(self.runs), state)
        elif name == "finish again" and self.reports:
            number, attempt, run, state = pick.choice(self.reports)
            self.do(desk.finish(number, state, attempt, run))
        elif name == "cancel":
            job = self.any(JobState.PENDING, JobState.RUNNING)
            if job:
                self.do(desk.cancel(job.id)[1])
        elif name == "lose":
            job = self.any(JobState.RUNNING)
            if job:
                self.do(desk.write(lambda tables: desk.transitions.lost(tables, job, "lost", desk.now)))
        elif name == "time":
            desk.now += pick.choice((1_000, 60_000, 3_600_000, -3_600_000))
            self.do(desk.tick())
        elif name == "crash":
            self.do(desk.write(lambda tables: desk.requeue.unconfirmed(tables, ())))
        elif name == "purge":
            self.queue.clear()
            desk.now += 10_000
            self.do(desk.emptied(":normal"))
        self.look()

    def claim(self, order: Order) -> None:
        run = self.new_run()
        self.runs.append((order.id, order.attempt, run))
        self.do(self.desk.claim(order.id, order.attempt, run))

    def new_run(self) -> int:
        self.next_run += 1
        return self.next_run

    def jobs(self) -> list[Job]:
        return self.desk.read(lambda tables: list(tables.jobs()))

    def any(self, *states: JobState) -> Job | None:
        found = [job for job in self.jobs() if job.state in states]
        return self.random.choice(found) if found else None

    def look(self) -> None:
        """What must be true after every step."""
        finals = ("job.completed", "job.failed", "job.cancelled")
        told = self.desk.read(lambda view: view.events())
        self.told = Counter(event.data["job_id"] for _, event in told if event.type in finals)
        for job in self.jobs():
            known = self.final.get(job.id)
            if known:
                assert job._replace(attempts=()) == known._replace(attempts=()), "a final state was left or rewritten"
            elif job.state.final:
                self.final[job.id] = job
            assert self.told[job.id] == job.state.final, "told as often as it ended"
            if job.options.attempts:
                assert job.attempt <= job.options.attempts
            if job.state is JobState.RUNNING:
                assert job.run
                assert not job.lane
            elif job.state is JobState.PENDING:
                assert bool(job.lane) != bool(job.due), "it is in a queue or waits for its time"

    def settle(self) -> None:
        """From here on nothing goes wrong any more."""
        for _ in range(500):
            self.do(self.desk.write(lambda tables: self.desk.requeue.unconfirmed(tables, ())))
            self.queue, queue = [], self.queue
            for order in queue:
                self.claim(order)
            while self.runs:
                self.end(self.runs[0], RunState.COMPLETED)
            self.desk.now += 3_600_000
            self.do(self.desk.tick())
            for job in self.jobs():
                if job.state is JobState.RUNNING:  # its run was withdrawn, or its report lost
                    self.do(
                        self.desk.write(
                            lambda tables, job=job: self.desk.transitions.lost(tables, job, "lost", self.desk.now)
                        )
                    )
            if not self.queue:
                self.do(self.desk.emptied(":normal"))
            self.look()
            if all(job.state.final for job in self.jobs()):
                return
        raise AssertionError([job for job in self.jobs() if not job.state.final])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(STEPS), min_size=5, max_size=80), st.integers(0, 1 << 32))
def test_every_job_ends_in_exactly_one_final_state(steps: list[str], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder))
        try:
            world = World(desk, seed)
            for name in ("launch", "launch", *steps):
                world.step(name)
            world.settle()
            assert set(world.told.values()) == {1}
            assert len(world.told) == len(world.jobs())
            assert [desk.keys(name) for name in ("open", "waiting", "due", "live")] == [[], [], [], []]
        finally:
            desk.ledger.close()
