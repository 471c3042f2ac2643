"""Jobs in the controller: calls of clients, reports of nodes and the clock.

What has come together goes into the ledger in one transaction. The effects are carried out after its commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import schedule

from broker import keys, logs
from broker.clock import now_ms
from broker.link import Link
from broker.messages import jobs
from broker.messages.runs import AskCatalog, Claimed, Finished, NodeCatalog, Progress, Reports, Withdrawn
from broker.messages.store import Heartbeat
from broker.refusals import BadRequest, Conflict, NotFound, Refused, Unavailable
from broker.settings import Settings
from master.channel import Cancel, ControllerCall, Launch, LaunchMany, PauseSchedule, RunSchedule
from master.cluster.nodes import MISSED_HEARTBEATS
from master.index.index import Index
from master.jobs import script_catalog, unique_tokens
from master.jobs.capacity import Capacity, CapacityLimits
from master.jobs.effect_runner import EffectRunner
from master.jobs.effects import Effect, Publish
from master.jobs.empty_queues import EmptyQueues
from master.jobs.leases import LastHeartbeat, Leases
from master.jobs.ledger import Ledger, LedgerTables, LedgerView
from master.jobs.model import AttemptId, JobState, Rhythm, Schedule, arguments_text
from master.jobs.requeue import Requeue
from master.jobs.routing import Load, Router
from master.jobs.schedules import Schedules
from master.jobs.timers import Timers
from master.jobs.transitions import Transitions

log = logs.get(__name__)

Message = Reports | Progress | NodeCatalog

PAUSE_SECS = 3.0  # between two ticks: after more than this, the process has stood still
_ASK_SECS = 3.0  # between two questions for the same catalog
_SAFE, _DURABLE = 200, 202  # a job of many: RabbitMQ has its message or needs none; only the ledger has it for sure


class _Launched(NamedTuple):
    """What came of a launch, as in `_Outcome`."""

    data: tuple[int, bool]  # the id of the job, True
    effects: Sequence[Effect] = ()
    awaited: AttemptId | None = None


class _Outcome(NamedTuple):
    """What came of a call."""

    data: object  # for the reply
    effects: Sequence[Effect] = ()
    awaited: AttemptId | None = None  # the reply waits until the broker has confirmed this


class Jobs:
    """The controller's part in jobs; everything is called on its thread."""

    def __init__(
        self, index: Index, link: Link, config: Settings, wake: Callable[[], None], *, queue: str = ""
    ) -> None:
        """`wake` has the controller call `handle` soon.

        `queue`: name of the token that jobs act for which were published by hand.
        """
        self._index = index
        self._link = link
        self._silence = config.general.heartbeat * MISSED_HEARTBEATS
        self._ledger = Ledger(Path(config.server.dir) / "ledger", True, config.jobs.ledger_map)
        router = Router(index, self._loads, config.jobs.data_wait)
        self._transitions = Transitions(router, config.jobs.lost_attempts, queue)
        self._requeue = Requeue(self._transitions, config.general.retention_policy)
        self._capacity = Capacity(CapacityLimits.of(config))
        self._schedules = Schedules(self._transitions, self._capacity)
        self._timers = Timers(self._transitions, self._schedules)
        self._leases = Leases(self._transitions, config.jobs.lease, time.monotonic())
        self._effect_runner = EffectRunner(link, config.secret(), wake)
        self._empty_queues = EmptyQueues(link)
        self._housekeeping = schedule.Scheduler()
        self._ticked = time.monotonic()
        self._safe: list[AttemptId] = []  # confirmed, and not noted in the ledger yet
        with self._ledger.read() as view:
            self.events = view.events()  # new states of jobs, the oldest first, with their numbers
            self.newest_event = view.newest_event()  # its number
        self._told = self._dropped = 0  # up to which number the index has them, and the ledger has forgotten them
        self._heartbeats: dict[str, Heartbeat] = {}  # by node, like the next two
        self._heard: dict[str, LastHeartbeat] = {}
        self._asked: dict[str, float] = {}  # when it was asked for its catalog
        self._known_loads: dict[str, Load] | None = None  # since `handle` or `tick` was called

    @property
    def ledger(self) -> Ledger:
        """The ledger, whose copies any thread may make."""
        return self._ledger

    def told(self, until: int) -> None:
        """The index has the events up to this number: the ledger forgets them in its next transaction."""
        self._told = until
        self.events = [row for row in self.events if row[0] > until]

    def _drop_told(self, tables: LedgerTables) -> None:
        if self._told > self._dropped:
            tables.drop_events(self._told)
            self._dropped = self._told

    def close(self) -> None:
        """Close the ledger."""
        self._ledger.close()

    def forget(self, node: str) -> None:
        """Forget the scripts of a node that is gone for good."""
        with self._ledger.write() as tables:
            tables.remove_catalog(node)

    def handle(
        self, calls: Sequence[ControllerCall], messages: Sequence[Message], heartbeats: Mapping[str, Heartbeat]
    ) -> None:
        """Handle what came together: calls of web workers, messages of nodes, their heartbeats by node."""
        self._known_loads = None
        self._safe += self._effect_runner.confirmed()
        for node, heartbeat in heartbeats.items():
            self._heartbeat(node, heartbeat)
        if not calls and not messages:
            return
        now = now_ms()
        outcomes: list[tuple[ControllerCall, _Outcome | Refused]] = []
        effects: list[Effect] = []
        with self._ledger.write() as tables:
            self._drop_told(tables)
            for message in messages:
                effects += self._message(tables, message, now)
            for call in calls:
                try:
                    outcomes.append((call, self._call(tables, call, now)))
                except Refused as error:
                    outcomes.append((call, error))
            self._transitions.confirmed(tables, self._safe, now)
        self.events += tables.told
        self._safe = []
        for call, outcome in outcomes:
            if isinstance(outcome, Refused):
                call.refuse(outcome)
                continue
            effects += outcome.effects
            if outcome.awaited:
                self._effect_runner.reply_when_confirmed(outcome.awaited, call)
            else:
                call.reply(outcome.data)
        self._effect_runner.carry_out(effects)

    def tick(self, quiet: bool) -> None:
        """Do what time brings. `quiet`: no message waits to be handled, so that all reports of nodes are known."""
        self._known_loads = None
        now, clock = now_ms(), time.monotonic()
        if not self._link.ready or clock - self._ticked > PAUSE_SECS or self._empty_queues.deaf(clock):
            # While the broker is away, or one of the two stands still, nobody is heard, and runs go on nevertheless.
            self._leases.begin_anew(clock)
        self._ticked = clock
        with self._ledger.write() as tables:
            self._drop_told(tables)
            self._transitions.confirmed(tables, self._safe, now)
            # First, since what the others publish now is not under way yet.
            effects = self._requeue.unconfirmed(tables, self._effect_runner.under_way) if self._link.ready else []
            effects += self._timers.tick(tables, now)
            if quiet:
                effects += self._leases.check(tables, self._heard, clock, now)
                effects += self._requeue.emptied(tables, self._empty_queues.lanes(self._heartbeats), now)
                for node, heartbeat in self._heard.items():
                    if self._leases.silent(heartbeat, clock):
                        effects += self._requeue.stranded(tables, node, now)
        self.events += tables.told
        self._safe = []
        self._effect_runner.carry_out(effects)
        self._effect_runner.tick()
        self._empty_queues.ask(self._heartbeats, clock)
        self._keep_house()

    def _keep_house(self) -> None:
        """Do what the housekeeping's rhythm says. Its clock has local time: when that went back, it begins anew."""
        idle = self._housekeeping.idle_seconds
        if idle is None or idle > 1:
            self._housekeeping.clear()
            self._housekeeping.every().second.do(self._forget_old)
        self._housekeeping.run_pending()

    def _forget_old(self) -> None:
        """Forget jobs and schedules that ended long ago, some at a time."""
        with self._ledger.read() as view:
            old = self._requeue.forgettable(view, now_ms())
        if old:
            with self._ledger.write() as tables:
                for number in old:
                    tables.remove(number)
            log.info("old jobs forgotten", jobs=len(old))

    # Calls of web workers.

    def _call(self, tables: LedgerTables, call: ControllerCall, now: int) -> _Outcome:
        match call.request:
            case Launch():
                return _Outcome(*self._launch(tables, call.request, now))
            case LaunchMany():
                return self._launch_many(tables, call.request, now)
            case Cancel(number):
                return self._cancel(tables, number, now)
            case PauseSchedule(number, pause):
                schedule = self._schedule(tables, number)
                if pause:
                    return _Outcome(self._schedules.pause(tables, schedule))
                return _Outcome(self._schedules.resume(tables, schedule, now))
            case RunSchedule(number, unique):
                return self._run_schedule(tables, number, unique, now)
        raise BadRequest(f"jobs have no {call.request}")

    def _launch(self, tables: LedgerTables, launch: Launch, now: int) -> _Launched:
        """Launch or schedule a job, which the web worker has checked and packed.

        Data of the reply: the id, and whether RabbitMQ has the job's message.
        """
        order = jobs.unpack(launch.order)
        script_catalog.check_known(tables, order)
        if order.data and self._index.get(keys.encode(order.data)) is None:
            raise NotFound(f"the key {order.data}, the job's pulzar_data, is unknown")
        if launch.rhythm is not None:
            return _Launched((self._schedules.add(tables, order, Rhythm(*launch.rhythm), now, launch.by), True))
        known = unique_tokens.known(tables, order)
        if known:
            return _Launched((known, True), awaited=self._unconfirmed(tables, known))
        if not self._link.ready:
            raise Unavailable(f"no connection to RabbitMQ: {self._link.problem}")
        arguments = arguments_text(order.arguments)
        self._capacity.check_job(tables, arguments)
        number, effects = self._transitions.launch(tables, order, "rest", now, arguments=arguments, by=launch.by)
        published = any(isinstance(effect, Publish) for effect in effects)
        packed = [effect._replace(packed=launch.order) if isinstance(effect, Publish) else effect for effect in effects]
        return _Launched((number, True), packed, AttemptId(number, 1) if published else None)

    def _launch_many(self, tables: LedgerTables, launches: LaunchMany, now: int) -> _Outcome:
        """Launch each job as if it came alone; the reply does not wait for RabbitMQ."""
        replies: list[tuple[int, object]] = []
        effects: list[Effect] = []
        for order, rhythm in launches.orders:
            try:
                (number, _), more, awaited = self._launch(tables, Launch(order, rhythm, launches.by), now)
            except Refused as error:
                replies.append((error.status, str(error)))
                continue
            effects += more
            replies.append((_SAFE if awaited is None else _DURABLE, number))
        return _Outcome(replies, effects)

    def _unconfirmed(self, view: LedgerView, number: int) -> AttemptId | None:
        """The attempt at a job whose message the broker may not have yet; None when there is none."""
        job = view.job(number)
        if job is None or job.state is not JobState.PENDING or not job.lane or job.confirmed:
            return None
        return None if job.attempt_id in self._safe else job.attempt_id

    def _cancel(self, tables: LedgerTables, number: int, now: int) -> _Outcome:
        job, timed = tables.job(number), tables.schedule(number)
        if job is not None:
            if job.state.final:
                raise Conflict(f"job {number} has ended already: {job.state.name.lower()}")
            return _Outcome(*self._transitions.cancel(tables, job, now))
        if timed is None:
            raise NotFound(f"there is no job {number}")
        if timed.over:
            raise Conflict(f"job {number} is not scheduled any more")
        return _Outcome(self._schedules.cancel(tables, timed, now))

    def _schedule(self, view: LedgerView, number: int) -> Schedule:
        """A schedule that is not over."""
        found = view.schedule(number)
        if found is None:
            raise NotFound(f"there is no schedule {number}; GET /admin/scheduled_jobs lists those there are")
        if found.over:
            raise Conflict(f"schedule {number} is over: {found.state.name.lower()}")
        return found

    def _run_schedule(self, tables: LedgerTables, number: int, unique: str, now: int) -> _Outcome:
        schedule = self._schedule(tables, number)
        if not self._link.ready:
            raise Unavailable(f"no connection to RabbitMQ: {self._link.problem}")
        launched = self._schedules.run(tables, schedule, unique, now)
        if not launched.effects:
            return _Outcome((launched.id, True), awaited=self._unconfirmed(tables, launched.id))
        published = any(isinstance(effect, Publish) for effect in launched.effects)
        return _Outcome((launched.id, True), launched.effects, AttemptId(launched.id, 1) if published else None)

    # Messages of nodes.

    def _message(self, tables: LedgerTables, message: Message, now: int) -> list[Effect]:
        if isinstance(message, Progress):
            self._transitions.progress(tables, message)
            return []
        if isinstance(message, NodeCatalog):
            tables.save_catalog(message)
            return []
        effects: list[Effect] = []
        for item in message.items:
            if isinstance(item, Claimed):
                effects += self._transitions.claimed(tables, message.node, item, now)
            elif isinstance(item, Finished):
                effects += self._transitions.finished(tables, message.node, item, now)
            else:
                effects += self._transitions.returned(tables, message.node, item, now)
        return effects

    def _heartbeat(self, node: str, heartbeat: Heartbeat) -> None:
        before = self._heartbeats.get(node)
        self._heartbeats[node] = heartbeat
        clock = time.monotonic()
        self._heard[node] = LastHeartbeat(heartbeat.running, clock)
        with self._ledger.read() as view:
            if before is None or before.epoch != heartbeat.epoch:
                self._effect_runner.tell(node, Withdrawn([*self._requeue.withdrawn(view, node)]))
            known = view.catalog_digest(node) == heartbeat.catalog
        if not known and clock - self._asked.get(node, 0) > _ASK_SECS:
            self._asked[node] = clock
            self._effect_runner.tell(node, AskCatalog("it is not known here"))

    def _loads(self) -> dict[str, Load]:
        if self._known_loads is None:
            clock = time.monotonic()
            self._known_loads = {
                node: Load(clock - self._heard[node].received < self._silence, heartbeat.slots, len(heartbeat.running))
                for node, heartbeat in self._heartbeats.items()
            }
        return self._known_loads
