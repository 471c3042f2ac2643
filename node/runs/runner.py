"""The runner: runs jobs, each in processes of its own, and tells how they go and how they ended.

In the agent's process it is one thread. That owns the pipes of all runs and the socket to the zygote (`zygote.py`),
the process that makes, watches and kills the others.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from broker import logs
from broker.clock import now_ms
from broker.errors import SettingsError
from broker.messages.runs import RunEnd, RunState
from jobs.secret_file import SecretFile
from node.runs import processes, scratch
from node.runs.active_run import ActiveRun
from node.runs.model import Outcome, Run, RunLimits, RunProgress
from node.runs.protocol import RUN, SIGNAL, RunExit, RunOrder
from node.runs.secrets import RunSecrets
from node.runs.zygote_client import ZygoteClient

log = logs.get(__name__)

_GONE_SECS = 5.0  # for a zygote to end and for what is left of its runs to be killed
_AGAIN_SECS = 1.0  # between two starts of it
_POLL_SECS = 3600.0
_TOKEN = re.compile(r"[0-9a-f]{1,64}")

T = TypeVar("T", Outcome, RunProgress)


class Runner:
    """Runs jobs until it is stopped. `run` and `cancel` may be called by any thread."""

    def __init__(
        self,
        directory: Path,
        scripts: Path,
        limits: RunLimits,
        *,
        environment: Mapping[str, str],
        on_end: Callable[[Outcome], None],
        on_progress: Callable[[RunProgress], None],
        passed: Collection[str] = (),
        secrets: SecretFile | None = None,
    ) -> None:
        """`directory` is the runner's alone, and emptied; the two functions are called on the runner's thread.

        Runs get those variables of the `environment` that hold no secrets, and those that are `passed`.
        """
        self._directory, self._scripts = directory.absolute(), scripts.absolute()
        self._limits = limits
        self._environment, self._passed = environment, frozenset(passed)
        self._secrets = RunSecrets(secrets or SecretFile(""))
        self._on_end, self._on_progress = on_end, on_progress
        self._commands: deque[Callable[[], None]] = deque()
        self._guard = threading.Lock()
        self._wakeup = -1  # an eventfd
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self._active: dict[str, ActiveRun] = {}  # by token
        self._pending: dict[str, Run] = {}  # by token, while there is no zygote
        self._readers: dict[int, Callable[[], None]] = {}
        self._zygote: ZygoteClient | None = None
        self._start_at = 0.0
        self._stopping = False
        self._give_up_at = 0.0

    def start(self) -> None:
        """Kill what an earlier runner may have left, and begin; raises `SettingsError` for an unusable directory."""
        try:
            owner = scratch.prepare(self._directory)
            scratch.keep_cache(self._directory, self._limits.cache)
        except OSError as error:
            raise SettingsError(f"{self._directory} can't be used for runs: {error.strerror or error}") from error
        self._marks = processes.Marks(sha256(owner.encode()).hexdigest())
        self._kill_leftovers()
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._add(self._wakeup, self._run_commands)
        self._thread.start()

    def stop(self) -> None:
        """End everything: TERM, the grace, KILL. `on_end` is not called for what ends by this."""
        if self._thread.is_alive():
            self._enqueue(self._begin_stop)
            self._thread.join()

    def run(self, run: Run) -> None:
        """Run a job; never blocks. Raises `ValueError` for a token that is none."""
        if not _TOKEN.fullmatch(run.token):
            raise ValueError(f"{run.token!r} is no token of a run; hex digits are needed")
        self._enqueue(lambda: self._begin(run))

    def cancel(self, token: str, reason: str = "cancelled") -> None:
        """End a run: TERM, the grace, KILL. Nothing happens when there is no such run."""
        self._enqueue(lambda: self._cancel(token, reason))

    def _enqueue(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with self._guard:
            # Before the start there is nobody to wake; after the end, the number may be that of another file.
            if self._wakeup >= 0:
                os.eventfd_write(self._wakeup, 1)

    # On the runner's thread, but for the start.

    def _kill_leftovers(self) -> None:
        left = processes.sweep(self._marks, _GONE_SECS)
        if left:
            log.error("processes of runs can't be killed", count=left)

    def _work(self) -> None:
        while not self._stopping or (self._active and time.monotonic() < self._give_up_at):
            try:
                self._turn()
            except Exception:  # with a new zygote, everything is in a known state again
                log.exception("the runner failed")
                self._restart_zygote()
        self._end()

    def _turn(self) -> None:
        for descriptor, events in self._epoll.poll(self._due()):
            if descriptor in self._readers:
                self._readers[descriptor]()
            if self._zygote and descriptor == self._zygote.descriptor and events & select.EPOLLOUT:
                self._flush()

    def _add(self, descriptor: int, reader: Callable[[], None]) -> None:
        self._readers[descriptor] = reader
        self._epoll.register(descriptor, select.EPOLLIN)

    def _remove(self, descriptor: int) -> None:
        del self._readers[descriptor]
        self._epoll.unregister(descriptor)

    def _run_commands(self) -> None:
        os.eventfd_read(self._wakeup)
        while self._commands:
            self._commands.popleft()()

    def _due(self) -> float:
        """Do what is due; seconds until something is due again."""
        now = time.monotonic()
        if not self._zygote and not self._stopping and now >= self._start_at:
            self._start_zygote()
        following = max(self._start_at, now + 0.01) if not self._zygote or self._stopping else now + _POLL_SECS
        for active in list(self._active.values()):
            if active.next_due() <= now:
                if active.too_long(now):
                    self._signal(active, signal.SIGTERM)
                if active.to_be_killed(now):
                    self._signal(active, signal.SIGKILL)
                progress = active.progress(now)
                if progress and not self._stopping:
                    self._call(self._on_progress, progress)
            following = min(following, active.next_due())
        return max(0.0, following - time.monotonic())

    @staticmethod
    def _call(function: Callable[[T], None], argument: T) -> None:
        try:
            function(argument)
        except Exception:  # the other runs must not suffer for it
            log.exception("callback of the runner failed", run=argument.run.token)

    # Runs.

    def _begin(self, run: Run) -> None:
        if self._stopping:
            return
        if run.token in self._active or run.token in self._pending:
            log.error("run ordered twice", run=run.token)
            return
        if not self._zygote:
            self._pending[run.token] = run
            return
        try:
            arguments = json.dumps(run.arguments).encode()
            secrets, masks = self._secrets.of(run.job)
            active = ActiveRun(run, self._limits, masks)
        except (TypeError, ValueError, RecursionError) as error:
            self._end_unbegun(run, RunState.FAILED, f"the arguments can't be written as JSON: {error}")
            return
        except OSError as error:
            self._end_unbegun(run, RunState.FAILED, f"the run can't be started: {error.strerror}")
            return
        self._active[run.token] = active
        for pipe in active.pipes:
            self._add(pipe, partial(self._read, active, pipe))
        order = RunOrder(
            *(run.token, run.job_id, run.attempt, run.job, arguments),
            *(run.data_path, run.data_key, run.memory, run.argv),
            *secrets,
        )
        self._send([RUN, order], (active.event_end, active.log_end))

    def _end_unbegun(self, run: Run, state: RunState, reason: str) -> None:
        now = now_ms()
        self._call(self._on_end, Outcome(run, RunEnd(state, reason, now, now)))

    def _read(self, active: ActiveRun, pipe: int) -> None:
        if not active.read(pipe):
            self._remove(pipe)
            active.drop(pipe)

    def _cancel(self, token: str, reason: str) -> None:
        pending = self._pending.pop(token, None)
        active = self._active.get(token)
        if pending:
            self._end_unbegun(pending, RunState.CANCELLED, reason)
        elif active and active.stop(RunState.CANCELLED, reason, time.monotonic()):
            self._signal(active, signal.SIGTERM)

    def _signal(self, active: ActiveRun, number: int) -> None:
        self._send([SIGNAL, active.run.token, number])

    def _end_run(self, exit: RunExit) -> None:
        if exit.note:
            log.error("processes or files survived the run", run=exit.run, note=exit.note)
        active = self._active.pop(exit.run)
        outcome = active.outcome(exit)
        for pipe in active.pipes:
            self._remove(pipe)
        active.close()
        if not self._stopping:
            self._call(self._on_end, outcome)

    # The zygote.

    def _start_zygote(self) -> None:
        self._start_at = time.monotonic() + _AGAIN_SECS
        try:
            zygote = ZygoteClient(
                *(self._directory, self._scripts, self._limits, self._marks),
                environment=self._environment,
                passed=self._passed,
            )
        except OSError as error:
            log.error("the process that jobs come from can't be started; trying again", reason=error)
            return
        self._zygote = zygote
        self._add(zygote.descriptor, self._receive)
        pending = list(self._pending.values())
        self._pending.clear()
        for run in pending:
            self._begin(run)

    def _send(self, message: Sequence[object], descriptors: tuple[int, ...] = ()) -> None:
        if self._zygote and not self._zygote.send(message, descriptors):
            self._epoll.modify(self._zygote.descriptor, select.EPOLLIN | select.EPOLLOUT)

    def _receive(self) -> None:
        try:
            messages = self._zygote.receive() if self._zygote else []
        except (EOFError, OSError):
            self._restart_zygote()
            return
        for message in messages:
            self._end_run(RunExit(*message))

    def _flush(self) -> None:
        try:
            if self._zygote and self._zygote.flush():
                self._epoll.modify(self._zygote.descriptor, select.EPOLLIN)
        except OSError:
            self._restart_zygote()

    def _restart_zygote(self) -> None:
        """End every run as failed: they ended with the zygote. The next turn starts a new one."""
        how = self._close_zygote()
        if not self._stopping:
            log.error("the process that jobs come from ended; starting it again", how=how, runs=len(self._active))
        self._kill_leftovers()
        for token in list(self._active):
            self._end_run(RunExit(token, signal.SIGKILL, stopped=True, reason=f"the node's job process ended ({how})"))
        try:
            scratch.prepare(self._directory)
        except OSError as error:
            log.error("scratch directories can't be removed", reason=error)

    def _close_zygote(self) -> str:
        """End the zygote, which ends everything; how it ended, in words."""
        zygote, self._zygote = self._zygote, None
        if not zygote:
            return "not started"
        self._remove(zygote.descriptor)
        return zygote.close()

    # Stopping.

    def _begin_stop(self) -> None:
        self._stopping = True
        self._give_up_at = time.monotonic() + self._limits.grace + _GONE_SECS
        self._pending.clear()
        for active in self._active.values():
            if active.stop(RunState.CANCELLED, "the node stopped", time.monotonic()):
                self._signal(active, signal.SIGTERM)

    def _end(self) -> None:
        self._close_zygote()
        self._kill_leftovers()
        scratch.Scratch(str(self._directory), self._marks.node).close()  # a zygote that was killed could not
        for active in self._active.values():
            active.close()
        self._epoll.close()
        with self._guard:
            os.close(self._wakeup)
            self._wakeup = -1
