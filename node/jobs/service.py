"""Jobs on this node: `intake.py` claims them, `active_runs.py` runs them, `completion.py` reports how they ended.

The jobs thread takes all events that have come and makes the claims among them durable with one flush. Only then it
acknowledges the jobs and begins their runs. The link's thread only hands over and acknowledges.
"""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

from broker import logs
from broker.link import Link
from broker.messages.runs import Named, Withdraw, Withdrawn
from broker.settings import Settings
from node.jobs.active_runs import ActiveRuns
from node.jobs.artifacts import ArtifactStore
from node.jobs.catalog import Catalog
from node.jobs.claims import Claims
from node.jobs.completion import Completion, StoreValues
from node.jobs.context import JobContext
from node.jobs.event_queue import Event, EventQueue
from node.jobs.intake import Intake
from node.jobs.job_ids import JobIds
from node.jobs.reports import Reporter, ReportQueue
from node.runs.zygotes.demand import Demand

log = logs.get(__name__)

STOP_SECS = 5.5  # for runs to end when the agent stops
LAST_SECS = 1.0  # for their reports to be sent
MOST_RUNNING = 2_000  # runs named in a heartbeat
_TICK_SECS = 0.5


class Jobs:
    """The jobs of a node. Made before the link is started; any thread may call it, but for `work_link`."""

    def __init__(self, config: Settings, node: str, link: Link, store_values: StoreValues) -> None:
        """Raises `StorageError`, and `SettingsError` for a file of secrets that can't be used."""
        self.slots: int = config.jobs.slots or os.cpu_count() or 1
        demand = Demand(config.jobs.preload)
        self.catalog = Catalog(Path(config.jobs.dir).absolute(), demand)
        self._events = EventQueue()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._connected = False
        self._end_at: float | None = None  # when the thread ends, whatever is still to be sent
        self._claims = Claims(Path(config.volume.dir) / "runs")
        reporter = Reporter(node, link)
        self._reports = ReportQueue(reporter, self._claims, self._events)
        context = JobContext(
            config,
            node,
            self.slots,
            link,
            events=self._events,
            claims=self._claims,
            reporter=reporter,
            reports=self._reports,
        )
        self._completion = Completion(context, ArtifactStore(node, config), store_values)
        self._job_ids = JobIds(context, self._completion)
        self._intake = Intake(context, self.catalog)
        self._active_runs = ActiveRuns(context, self._completion, self._intake.slots, demand)

    def start(self) -> None:
        """Begin; raises `SettingsError` when the data directory can't be used for runs."""
        self._active_runs.start()
        self._end_old_runs()
        self._thread.start()

    def stop(self) -> None:
        """Take no more jobs, end the runs, report that they are lost; takes up to `STOP_SECS` + 2 * `LAST_SECS`."""
        self._intake.close()
        ended = self._active_runs.stop(STOP_SECS)
        self._events.put(self._end, ended)
        self._thread.join(2 * LAST_SECS)

    def running(self) -> list[tuple[str, int, int]]:
        """Run, id and attempt of all runs without a final report; those first that still run."""
        claims = sorted(self._claims.open.values(), key=lambda claim: claim.result is not None)
        return [(claim.run, claim.id, claim.attempt) for claim in claims[:MOST_RUNNING]]

    @property
    def fence(self) -> str:
        """What keeps runs apart from the rest of the machine, in one word each; "" for nothing."""
        return self._active_runs.fenced

    # On the link's thread.

    def link_up(self) -> None:
        """Note that there is a connection again."""
        self._events.put(self._link_came_up)

    def link_down(self) -> None:
        """Note that there is no connection any more."""
        self._connected = False
        self._events.put(self._intake.link_down)

    def work_link(self) -> None:
        """Acknowledge, and take jobs for free slots."""
        self._intake.slots.work()

    def told(self, message: Named | Withdrawn | Withdraw) -> None:
        """Handle what the master says about runs."""
        match message:
            case Named():
                self._events.put(self._job_ids.named, message)
            case Withdrawn():
                self._events.put(self._intake.withdrawn, message)
            case Withdraw():
                self._events.put(self._withdraw, message)

    # On the jobs thread.

    def _work(self) -> None:
        while not self._is_over():
            due = min(self._intake.next_due, self._reports.due, self._completion.due)
            events = self._events.take(min(max(0.001, due - time.monotonic()), _TICK_SECS))
            if not events and due == math.inf:
                self._claims.sync()  # nobody waits for that
            for event in [*events, Event(self._finish_turn), Event(self._tick)]:
                try:
                    event.function(*event.arguments)
                except Exception:  # one job must not stop all others
                    log.exception("job event failed", handler=event.function.__qualname__)
        self._claims.close()

    def _finish_turn(self) -> None:
        """Make durable and send what the events have brought, then begin the runs."""
        claimed = self._intake.claim(self._active_runs.free)
        if self._intake.give_back_ahead():
            self._active_runs.gave_back()
        # While jobs wait here there is more to come, and it costs less together.
        more = self._intake.waiting
        self._completion.store(more)
        self._claims.flush()
        self._reports.send(more)
        self._intake.slots.settle(more)
        for claim, order in claimed:
            self._active_runs.begin(claim, order)

    def _tick(self) -> None:
        self._intake.tick()
        self._active_runs.tick()
        self._reports.tick()
        if self._connected:
            self._job_ids.tick()

    def _is_over(self) -> bool:
        return self._end_at is not None and (self._completion.idle or time.monotonic() >= self._end_at)

    def _link_came_up(self) -> None:
        self._connected = True
        self._intake.link_up()
        self._job_ids.ask_now()

    def _withdraw(self, message: Withdraw) -> None:
        if message.id and not message.run:
            self._intake.withdraw(message.id, message.attempt)
        self._active_runs.withdraw(message)
        claim = self._claims.open.get(message.run)
        if claim is not None and not message.id and not claim.id:
            self._claims.drop(claim)  # nobody will ever name it

    def _end_old_runs(self) -> None:
        """End what the last process ran: it has ended with that process."""
        for claim in list(self._claims.open.values()):
            if claim.by_hand and not claim.acknowledged:
                self._intake.expect_again(claim)
            if not claim.result:
                self._completion.lose(claim, "the node's agent was started again")
            elif claim.id:
                self._completion.report(claim)

    def _end(self, ended: bool) -> None:
        """End this thread soon. `ended`: the runner has stopped, else its runs are killed with this process."""
        if ended:
            self._active_runs.lose("the node was stopped")
        self._end_at = time.monotonic() + LAST_SECS
