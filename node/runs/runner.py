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
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from broker import logs
from broker.clock import now_ms
from broker.errors import SettingsError
from broker.messages.runs import RunEnd, RunState
from jobs.client import TOKEN_VARIABLE
from jobs.secret_file import SecretFile, Secrets
from node.runs import processes, scratch
from node.runs.active_run import ActiveRun
from node.runs.fence.options import OFF, REQUIRED, Fenced
from node.runs.model import Outcome, Run, RunLimits, RunProgress
from node.runs.protocol import FAILED, LOADED, REMOVE, RUN, SIGNAL, TRYING, RunExit, RunOrder
from node.runs.secrets import RunSecrets
from node.runs.zygote_client import ZygoteClient, sweep_as
from node.runs.zygotes.fleet import Fleet

log = logs.get(__name__)

_GONE_SECS = 5.0  # for a zygote to end and for what is left of its runs to be killed
_AGAIN_SECS = 1.0  # between two starts of it
_POLL_SECS = 3600.0
_MOST_TURNS = 3  # for a run whose processes end before they have begun it
_FENCE_SECS = 20.0  # for the first zygote to tell what fence is in force
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
        on_left_out: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> None:
        """`directory` is the runner's alone, and emptied; the functions are called on the runner's thread.

        `on_left_out`: with the modules that can't be loaded ahead, and why, when these change.

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
        self._zygotes: dict[int, ZygoteClient] = {}  # all of them, by descriptor
        self._zygote: ZygoteClient | None = None  # the plain one
        self._fleet = Fleet(limits.zygotes, start=self._start_with_modules, stop=self._forget, left_out=on_left_out)
        self._start_at = 0.0
        self._stopping = False
        self._give_up_at = 0.0
        self._fenced = Fenced(())
        self._told = threading.Event()  # whether a zygote has told what fence is in force

    def start(self) -> None:
        """Kill what an earlier runner may have left, and begin; raises `SettingsError` for an unusable directory."""
        try:
            owner = self._prepare()
        except OSError as error:
            raise SettingsError(f"{self._directory} can't be used for runs: {error.strerror or error}") from error
        self._marks = processes.Marks(sha256(owner.encode()).hexdigest())
        self._kill_leftovers()
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._add(self._wakeup, self._run_commands)
        self._thread.start()
        fence = self._limits.fence
        if fence.mode == REQUIRED or not fence.network:
            self._told.wait(_FENCE_SECS)
            if self._fenced.refused or not self._told.is_set():
                self.stop()
                raise SettingsError(
                    f"[jobs] fence = {fence.mode}, network = {'on' if fence.network else 'off'}: this can't be had "
                    f"here: {self._fenced.missing or 'the process that jobs come from did not start'}"
                )

    @property
    def fenced(self) -> Sequence[str]:
        """What keeps runs apart from the rest of the machine, as `PARTS` has it."""
        return self._fenced.parts

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

    def expect(self, sets: Sequence[tuple[str, ...]]) -> None:
        """Load these sets of modules ahead, as many of them as the limits allow. Thread-safe."""
        self._enqueue(lambda: self._fleet.expect(sets))

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

    def _prepare(self) -> str:
        fence = self._limits.fence
        return scratch.prepare(self._directory, fence.user, fence.group)

    def _kill_leftovers(self, number: int = -1) -> None:
        """Kill what is left of the zygote with this number, or of all."""
        fence = self._limits.fence
        if fence.user in (-1, os.geteuid()):
            left = processes.sweep(self._marks, _GONE_SECS, number)
        else:
            left = sweep_as(fence, self._marks.node, _GONE_SECS, number)
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
            if events & select.EPOLLOUT:
                self._flush(descriptor)

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
        if self._zygote and self._zygote.fenced and not self._stopping:
            following = min(following, self._fleet.turn(now))
        return max(0.0, following - time.monotonic())

    @staticmethod
    def _call(function: Callable[[T], None], argument: T) -> None:
        try:
            function(argument)
        except Exception:  # the other runs must not suffer for it
            log.exception("callback of the runner failed", run=argument.run.token)

    # Runs.

    def _begin(self, run: Run, turn: int = 1) -> None:
        if self._stopping:
            return
        if run.token in self._active or run.token in self._pending:
            log.error("run ordered twice", run=run.token)
            return
        if not self._zygote or not self._zygote.fenced:
            self._pending[run.token] = run
            return
        try:
            arguments = json.dumps(run.arguments).encode()
            secrets, masks = self._secrets.of(run.job)
            lent = self._lend(run)
            active = ActiveRun(run, self._limits, masks, turn=turn)
        except (TypeError, ValueError, RecursionError) as error:
            self._end_unbegun(run, RunState.FAILED, f"the arguments can't be written as JSON: {error}")
            return
        except OSError as error:
            gone = run.data_path and not os.path.exists(run.data_path)
            reason = (
                f"this node's copy of {run.data_key} is gone" if gone else f"the run can't be started: {error.strerror}"
            )
            self._end_unbegun(run, RunState.FAILED, reason)
            return
        self._active[run.token] = active
        for pipe in active.pipes:
            self._add(pipe, partial(self._read, active, pipe))
        order = RunOrder(
            *(run.token, run.job_id, run.attempt, run.job, arguments),
            *(lent, run.data_key, run.memory, run.argv),
            *_with_access(run, secrets),
            caller=run.caller,
        )
        member = self._fleet.of(run.modules, time.monotonic()) if run.modules else None
        if member:
            self._fleet.run_began(member)
        active.zygote = member.client if member else self._zygote
        self._send(active.zygote, [RUN, order], (active.event_end, active.log_end))

    def _lend(self, run: Run) -> str:
        """Give the run's value a name of its own; the path, "" for none. Raises `OSError`."""
        if not run.data_path:
            return ""
        fence = self._limits.fence
        hidden = fence.mode != OFF or fence.user >= 0
        value = Path(run.data_path)
        return str(scratch.lend(self._directory, run.token, value, run.data_key, hidden=hidden, group=fence.group))

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
        self._send(active.zygote, [SIGNAL, active.run.token, number])

    def _end_run(self, exit: RunExit) -> None:
        if exit.note:
            log.error("processes or files survived the run", run=exit.run, note=exit.note)
        active = self._active.pop(exit.run)
        member = self._fleet.member_of(active.zygote)
        if member:
            self._fleet.run_ended(member)
        outcome = active.outcome(exit)
        for pipe in active.pipes:
            self._remove(pipe)
        active.close()
        if exit.unbegun and active.turn < _MOST_TURNS and not active.stopping:
            log.warning("a run begins again; its process ended before it began", run=exit.run, status=exit.status)
            self._begin(active.run, active.turn + 1)
        elif not self._stopping:
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
        self._zygote = self._zygotes[zygote.descriptor] = zygote
        self._add(zygote.descriptor, self._receive)

    def _start_with_modules(self, number: int, modules: tuple[str, ...]) -> ZygoteClient:
        """Start a zygote that loads modules. Raises `OSError`."""
        zygote = ZygoteClient(
            *(self._directory, self._scripts, self._limits, self._marks),
            environment=self._environment,
            passed=self._passed,
            number=number,
            modules=modules,
        )
        self._add(zygote.descriptor, partial(self._receive_of, zygote))
        self._zygotes[zygote.descriptor] = zygote
        return zygote

    def _forget(self, zygote: ZygoteClient) -> None:
        self._remove(zygote.descriptor)
        del self._zygotes[zygote.descriptor]

    def _receive_of(self, zygote: ZygoteClient) -> None:
        """Read what a zygote with modules says."""
        try:
            messages = zygote.receive()
        except (EOFError, OSError):
            self._end_with_modules(zygote)
            return
        for kind, *fields in messages:
            if kind == TRYING:
                self._fleet.trying(zygote, *fields)
            elif kind == FAILED:
                self._fleet.failed(zygote, *fields)
            elif kind == LOADED:
                self._fleet.loaded(zygote, *fields)
            else:
                self._end_run(RunExit(kind, *fields))
        if zygote.fenced:
            self._fleet.is_ready(zygote)

    def _end_with_modules(self, zygote: ZygoteClient) -> None:
        """End the runs of a zygote with modules, which ended. The others go on."""
        self._forget(zygote)
        how = zygote.close()
        self._fleet.ended(zygote, how)
        tokens = [token for token, active in self._active.items() if active.zygote is zygote]
        if zygote.fenced:
            self._kill_leftovers(zygote.number)
        for token in tokens:
            self._end_run(RunExit(token, signal.SIGKILL, stopped=True, reason=f"the node's job process ended ({how})"))
            self._send(self._zygote, [REMOVE, token])

    def _send(self, zygote: ZygoteClient | None, message: Sequence[object], descriptors: tuple[int, ...] = ()) -> None:
        if zygote and not zygote.send(message, descriptors):
            self._epoll.modify(zygote.descriptor, select.EPOLLIN | select.EPOLLOUT)

    def _receive(self) -> None:
        zygote = self._zygote
        if not zygote:
            return
        was_ready = bool(zygote.fenced)
        try:
            messages = zygote.receive()
        except (EOFError, OSError):
            self._restart_zygote()
            return
        if zygote.fenced and not was_ready:
            self._ready(zygote.fenced)
        for message in messages:
            self._end_run(RunExit(*message))

    def _ready(self, fenced: Fenced) -> None:
        """Note what fence is in force, and begin what has waited for the zygote."""
        self._fenced = fenced
        if not self._told.is_set():
            self._told.set()
            parts = ", ".join(self._fenced.parts) or "none"
            log.info("fence of jobs", mode=self._limits.fence.mode, parts=parts, missing=self._fenced.missing or "none")
        pending = list(self._pending.values())
        self._pending.clear()
        for run in pending:
            self._begin(run)

    def _flush(self, descriptor: int) -> None:
        zygote = self._zygotes.get(descriptor)
        if not zygote:  # it has just ended
            return
        with suppress(OSError):  # it is gone; reading from it says so
            if zygote.flush():
                self._epoll.modify(descriptor, select.EPOLLIN)

    def _restart_zygote(self) -> None:
        """End every run as failed: they ended with the zygote. The next turn starts a new one."""
        how = self._close_zygote()
        self._fleet.close()
        if not self._stopping:
            log.error("the process that jobs come from ended; starting it again", how=how, runs=len(self._active))
        self._kill_leftovers()
        for token in list(self._active):
            self._end_run(RunExit(token, signal.SIGKILL, stopped=True, reason=f"the node's job process ended ({how})"))
        try:
            self._prepare()
        except OSError as error:
            log.error("scratch directories can't be removed", reason=error)

    def _close_zygote(self) -> str:
        """End the zygote, which ends everything; how it ended, in words."""
        zygote, self._zygote = self._zygote, None
        if not zygote:
            return "not started"
        self._forget(zygote)
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
        self._fleet.close()
        self._close_zygote()
        self._kill_leftovers()
        scratch.Scratch(str(self._directory), self._marks.node).close()  # a zygote that was killed could not
        for active in self._active.values():
            active.close()
        self._epoll.close()
        with self._guard:
            os.close(self._wakeup)
            self._wakeup = -1


def _with_access(run: Run, secrets: Secrets) -> tuple[Mapping[str, str], Sequence[str]]:
    """The secrets of a run and the names of those in its environment: also its token, unless it has another one."""
    known, variables = secrets
    if not run.access or TOKEN_VARIABLE in known:
        return known, variables
    return {**known, TOKEN_VARIABLE: run.access}, [*variables, TOKEN_VARIABLE]
