"""The controller's part in jobs: what clients ask for, what nodes report and what the clock brings goes into the
ledger, in one transaction for all that has come together; then what follows from it is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from broker import keys, logs, topology
from broker.clock import now_ms
from broker.link import Link
from broker.messages import jobs
from broker.messages.jobs import Order
from broker.messages.runs import AskCatalog, Claimed, Finished, NodeCatalog, Progress, Reports, Withdrawn
from broker.messages.store import Heartbeat
from broker.refusals import BadRequest, Conflict, NotFound, Refused, Unavailable
from broker.settings import Settings
from master.channel import Cancel, ControllerCall, Launch
from master.cluster.nodes import MISSED_HEARTBEATS
from master.index.index import Index
from master.jobs import routing, script_catalog, unique_tokens
from master.jobs.capacity import Capacity, CapacityLimits
from master.jobs.effect_runner import Attempt, EffectRunner
from master.jobs.effects import Action, Publish
from master.jobs.leases import Heard, Leases
from master.jobs.ledger import Ledger
from master.jobs.model import JobState, ScheduleState, lane
from master.jobs.requeue import Requeue
from master.jobs.routing import Load
from master.jobs.schedules import Rhythm, Schedules
from master.jobs.transitions import Transitions

log = logs.get(__name__)

Message = Reports | Progress | NodeCatalog

DEPTHS_SECS = 5.0  # between two looks for queues that somebody has emptied
PAUSE_SECS = 3.0  # between two ticks: after more than this, the process has stood still
DEAF_SECS = DEPTHS_SECS + 2.0  # since the broker has answered: after more than this, it stands still
_ASK_SECS = 3.0  # between two questions for the same catalog


class Jobs:
    """Of the controller; everything on its thread. `wake` has the controller call `handle` soon."""

    def __init__(self, index: Index, link: Link, config: Settings, wake: Callable[[], None]) -> None:
        self._index = index
        self._link = link
        self._silence = config.general.heartbeat * MISSED_HEARTBEATS
        self._ledger = Ledger(Path(config.server.dir) / "ledger", True, config.jobs.ledger_map)
        self._runs = Transitions(self._ledger, self._place, config.jobs.lost_attempts)
        self._waiting = Requeue(self._runs, config.general.retention_policy)
        self._room = Capacity(self._ledger, CapacityLimits.of(config))
        self._schedules = Schedules(self._runs, self._room)
        self._leases = Leases(self._runs, config.jobs.lease, time.monotonic())
        self._ticked = self._answered = time.monotonic()
        self._carrier = EffectRunner(
            link, config.secret(), config.jobs.data_wait, config.general.events, self._may_move, wake
        )
        self._safe: list[Attempt] = []  # confirmed, and not noted in the ledger yet
        self._beats: dict[str, Heartbeat] = {}
        self._heard: dict[str, Heard] = {}
        self._asked: dict[str, float] = {}  # node → when it was asked for its catalog
        self._looked = 0.0  # for empty queues
        self._depths: list[dict[str, int]] = []  # what the last two looks found, the newest last

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def forget(self, node: str) -> None:
        """A node is gone for good, and its scripts with it."""
        with self._transaction() as txn:
            script_catalog.forget(self._ledger, txn, node)

    def handle(
        self, calls: Sequence[ControllerCall], messages: Sequence[Message], beats: Mapping[str, Heartbeat]
    ) -> None:
        """Do what came together: questions of web workers, messages of nodes, their heartbeats."""
        self._safe += self._carrier.confirmed()
        for node, beat in beats.items():
            self._heartbeat(node, beat)
        if not calls and not messages:
            return
        now = now_ms()
        answers: list[tuple[ControllerCall, Any, Attempt | None]] = []
        actions: list[Action] = []
        with self._transaction() as txn:
            for message in messages:
                actions += self._message(txn, message, now)
            for call in calls:
                try:
                    data, awaited, todo = self._call(txn, call, now)
                except Refused as error:
                    answers.append((call, error, None))
                else:
                    answers.append((call, data, awaited))
                    actions += todo
            self._note_confirmed(txn, now)
        self._safe = []
        for call, data, awaited in answers:
            if isinstance(data, Refused):
                call.refuse(data)
            elif awaited:
                self._carrier.reply_when_confirmed(awaited, call)
            else:
                call.reply(data)
        self._carrier.carry_out(actions)

    def tick(self, quiet: bool) -> None:
        """Do what time brings. `quiet`: no message waits to be handled, so that what nodes say is known."""
        now, clock = now_ms(), time.monotonic()
        if not self._link.ready or clock - self._ticked > PAUSE_SECS or clock - self._answered > DEAF_SECS:
            # While the broker is away, or one of the two stands still, nobody is heard, and runs go on nevertheless.
            self._leases.begin_anew(clock)
        self._ticked = clock
        with self._transaction() as txn:
            self._note_confirmed(txn, now)
            # First, since what the others publish now is not under way yet.
            actions = self._waiting.unconfirmed(txn, self._carrier.under_way) if self._link.ready else []
            actions += self._schedules.tick(txn, now)
            actions += self._waiting.retries(txn, now)
            if quiet:
                actions += self._leases.check(txn, self._heard, clock, now)
                actions += self._waiting.emptied(txn, self._empty_lanes(), now)
                for node, heard in self._heard.items():
                    if self._leases.silent(heard, clock):
                        actions += self._waiting.stranded(txn, node, now)
            self._waiting.forget(txn, now)
        self._safe = []
        self._carrier.carry_out(actions)
        self._carrier.tick()
        self._look_for_empty_queues()

    def _transaction(self) -> Any:
        return _Transaction(self._ledger, self._schedules)

    def _note_confirmed(self, txn: Any, now: int) -> None:
        self._runs.confirmed(txn, self._safe, now)

    # What web workers ask.

    def _call(self, txn: Any, call: ControllerCall, now: int) -> tuple[Any, Attempt | None, list[Action]]:
        """The answer, the attempt whose confirm it waits for, and what is to be done."""
        match call.request:
            case Launch(order, rhythm):
                return self._launch(txn, order, rhythm, now)
            case Cancel(number):
                return self._cancel(txn, number, now)
        raise BadRequest(f"jobs have no {call.request}")

    def _launch(
        self, txn: Any, body: bytes, rhythm: Sequence[Any] | None, now: int
    ) -> tuple[tuple[int, bool], Attempt | None, list[Action]]:
        """The id, and whether all is done that is to be done at once: RabbitMQ has the message of a job."""
        order = jobs.read(body)
        script_catalog.check_known(self._ledger, txn, order)
        if order.data and self._index.get(keys.encode(order.data)) is None:
            raise NotFound(f"the key {order.data}, which the job shall work on, is unknown")
        if rhythm is not None:
            return (self._schedules.add(txn, order, Rhythm(*rhythm), now), True), None, []
        known = unique_tokens.known(self._ledger, txn, order)
        if known:
            return (known, True), self._unconfirmed(txn, known), []
        if not self._link.ready:
            raise Unavailable(f"no connection to RabbitMQ: {self._link.problem}")
        self._room.check_job(txn, order)
        (number,), actions = self._runs.launch(txn, [order], "rest", now)
        return (number, True), ((number, 1) if any(isinstance(one, Publish) for one in actions) else None), actions

    def _unconfirmed(self, txn: Any, number: int) -> Attempt | None:
        """The attempt at a job whose message the broker may not have yet; None when there is none."""
        job = self._ledger.job(txn, number)
        if job is None or job.state is not JobState.PENDING or not job.lane or job.confirmed:
            return None
        attempt = job.id, job.attempt
        return None if attempt in self._safe else attempt

    def _cancel(self, txn: Any, number: int, now: int) -> tuple[str, None, list[Action]]:
        job = self._ledger.job(txn, number)
        if job is not None:
            if job.state.final:
                raise Conflict(f"job {number} has ended already: {JobState(job.state).name.lower()}")
            message, actions = self._runs.cancel(txn, job, now)
            return message, None, actions
        schedule = self._ledger.schedule(txn, number)
        if schedule is None:
            raise NotFound(f"there is no job {number}")
        if schedule.state is not ScheduleState.ACTIVE:
            raise Conflict(f"job {number} is not scheduled any more")
        return self._schedules.cancel(txn, schedule, now), None, []

    # What nodes say.

    def _message(self, txn: Any, message: Message, now: int) -> list[Action]:
        if isinstance(message, Progress):
            self._runs.progress(txn, message)
            return []
        if isinstance(message, NodeCatalog):
            script_catalog.keep(self._ledger, txn, message)
            return []
        actions: list[Action] = []
        for item in message.items:
            if isinstance(item, Claimed):
                actions += self._runs.claimed(txn, message.node, item, now)
            elif isinstance(item, Finished):
                actions += self._runs.finished(txn, message.node, item, now)
            else:
                actions += self._runs.returned(txn, message.node, item, now)
        return actions

    def _heartbeat(self, node: str, beat: Heartbeat) -> None:
        before = self._beats.get(node)
        self._beats[node] = beat
        clock = time.monotonic()
        self._heard[node] = Heard(beat.running, clock)
        with self._ledger.begin() as txn:
            if before is None or before.epoch != beat.epoch:
                self._carrier.tell(node, Withdrawn(self._waiting.withdrawn(txn, node)))
            if (
                script_catalog.digest(self._ledger, txn, node) != beat.catalog
                and clock - self._asked.get(node, 0) > _ASK_SECS
            ):
                self._asked[node] = clock
                self._carrier.tell(node, AskCatalog("it is not known here"))

    def _place(self, txn: Any, order: Order, without: Collection[str]) -> str | None:
        """Where a job goes, see `catalog.choose`."""
        having = script_catalog.nodes_with(self._ledger, txn, order.job)
        entry = self._index.get(keys.encode(order.data)) if order.data else None
        waiting = {node: self._ledger.waiting_on(txn, node) for node in having}
        return routing.choose(order, having, self._loads(), {entry.node} if entry else (), waiting, without)

    def _may_move(self, order: Order) -> bool:
        with self._ledger.begin() as txn:
            return routing.may_move(order, script_catalog.nodes_with(self._ledger, txn, order.job), self._loads())

    def _loads(self) -> dict[str, Load]:
        clock = time.monotonic()
        return {
            node: Load(clock - self._heard[node].at < self._silence, beat.slots, len(beat.running))
            for node, beat in self._beats.items()
        }

    # Queues that somebody has emptied.

    def _lanes(self) -> dict[str, tuple[str, ...]]:
        """Lanes of the ledger and the queues they stand for."""
        lanes: dict[str, tuple[str, ...]] = {
            lane("", priority): (topology.jobs_queue(priority),) for priority in jobs.PRIORITIES
        }
        own = {lane(node, ""): (topology.node_jobs_queue(node), topology.node_data_queue(node)) for node in self._beats}
        return lanes | own

    def _look_for_empty_queues(self) -> None:
        clock = time.monotonic()
        if clock - self._looked > DEPTHS_SECS:
            self._looked = clock
            self._link.count([name for queues in self._lanes().values() for name in queues], self._counted)

    def _counted(self, depths: dict[str, int]) -> None:
        """The broker has answered; on the link's thread."""
        self._depths.append(depths)
        self._answered = time.monotonic()

    def _empty_lanes(self) -> list[str]:
        """Lanes whose queue was empty at the last two looks."""
        if len(self._depths) < 2:
            return []
        before, last = self._depths[-2:]
        del self._depths[:-1]
        return [
            name
            for name, queues in self._lanes().items()
            if all(before.get(queue) == 0 and last.get(queue) == 0 for queue in queues)
        ]


class _Transaction:
    """A transaction of the ledger. When it fails, what is kept in memory of it is made anew."""

    def __init__(self, ledger: Ledger, schedules: Schedules) -> None:
        self._schedules = schedules
        self._txn = ledger.begin(write=True)

    def __enter__(self) -> Any:
        return self._txn.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:
            self._schedules.forget_timers()
        self._txn.__exit__(kind, error, trace)
