"""The controller's part in jobs, whole: calls of web workers, messages of nodes and the clock. The link is a list."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from broker import settings, topology
from broker.clock import DAY_MS
from broker.messages import jobs
from broker.messages.codec import decode_any
from broker.messages.jobs import Options, Order
from broker.messages.runs import (
    AskCatalog,
    Claimed,
    Finished,
    NodeCatalog,
    Reports,
    RunEnd,
    RunState,
    Withdraw,
    Withdrawn,
)
from broker.messages.store import Heartbeat
from broker.refusals import BadRequest, Conflict, NotFound, Refused, Unavailable
from master.channel import Cancel, Launch, LaunchMany, PauseSchedule, Restore, RunSchedule
from master.index.index import Index
from master.jobs import service
from master.jobs.empty_queues import DEPTHS_SECS
from master.jobs.ledger import Ledger
from master.jobs.model import JobState
from master.jobs.requeue import SETTLE_MS
from master.jobs.service import Jobs
from tests.support import wait_for
from tests.unit.desk import NOW, token

ORDER = Order("a/b", {"number": 5})


class FakeLink:
    """Takes what is published; a test confirms it, and answers for the broker how much is in its queues."""

    def __init__(self) -> None:
        self.ready, self.problem = True, "the broker is away"
        self.jobs: list[tuple[str, bytes, Callable[[bool], None]]] = []
        self.messages: list[tuple[str, Any]] = []
        self.buried: list[str] = []
        self.counted: list[tuple[list[str], Callable[[dict[str, int]], None]]] = []

    def publish(self, queue: str, body: bytes, *, exchange: str = "", done: Any = None, **_: Any) -> None:
        if done:
            self.jobs.append((queue, body, done))
        elif exchange != topology.EVENTS:
            self.messages.append((queue, decode_any(body)))

    def bury(self, _delivery: Any, reason: str) -> None:
        self.buried.append(reason)

    def count(self, queues: list[str], done: Callable[[dict[str, int]], None]) -> None:
        self.counted.append((queues, done))

    def confirm(self) -> None:
        for _, _, done in self.jobs:
            done(True)
        self.jobs.clear()


class FakeCall:
    """A call of a web worker."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.replies: list[Any] = []

    def reply(self, data: Any) -> None:
        self.replies.append(data)

    def refuse(self, error: Refused) -> None:
        self.replies.append(type(error))


class Controller:
    """A controller that has nothing but jobs, with clocks of its own."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.clock, self.woken = NOW, time.monotonic() + 1_000, 0
        monkeypatch.setattr(service, "now_ms", lambda: self.now)
        config = settings.load(environ={"PULZAR_SERVER_DIR": str(directory), "PULZAR_JOBS_LEDGER_MAP": "64m"})
        self.index = Index(directory / "index", 64 << 20, write=True)
        self.link = FakeLink()
        self.jobs = Jobs(self.index, self.link, config, self.wake)  # type: ignore[arg-type]
        self.say(NodeCatalog("n1", "digest", [{"path": "a/b", "kind": "script"}]))

    @property
    def ledger(self) -> Ledger:
        return self.jobs._ledger

    def wake(self) -> None:
        self.woken += 1

    def say(self, *messages: Any) -> None:
        self.jobs.handle([], messages, {})

    def call(self, *requests: Any) -> list[list[Any]]:
        """The replies to each of these calls, as far as they are there at once."""
        calls = [FakeCall(request) for request in requests]
        self.jobs.handle(calls, [], {})  # type: ignore[arg-type]
        return [call.replies for call in calls]

    def launch(self, order: Order = ORDER, rhythm: tuple[str, int, bool] | None = None) -> list[Any]:
        return self.call(Launch(jobs.write(order), rhythm))[0]

    def beat(self, epoch: str = "e1", catalog: str = "digest", running: tuple[Any, ...] = ()) -> None:
        beat = Heartbeat("n1", "http://n:1", NOW, "", epoch, 1, 1, 1, 1, False, 0.0, 0.0, 0, 1, [*running], catalog)
        self.jobs.handle([], [], {"n1": beat})

    def state(self, number: int) -> JobState:
        with self.ledger.read() as view:
            job = view.job(number)
        assert job
        return job.state


@pytest.fixture
def controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    controller = Controller(tmp_path, monkeypatch)
    yield controller
    controller.jobs.close()
    controller.index.close()


def test_a_launch_is_published_with_its_id_and_gets_its_reply_when_the_broker_has_it(controller: Controller) -> None:
    replies = controller.launch()
    ((queue, body, _),) = controller.link.jobs
    assert (queue, replies) == (topology.jobs_queue("normal"), [])
    assert jobs.read(body, sealed=True) == ORDER._replace(id=1)
    controller.link.confirm()
    assert controller.woken == 1
    controller.say()
    assert replies == [(1, True)]
    controller.jobs.tick(True)
    assert controller.link.jobs == [], "it is confirmed"


@pytest.mark.parametrize(
    ("order", "refusal"),
    [
        (ORDER._replace(job="a/c"), NotFound),
        (ORDER._replace(options=Options(node="n9")), NotFound),
        (ORDER._replace(data="no/key"), NotFound),
    ],
)
def test_a_launch_that_no_node_can_carry_out_is_refused_and_nothing_is_kept(
    controller: Controller, order: Order, refusal: type[Refused]
) -> None:
    for rhythm in (None, ("minutes", 5, True)):
        assert controller.launch(order, rhythm) == [refusal]
    with controller.ledger.read() as view:
        assert (list(view.jobs()), list(view.due(NOW * 2))) == ([], [])
    assert controller.link.jobs == []


def test_a_refused_call_does_not_hinder_those_that_came_with_it(controller: Controller) -> None:
    unknown = ORDER._replace(job="a/c")
    requests = Launch(jobs.write(unknown), None), Cancel(7), Restore(None), Launch(jobs.write(ORDER), None)
    assert controller.call(*requests) == [[NotFound], [NotFound], [BadRequest], []]
    assert len(controller.link.jobs) == 1


def test_many_launches_have_a_reply_each_before_the_broker_has_their_messages(controller: Controller) -> None:
    # Given good and bad launches in one call
    again = Order("a/b", {"number": 1}, Options(unique="t"))
    other = again._replace(arguments={"number": 2})
    orders = [ORDER, Order("a/unknown", {}), again, other, again, ORDER]
    packed = [(jobs.write(order), None) for order in orders] + [(jobs.write(ORDER), ("hours", 1, True))]
    # When they come together, each has its reply at once
    ((rows,),) = controller.call(LaunchMany(packed, "somebody"))  # type: ignore[arg-type]
    assert [status for status, _ in rows] == [202, 404, 202, 409, 202, 202, 200]
    first, _, second, _, same, third, schedule = (said for _, said in rows)
    assert same == second
    assert len({first, second, third, schedule}) == 4
    assert "a/unknown" in rows[1][1]
    # And what was launched is in the ledger, under the name of who has launched it, and published once
    with controller.ledger.read() as view:
        assert [job.by for job in view.jobs()] == ["somebody"] * 3
    assert [jobs.unpack(body).id for _, body, _ in controller.link.jobs] == [first, second, third]
    # And the same launch again is told that the broker has it, once it has
    controller.link.confirm()
    ((rows,),) = controller.call(LaunchMany([(jobs.write(again), None)]))
    assert rows == [(200, second)]


def test_confirms_wake_the_controller_once_until_it_has_looked(controller: Controller) -> None:
    controller.launch()
    controller.launch()
    controller.link.confirm()
    assert controller.woken == 1
    controller.jobs.handle([], [], {})
    controller.launch()
    controller.link.confirm()
    assert controller.woken == 2


def test_without_the_broker_a_schedule_is_taken_and_a_job_is_not(controller: Controller) -> None:
    controller.link.ready = False
    assert controller.launch() == [Unavailable]
    assert controller.launch(rhythm=("minutes", 1, True)) == [(1, True)]
    controller.now += 60_000
    controller.jobs.tick(True)
    assert len(controller.link.jobs) == 1, "the link keeps it until the broker is back"


def test_the_same_launch_again_waits_for_the_same_confirm(controller: Controller) -> None:
    order = ORDER._replace(options=Options(unique="once"))
    first, second = controller.launch(order), controller.launch(order)
    assert (first, second, len(controller.link.jobs)) == ([], [], 1)
    controller.link.confirm()
    controller.say()
    assert first == second == [(1, True)]
    assert controller.launch(order) == [(1, True)], "it is confirmed already"
    assert controller.launch(order._replace(arguments={})) == [Conflict]


def test_a_schedule_is_paused_resumed_and_run_until_it_is_over(controller: Controller) -> None:
    controller.launch(rhythm=("minutes", 5, True))
    assert controller.call(PauseSchedule(1, True), PauseSchedule(1, False), PauseSchedule(1, False)) == [
        ["Schedule 1 is paused"],
        ["Schedule 1 goes on"],
        ["Schedule 1 is active already"],
    ]
    # The reply to a run waits for the broker, also that to the same call again
    first, second = controller.call(RunSchedule(1, "once"), RunSchedule(1, "once"))
    assert (first, second, len(controller.link.jobs)) == ([], [], 1)
    controller.link.confirm()
    controller.say()
    assert first == second == [(2, True)]
    assert controller.call(RunSchedule(1, "once"), RunSchedule(1, "twice")) == [[(2, True)], [Conflict]]
    controller.link.ready = False
    assert controller.call(RunSchedule(1, "")) == [[Unavailable]]
    assert controller.call(Cancel(1), PauseSchedule(1, True), PauseSchedule(2, True), RunSchedule(9, "")) == [
        ["Job 1 is not scheduled any more"],
        [Conflict],
        [NotFound],
        [NotFound],
    ]


def test_jobs_and_schedules_are_cancelled_once(controller: Controller) -> None:
    controller.launch()
    controller.launch(rhythm=("minutes", 5, True))
    assert controller.call(Cancel(1), Cancel(2), Cancel(1), Cancel(2), Cancel(3)) == [
        ["Job 1 cancelled"],
        ["Job 2 is not scheduled any more"],
        [Conflict],
        [Conflict],
        [NotFound],
    ]
    assert [message.id for queue, message in controller.link.messages if isinstance(message, Withdraw)] == [1]


def test_reports_of_a_node_are_applied_in_their_order(controller: Controller) -> None:
    controller.launch()
    claimed = Claimed(run=token(1), id=1, attempt=1, at=NOW, order=b"")
    controller.say(Reports("n1", [claimed]))
    assert controller.state(1) is JobState.RUNNING
    controller.say(Reports("n1", [Finished(token(1), 1, 1, RunEnd(RunState.COMPLETED, "", NOW, NOW + 1))]))
    assert controller.state(1) is JobState.COMPLETED


def test_what_the_broker_has_not_confirmed_is_published_again_as_soon_as_it_is_not_under_way(
    controller: Controller,
) -> None:
    controller.launch()
    controller.jobs.tick(True)
    assert len(controller.link.jobs) == 1, "it is under way"
    ((_, body, done),) = controller.link.jobs
    done(False)
    controller.link.ready = False
    controller.say()
    controller.jobs.tick(True)
    assert len(controller.link.jobs) == 1
    controller.link.ready = True
    controller.jobs.tick(True)
    assert [(queue, jobs.read(again, sealed=True)) for queue, again, _ in controller.link.jobs] == [
        (topology.jobs_queue("normal"), jobs.read(body, sealed=True))
    ] * 2


def test_a_node_that_starts_is_told_what_not_to_run_and_asked_for_a_catalog_that_is_not_known(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.launch()
    controller.call(Cancel(1))
    controller.link.messages.clear()
    controller.beat()
    assert controller.link.messages == [(topology.node_queue("n1"), Withdrawn([(1, 1)]))]
    controller.beat()
    assert len(controller.link.messages) == 1, "it is the same process"
    controller.beat("e2", "other")
    controller.beat("e2", "other")
    asked = [message for _, message in controller.link.messages if isinstance(message, AskCatalog)]
    assert len(asked) == 1, "once in a while"
    monkeypatch.setattr(service.time, "monotonic", lambda: controller.clock)
    controller.beat("e2", "other")
    asked = [message for _, message in controller.link.messages if isinstance(message, AskCatalog)]
    assert len(asked) == 2


def test_a_node_that_is_forgotten_has_no_scripts(controller: Controller) -> None:
    controller.jobs.forget("n1")
    assert controller.launch() == [NotFound]


def test_a_queue_that_is_found_empty_twice_is_filled_again(
    controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller.launch()
    controller.link.confirm()
    controller.say()
    controller.jobs.tick(True)
    controller.now += SETTLE_MS
    monkeypatch.setattr(service.time, "monotonic", lambda: controller.clock)
    for depths in ([3, 0], [0, 0]):
        # Given two replies of the broker
        for depth in depths:
            controller.clock += DEPTHS_SECS + 0.1
            controller.jobs.tick(False)
            queues, done = controller.link.counted[-1]
            assert topology.jobs_queue("normal") in queues
            done(dict.fromkeys(queues, depth))
        # When reports wait that are not handled yet, nothing is done
        assert controller.link.jobs == []
    controller.jobs.tick(True)
    assert len(controller.link.jobs) == 1


@pytest.mark.parametrize("back", [timedelta(), timedelta(hours=1), timedelta(days=365)])
def test_jobs_that_ended_long_ago_are_forgotten_also_after_the_local_clock_went_back(
    controller: Controller, back: timedelta
) -> None:
    controller.launch()
    controller.call(Cancel(1))
    controller.jobs.tick(True)
    controller.now += 90 * DAY_MS + 1
    (rhythm,) = controller.jobs._housekeeping.get_jobs()
    rhythm.next_run += back

    def forgotten() -> bool:
        controller.jobs.tick(True)
        with controller.ledger.read() as view:
            return view.job(1) is None

    wait_for(forgotten, what="the job to be forgotten")
