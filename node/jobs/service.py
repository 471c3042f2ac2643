"""Jobs on this node. `intake.py` claims what comes, `live.py` has it run, `settling.py` reports what became of it.

A thread of its own takes all that has happened, makes the claims among it durable with one flush, and only then has
the broker told and the runs begun. On the link's thread nothing is done but handing over and acknowledging.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from broker import logs
from broker.link import Link
from broker.messages.runs import Named, Withdraw, Withdrawn
from broker.settings import Settings
from node.jobs.active_runs import ActiveRuns
from node.jobs.artifacts import Artifacts
from node.jobs.catalog import Catalog
from node.jobs.claims import Claims
from node.jobs.completion import Completion, Keep
from node.jobs.intake import Intake
from node.jobs.reports import Reporter

log = logs.get(__name__)

STOP_SECS = 5.5  # for runs to end when the agent stops
LAST_SECS = 1.0  # for what is to be said of them
MOST_RUNNING = 2_000  # runs named in a heartbeat
_TICK_SECS = 0.5


class Jobs:
    """Of the agent. Made before the link is started; any thread may call it, but for `work_link`."""

    def __init__(self, config: Settings, node: str, link: Link, keep: Keep) -> None:
        """`keep` has stores applied and calls back with their results. Raises `StorageError`."""
        self.slots: int = config.jobs.slots or os.cpu_count() or 1
        self.catalog = Catalog(Path(config.jobs.dir).absolute())
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._connected = False
        self._end_at = 0.0  # when this ends, whatever there is still to say; 0: it goes on
        self._done = False
        post = self._events.put
        reporter = Reporter(node, link)
        self._claims = Claims(Path(config.volume.dir) / "runs")
        self._settling = Completion(self._claims, Artifacts(node, config), reporter, keep, post)
        self._intake = Intake(
            node, self.slots, link, config.secret(), self.catalog, self._claims, reporter, self._settling, post
        )
        self._live = ActiveRuns(config, self.slots, self._claims, reporter, self._settling, self._intake.pulling, post)

    def start(self) -> None:
        """Begin; raises `SettingsError` when the data directory can't be used for runs."""
        self._live.start()
        self._settle_old()
        self._thread.start()

    def stop(self) -> None:
        """Take no more jobs, end the runs, say that they are lost; takes up to `STOP_SECS` + `LAST_SECS`."""
        self._intake.close()
        ended = self._live.stop(STOP_SECS)
        self._events.put(partial(self._end, ended))
        self._thread.join(2 * LAST_SECS)

    def running(self) -> list[tuple[str, int, int]]:
        """Run, id and attempt of all that the broker has no final report of; those first that still run."""
        claims = sorted(self._claims.open.values(), key=lambda claim: claim.ended is not None)
        return [(claim.run, claim.id, claim.attempt) for claim in claims[:MOST_RUNNING]]

    # The link's thread.

    def link_up(self) -> None:
        """There is a connection again."""
        self._events.put(self._now_connected)

    def link_down(self) -> None:
        """There is none any more."""
        self._connected = False
        self._events.put(self._intake.disconnected)

    def work_link(self) -> None:
        """Acknowledge, and take jobs for free slots."""
        self._intake.pulling.work()

    def told(self, message: Named | Withdrawn | Withdraw) -> None:
        """The master has said something about runs."""
        match message:
            case Named():
                self._events.put(partial(self._settling.named, message))
            case Withdrawn():
                self._events.put(partial(self._intake.withdrawn, message))
            case Withdraw():
                self._events.put(partial(self._withdraw, message))

    # The thread of this.

    def _work(self) -> None:
        while not self._done:
            for event in [*self._wait(), self._flush, self._tick]:
                try:
                    event()
                except Exception:
                    # One job is not to stop all others.
                    log.exception("something about jobs failed")
        self._claims.close()

    def _wait(self) -> list[Callable[[], None]]:
        events = []
        try:
            until = min(self._intake.next_due - time.monotonic(), _TICK_SECS)
            events.append(self._events.get(timeout=max(0.001, until)))
            while True:
                events.append(self._events.get_nowait())
        except queue.Empty:
            if not events:
                self._claims.sync()  # nobody waits for that
        return events

    def _flush(self) -> None:
        """Make durable and known what this turn has brought, then begin the runs."""
        claimed = self._intake.claim(self._live.free)
        if self._intake.give_back_ahead():
            self._live.gave_back()
        self._claims.flush()
        self._settling.send()
        for claim, order in claimed:
            self._live.begin(claim, order)

    def _tick(self) -> None:
        self._intake.tick()
        self._live.tick()
        self._settling.tick(self._connected)
        self._done = bool(self._end_at) and (self._settling.idle or time.monotonic() >= self._end_at)

    def _now_connected(self) -> None:
        self._connected = True
        self._intake.connected()
        self._settling.ask()

    def _withdraw(self, message: Withdraw) -> None:
        if message.id and not message.run:
            self._intake.withdraw(message.id, message.attempt)
        self._live.withdraw(message.id, message.attempt, message.run, message.reason)
        claim = self._claims.open.get(message.run)
        if claim is not None and not message.id and not claim.id:
            self._claims.drop(claim)  # nobody will ever name it

    def _settle_old(self) -> None:
        """Whatever the last process ran has ended with it."""
        for claim in list(self._claims.open.values()):
            if claim.by_hand and not claim.taken:
                self._intake.expect_again(claim)
            if not claim.ended:
                self._settling.lost(claim, "the node's agent was started again")
            elif claim.id:
                self._settling.resume(claim)

    def _end(self, ended: bool) -> None:
        """The runner is stopped. A run that goes on nevertheless is killed when this process ends, and lost at its next start."""
        if ended:
            self._live.lose("the node was stopped")
        self._end_at = time.monotonic() + LAST_SECS
