"""The runs that go on: their inputs are fetched, the runner gets them, and they end when that is asked for."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from broker import logs
from broker.errors import SettingsError
from broker.http import signing
from broker.messages.jobs import Order
from broker.messages.runs import RunState, Withdraw
from jobs.errors import BadSecrets
from jobs.secret_file import SecretFile
from node.jobs.claims import Claim
from node.jobs.completion import Completion
from node.jobs.context import JobContext
from node.jobs.inputs import Inputs, NoInput
from node.jobs.prefetch import Prefetch
from node.jobs.slots import Slots
from node.runs.fence import plan
from node.runs.model import Outcome, Run, RunLimits, RunProgress
from node.runs.runner import Runner
from node.runs.zygotes.demand import Demand
from node.runs.zygotes.fleet import Limits

log = logs.get(__name__)

TIDY_SECS = 5.0  # between two looks for copies of inputs that nobody uses
_MOST_SPARES = 4


@dataclass
class _ClaimedRun:
    """A claimed job that runs, or waits for its input."""

    claim: Claim
    order: Order
    path: Path | None = None  # of its input
    with_runner: bool = False


class ActiveRuns:
    """Begins claimed runs and ends them. Used on the jobs thread."""

    def __init__(self, context: JobContext, completion: Completion, slots: Slots, demand: Demand | None = None) -> None:
        """Raises `StorageError`, and `SettingsError` for a file of secrets that can't be used."""
        config = context.config
        directory = Path(config.volume.dir) / "runs"
        self._claims = context.claims
        self._reporter = context.reporter
        self._events = context.events
        self._completion = completion
        self._slots = slots
        self._slot_count = context.slot_count
        self._prefetch = Prefetch(context.slot_count)
        self._timeout: float = config.jobs.timeout  # s
        self._memory: int = config.jobs.memory  # bytes
        self._runs: dict[str, _ClaimedRun] = {}  # by token
        self._stopping = False
        self._demand = demand or Demand()
        self._ahead: list[tuple[str, ...]] = []
        self._tidy_at = 0.0
        self._secret, self._tokens = config.secret(), bool(config.security.tokens)
        self._inputs = Inputs(directory / "inputs", config, context.node)
        missing = [name for name in config.jobs.environment if name not in os.environ]
        if missing:
            log.warning("variables of [jobs] environment are not set", names=", ".join(missing))
        fence = plan.of(config)
        try:
            plan.open_way(Path(config.volume.dir), fence.group)
        except OSError as error:
            raise SettingsError(f"{config.volume.dir} can't be opened for [jobs] user: {error.strerror}") from error
        self._runner = Runner(
            directory / "work",
            Path(config.jobs.dir),
            RunLimits(
                log=config.jobs.log_limit,
                output=config.jobs.output_limit,
                grace=config.jobs.grace,
                processes=config.jobs.processes,
                spares=min(context.slot_count, _MOST_SPARES),
                cache=config.jobs.cache,
                fence=fence,
                workers=context.slot_count,
                zygotes=Limits(config.jobs.preload_zygotes, config.jobs.preload_memory),
            ),
            environment=os.environ
            | {"PULZAR_MASTER": config.url(config.server), "PULZAR_SECURITY_CA": config.security.ca},
            passed=config.jobs.environment,
            secrets=_secret_file(config.jobs.secrets),
            on_end=self._run_ended,
            on_progress=self._progressed,
            on_left_out=self._demand.leave_out,
        )

    @property
    def fenced(self) -> str:
        """What keeps runs apart from the rest of the machine, in one word each."""
        return " ".join(self._runner.fenced)

    def start(self) -> None:
        """Start the runner, which ends what the last process ran; raises `SettingsError`."""
        self._runner.start()

    def stop(self, seconds: float) -> bool:
        """End all runs; whether they have ended within this time. Thread-safe."""
        self._stopping = True
        stopper = threading.Thread(target=self._runner.stop, name="runner stop", daemon=True)
        stopper.start()
        stopper.join(seconds)
        return not stopper.is_alive()

    def lose(self, reason: str) -> None:
        """End as lost what still ran when the runner was stopped."""
        for run in self._runs.values():
            self._completion.lose(run.claim, reason)
        self._runs.clear()

    def tick(self) -> None:
        """Remove copies of inputs that nobody uses, when it is time for that; load ahead what scripts want."""
        ahead = self._demand.ahead()
        if ahead != self._ahead:
            self._ahead = ahead
            self._runner.expect(ahead)
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_SECS
            self._inputs.tidy()

    @property
    def free(self) -> int:
        """Slots in which nothing runs."""
        return self._slot_count - len(self._runs)

    def gave_back(self) -> None:
        """Take no jobs ahead for now: some had to be given back."""
        self._prefetch.gave_back()
        self._slots.take_ahead(0)

    def begin(self, claim: Claim, order: Order) -> None:
        """Run a job that is claimed."""
        run = self._runs[claim.run] = _ClaimedRun(claim, order)
        if order.data:
            threading.Thread(target=self._fetch_input, args=(run,), name="input", daemon=True).start()
        else:
            self._run(run)

    def withdraw(self, message: Withdraw) -> None:
        """End the run with this name, or, if there is no name, all runs of a job up to this attempt."""
        for run in list(self._runs.values()):
            claim = run.claim
            of_job = not message.run and claim.id and claim.id == message.id and claim.attempt <= message.attempt
            if claim.run == message.run or of_job:
                if run.with_runner:
                    self._runner.cancel(claim.run, message.reason)
                else:
                    self._end_unbegun(run, RunState.CANCELLED, message.reason)

    def _fetch_input(self, run: _ClaimedRun) -> None:
        """Fetch the value that the job works on; done on a thread of its own."""
        key = run.order.data
        try:
            # Nobody has asked yet whether who published a job by hand may read what it works on.
            token = self._access(run.claim) if run.claim.by_hand else ""
            path = self._inputs.fetch(key, lambda: run.claim.run in self._runs and not self._stopping, token)
        except Exception as error:
            if not isinstance(error, NoInput):
                log.exception("input could not be fetched", key=key)
            self._events.put(self._end_unbegun, run, RunState.FAILED, str(error) or type(error).__name__)
        else:
            self._events.put(self._run_with_input, run, path)

    def _run_with_input(self, run: _ClaimedRun, path: Path) -> None:
        if run.claim.run in self._runs and not self._stopping:
            run.path = path
            self._run(run)
        else:
            self._inputs.release(path)

    def _run(self, run: _ClaimedRun) -> None:
        claim, order = run.claim, run.order
        run.with_runner = True
        self._runner.run(
            Run(
                *(claim.run, claim.id, claim.attempt, order.job, order.arguments),
                data_path=str(run.path) if run.path else "",
                data_key=order.data,
                timeout=order.options.timeout or self._timeout,
                memory=order.options.memory_mb << 20 or self._memory,
                argv=order.options.argv,
                access=self._access(claim),
                modules=self._demand.begin(order.job),
                # With tokens, whose job it is decides on its rights, and that is not known here: no two are the same.
                caller=claim.run if self._tokens else "",
            )
        )

    def _access(self, claim: Claim) -> str:
        """The token of a run, where the master asks for tokens."""
        if not self._tokens:
            return ""
        if claim.by_hand:
            return signing.sign_unnamed_run(self._secret, claim.run, int(time.time()))
        return signing.sign_run(self._secret, claim.id, claim.attempt)

    def _end_unbegun(self, run: _ClaimedRun, state: RunState, reason: str) -> None:
        """End a run that the runner never got."""
        if not self._stopping and run.claim.run in self._runs:
            del self._runs[run.claim.run]
            self._slots.release()
            if run.claim.run in self._claims.open:
                self._completion.end(run.claim, run.claim.ended_now(state, reason))

    def _end(self, outcome: Outcome) -> None:
        run = self._runs.pop(outcome.run.token)
        self._prefetch.ran((outcome.end.ended - run.claim.at) / 1000)
        self._slots.take_ahead(self._prefetch.ahead)
        if run.path:
            self._inputs.release(run.path)
        if run.claim.run in self._claims.open:  # else nobody wants to know
            self._completion.run_ended(run.claim, outcome)

    # On the runner's thread.

    def _run_ended(self, outcome: Outcome) -> None:
        self._slots.release()
        self._events.put(self._end, outcome)

    def _progressed(self, progress: RunProgress) -> None:
        claim = self._claims.open.get(progress.run.token)
        if claim is not None and claim.id:
            self._reporter.progress(claim.id, progress)


def _secret_file(path: str) -> SecretFile:
    """The file with the secrets of scripts; raises `SettingsError`."""
    try:
        return SecretFile(path)
    except BadSecrets as error:
        raise SettingsError(f"[jobs] secrets: {error}") from error
