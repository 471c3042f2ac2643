"""The runs that go on: their inputs fetched, handed to the runner, ended when that is asked for."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from broker import logs
from broker.clock import now_ms
from broker.errors import SettingsError
from broker.messages.jobs import Order
from broker.messages.runs import RunState
from broker.settings import Settings
from jobs.errors import BadSecrets
from jobs.secret_file import SecretFile
from node.jobs.claims import Claim, Claims, Ended
from node.jobs.completion import Completion, Post
from node.jobs.inputs import Inputs, NoInput
from node.jobs.prefetch import Prefetch
from node.jobs.reports import Reporter
from node.jobs.slots import Slots
from node.runs.model import Outcome, Run, RunLimits, RunProgress
from node.runs.runner import Runner

log = logs.get(__name__)

TIDY_SECS = 5.0
_MOST_SPARES = 4


@dataclass
class _Run:
    claim: Claim
    order: Order
    path: Path | None = None  # of its input
    with_runner: bool = False


class ActiveRuns:
    """Of the thread of the node's jobs; `post` has something done on it."""

    def __init__(
        self,
        config: Settings,
        slots: int,
        claims: Claims,
        reporter: Reporter,
        settling: Completion,
        pulling: Slots,
        post: Post,
    ) -> None:
        """Raises `StorageError`, and `SettingsError` for a file of secrets that can't be used."""
        directory = Path(config.volume.dir) / "runs"
        self._claims = claims
        self._reporter = reporter
        self._settling = settling
        self._pulling = pulling
        self._post = post
        self._slots = slots
        self._pace = Prefetch(slots)
        self._timeout: float = config.jobs.timeout
        self._memory: int = config.jobs.memory
        self._runs: dict[str, _Run] = {}
        self._stopping = False
        self._tidy_at = 0.0
        self._inputs = Inputs(directory / "inputs", config)
        limits = RunLimits(
            config.jobs.log_limit,
            config.jobs.output_limit,
            config.jobs.grace,
            config.jobs.processes,
            min(slots, _MOST_SPARES),
            config.jobs.cache,
        )
        passed = config.jobs.environment
        missing = [name for name in passed if name not in os.environ]
        if missing:
            log.warning("variables of [jobs] environment are not set", names=", ".join(missing))
        try:
            secrets = SecretFile(config.jobs.secrets)
        except BadSecrets as error:
            raise SettingsError(f"[jobs] secrets: {error}") from error
        environment = os.environ | {"PULZAR_MASTER": f"http://{config.address(config.server)}"}
        scripts = Path(config.jobs.dir)
        self._runner = Runner(
            directory / "work", scripts, limits, environment, self._run_ended, self._progressed, passed, secrets
        )

    def start(self) -> None:
        """Begin; whatever the last process ran has ended then. Raises `SettingsError`."""
        self._runner.start()

    def stop(self, seconds: float) -> bool:
        """End all runs; whether they have ended within this time. Any thread may call this."""
        self._stopping = True
        stopper = threading.Thread(target=self._runner.stop, name="runner stop", daemon=True)
        stopper.start()
        stopper.join(seconds)
        return not stopper.is_alive()

    def lose(self, reason: str) -> None:
        """The runner is stopped: what still went on is lost."""
        for live in self._runs.values():
            self._settling.lost(live.claim, reason)
        self._runs.clear()

    def tick(self) -> None:
        """Do what time brings."""
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECS
            self._inputs.tidy()

    @property
    def free(self) -> int:
        """Slots in which nothing runs."""
        return self._slots - len(self._runs)

    def gave_back(self) -> None:
        """Jobs that were taken ahead of free slots had to be given back."""
        self._pace.gave_back()
        self._pulling.take_ahead(0)

    def begin(self, claim: Claim, order: Order) -> None:
        """Run a job that is claimed."""
        live = self._runs[claim.run] = _Run(claim, order)
        if order.data:
            threading.Thread(target=self._prepare, args=(live,), name="input", daemon=True).start()
        else:
            self._run(live)

    def withdraw(self, job: int, attempt: int, run: str, reason: str) -> None:
        """End the run with this name, or, where it is "", all runs of a job up to this attempt."""
        for live in list(self._runs.values()):
            claim = live.claim
            if claim.run == run or (not run and claim.id and claim.id == job and claim.attempt <= attempt):
                if live.with_runner:
                    self._runner.cancel(claim.run, reason)
                else:
                    self._end_unbegun(live, RunState.CANCELLED, reason)

    def _prepare(self, live: _Run) -> None:
        """Fetch the value that the job works on, on a thread of its own."""
        key = live.order.data
        try:
            path = self._inputs.fetch(key, lambda: live.claim.run in self._runs and not self._stopping)
        except Exception as error:
            if not isinstance(error, NoInput):
                log.exception("input could not be fetched", key=key)
            reason = str(error) or type(error).__name__
            self._post(partial(self._end_unbegun, live, RunState.FAILED, reason))
        else:
            self._post(partial(self._prepared, live, path))

    def _prepared(self, live: _Run, path: Path) -> None:
        if live.claim.run in self._runs and not self._stopping:
            live.path = path
            self._run(live)
        else:
            self._inputs.release(path)

    def _run(self, live: _Run) -> None:
        claim, order = live.claim, live.order
        timeout = order.options.timeout or self._timeout
        memory = order.options.memory_mb << 20 or self._memory
        path = str(live.path) if live.path else ""
        live.with_runner = True
        self._runner.run(
            Run(
                claim.run,
                claim.id,
                claim.attempt,
                order.job,
                order.arguments,
                path,
                order.data,
                timeout,
                memory,
                order.options.argv,
            )
        )

    def _end_unbegun(self, live: _Run, state: RunState, reason: str) -> None:
        """End a run that the runner never got."""
        if not self._stopping and live.claim.run in self._runs:
            del self._runs[live.claim.run]
            self._pulling.release()
            self._settle(live.claim, Ended(state, reason, live.claim.at, max(now_ms(), live.claim.at)))

    def _ended(self, outcome: Outcome) -> None:
        live = self._runs.pop(outcome.run.run)
        self._pace.ran((outcome.ended - live.claim.at) / 1000)
        self._pulling.take_ahead(self._pace.ahead)
        if live.path:
            self._inputs.release(live.path)
        if live.claim.run in self._claims.open:  # else nobody wants to know
            self._settling.ended(live.claim, outcome)

    def _settle(self, claim: Claim, ended: Ended) -> None:
        if claim.run in self._claims.open:
            self._settling.settle(claim, ended)

    # The runner's thread.

    def _run_ended(self, outcome: Outcome) -> None:
        self._pulling.release()
        self._post(partial(self._ended, outcome))

    def _progressed(self, progress: RunProgress) -> None:
        claim = self._claims.open.get(progress.run.run)
        if claim is not None and claim.id:
            self._reporter.progress(claim.id, progress)
