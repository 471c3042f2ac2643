"""The runner: has jobs run, each in a process of its own, and tells what becomes of them.

Of the agent's process it takes one thread, which owns the pipes of all runs and the socket to the zygote
(`zygote.py`), the process that makes, watches and kills the others.
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
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from broker import logs
from broker.clock import now_ms
from broker.errors import SettingsError
from jobs.secret_file import SecretFile
from node.runs import processes, scratch
from node.runs.active_run import ActiveRun, Killed
from node.runs.model import Outcome, Run, RunLimits, RunProgress, State
from node.runs.protocol import RUN, SIGNAL, RunOrder
from node.runs.secrets import RunSecrets
from node.runs.zygote_client import ZygoteClient

log = logs.get(__name__)

_GONE_SECS = 5.0  # for a zygote to end and for what is left of its runs to be killed
_AGAIN_SECS = 1.0  # between two starts of it
_POLL_SECS = 3600.0
_TOKEN = re.compile(r"[0-9a-f]{1,64}")


class Runner:
    """Runs jobs until it is stopped. `run` and `cancel` may be called by any thread."""

    def __init__(
        self,
        directory: Path,
        scripts: Path,
        limits: RunLimits,
        environment: Mapping[str, str],
        on_end: Callable[[Outcome], None],
        on_progress: Callable[[RunProgress], None],
        passed: Collection[str] = (),
        secrets: SecretFile | None = None,
    ) -> None:
        """`directory` is the runner's alone, and emptied; the two functions are called on the runner's thread.

        Of the `environment`, runs get what is harmless and the variables that are `passed`.
        """
        self._directory = directory.absolute()
        self._scripts = scripts.absolute()
        self._limits = limits
        self._environment = environment
        self._passed = frozenset(passed)
        self._confided = RunSecrets(secrets or SecretFile(""))
        self._on_end = on_end
        self._on_progress = on_progress
        self._commands: deque[Callable[[], None]] = deque()
        self._guard = threading.Lock()
        self._wake = -1  # an eventfd
        self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
        self._running: dict[str, ActiveRun] = {}
        self._waiting: dict[str, Run] = {}  # while there is no zygote
        self._readers: dict[int, Callable[[], None]] = {}
        self._zygote: ZygoteClient | None = None
        self._start_at = 0.0
        self._stopping = False
        self._give_up_at = 0.0

    def start(self) -> None:
        """Kill what an earlier runner may have left, and begin; raises `SettingsError` for a directory of no use."""
        try:
            whose = scratch.prepare(self._directory)
            scratch.keep_cache(self._directory, self._limits.cache)
        except OSError as error:
            raise SettingsError(f"{self._directory} can't be used for runs: {error.strerror or error}") from error
        self._marks = processes.Marks(sha256(whose.encode()).hexdigest())
        self._kill_leftovers()
        self._epoll = select.epoll()
        self._wake = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._add(self._wake, self._woken)
        self._thread.start()

    def stop(self) -> None:
        """End everything: TERM, the grace, KILL. `on_end` is not called for what ends by this."""
        if self._thread.is_alive():
            self._post(self._begin_stop)
            self._thread.join()

    def run(self, run: Run) -> None:
        """Have a job run; never blocks."""
        if not _TOKEN.fullmatch(run.run):
            raise ValueError(f"{run.run!r} is no token of a run; hex digits are needed")
        self._post(lambda: self._begin(run))

    def cancel(self, run: str, reason: str = "cancelled") -> None:
        """Have a run end: TERM, the grace, KILL. Nothing happens when there is no such run."""
        self._post(lambda: self._cancel(run, reason))

    def _post(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        with self._guard:
            # Before the start it is done at the start; after the end, the number may be that of another file.
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    # All that follows is done on the runner's thread, but for the start.

    def _kill_leftovers(self) -> None:
        left = processes.sweep(self._marks, _GONE_SECS)
        if left:
            log.error("processes of runs can't be killed", count=left)

    def _work(self) -> None:
        while not self._stopping or (self._running and time.monotonic() < self._give_up_at):
            try:
                self._turn()
            except Exception:
                # With a new zygote everything is in a known state again.
                log.exception("the runner failed")
                self._lost_zygote()
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

    def _woken(self) -> None:
        os.eventfd_read(self._wake)
        while self._commands:
            self._commands.popleft()()

    def _due(self) -> float:
        """Do what is due; seconds until something is again."""
        now = time.monotonic()
        if not self._zygote and not self._stopping and now >= self._start_at:
            self._start_zygote()
        following = max(self._start_at, now + 0.01) if not self._zygote or self._stopping else now + _POLL_SECS
        for running in list(self._running.values()):
            if running.next_due() <= now:
                if running.too_long(now):
                    self._signal(running, signal.SIGTERM)
                if running.to_be_killed(now):
                    self._signal(running, signal.SIGKILL)
                progress = running.progress(now)
                if progress and not self._stopping:
                    self._call(self._on_progress, progress)
            following = min(following, running.next_due())
        return max(0.0, following - time.monotonic())

    @staticmethod
    def _call(function: Callable[[Any], None], argument: Any) -> None:
        try:
            function(argument)
        except Exception:
            # The other runs are not to suffer for it.
            log.exception("what became of a run could not be handled", run=argument.run.run)

    # Runs.

    def _begin(self, run: Run) -> None:
        if self._stopping:
            return
        if run.run in self._running or run.run in self._waiting:
            log.error("a run was asked for twice", run=run.run)
            return
        if not self._zygote:
            self._waiting[run.run] = run
            return
        try:
            arguments = json.dumps(run.arguments).encode()
            secrets, masks = self._confided.to(run.job)
            running = ActiveRun(run, self._limits, masks)
        except (TypeError, ValueError, RecursionError) as error:
            self._not_begun(run, State.FAILED, f"the arguments can't be written as JSON: {error}")
            return
        except OSError as error:
            self._not_begun(run, State.FAILED, f"the run can't be started: {error.strerror}")
            return
        self._running[run.run] = running
        for pipe in running.pipes:
            self._add(pipe, lambda pipe=pipe: self._read(running, pipe))  # type: ignore[misc]
        order = RunOrder(
            run.run,
            run.job_id,
            run.attempt,
            run.job,
            arguments,
            run.data_path,
            run.data_key,
            run.memory,
            run.argv,
            *secrets,
        )
        self._send([RUN, order], (running.event_end, running.log_end))

    def _not_begun(self, run: Run, state: State, reason: str) -> None:
        now = now_ms()
        self._call(self._on_end, Outcome(run, state, reason, now, now, b"", b""))

    def _read(self, running: ActiveRun, pipe: int) -> None:
        if not running.read(pipe):
            self._remove(pipe)
            running.drop(pipe)

    def _cancel(self, run: str, reason: str) -> None:
        waiting = self._waiting.pop(run, None)
        running = self._running.get(run)
        if waiting:
            self._not_begun(waiting, State.CANCELLED, reason)
        elif running and running.stop(State.CANCELLED, reason, time.monotonic()):
            self._signal(running, signal.SIGTERM)

    def _signal(self, running: ActiveRun, number: int) -> None:
        self._send([SIGNAL, running.run.run, number])

    def _ended(self, run: str, status: int, stopped: bool, reason: str, note: str, killed: Killed = ()) -> None:
        if note:
            log.error("something of a run is left", run=run, note=note)
        running = self._running.pop(run)
        outcome = running.outcome(status, stopped, reason, killed)
        for pipe in running.pipes:
            self._remove(pipe)
        running.close()
        if not self._stopping:
            self._call(self._on_end, outcome)

    # The zygote.

    def _start_zygote(self) -> None:
        self._start_at = time.monotonic() + _AGAIN_SECS
        try:
            zygote = ZygoteClient(
                self._directory, self._scripts, self._limits, self._marks, self._environment, self._passed
            )
        except OSError as error:
            log.error("the process that jobs come from can't be started; trying again", reason=error)
            return
        self._zygote = zygote
        self._add(zygote.descriptor, self._heard)
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for run in waiting:
            self._begin(run)

    def _send(self, message: list[Any], descriptors: tuple[int, ...] = ()) -> None:
        if self._zygote and not self._zygote.send(message, descriptors):
            self._epoll.modify(self._zygote.descriptor, select.EPOLLIN | select.EPOLLOUT)

    def _heard(self) -> None:
        try:
            messages = self._zygote.receive() if self._zygote else []
        except (EOFError, OSError):
            self._lost_zygote()
            return
        for message in messages:
            self._ended(*message)

    def _flush(self) -> None:
        try:
            if self._zygote and self._zygote.flush():
                self._epoll.modify(self._zygote.descriptor, select.EPOLLIN)
        except OSError:
            self._lost_zygote()

    def _lost_zygote(self) -> None:
        """The zygote is gone, and every run with it; a new one is made."""
        how = self._close_zygote()
        if not self._stopping:
            log.error("the process that jobs come from ended; starting it again", how=how, runs=len(self._running))
        self._kill_leftovers()
        for run in list(self._running):
            self._ended(run, signal.SIGKILL, True, f"the node's job process ended ({how})", "")
        try:
            scratch.prepare(self._directory)
        except OSError as error:
            log.error("scratch directories can't be removed", reason=error)

    def _close_zygote(self) -> str:
        """Have the zygote end, which ends everything; how it did."""
        zygote, self._zygote = self._zygote, None
        if not zygote:
            return "not started"
        self._remove(zygote.descriptor)
        return zygote.close()

    # Stopping.

    def _begin_stop(self) -> None:
        self._stopping = True
        self._give_up_at = time.monotonic() + self._limits.grace + _GONE_SECS
        self._waiting.clear()
        for running in self._running.values():
            if running.stop(State.CANCELLED, "the node stopped", time.monotonic()):
                self._signal(running, signal.SIGTERM)

    def _end(self) -> None:
        self._close_zygote()
        self._kill_leftovers()
        scratch.Scratch(str(self._directory), self._marks.node).close()  # a zygote that was killed could not
        for running in self._running.values():
            running.close()
        self._epoll.close()
        with self._guard:
            os.close(self._wake)
            self._wake = -1
