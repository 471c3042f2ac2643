"""Carries out the orders of one member: a node for its values, the master for its ledger.

A thread makes the snapshot, runs the engine and removes the snapshot. The state is durable in `backup.json` of the
member's directory, and goes to the controller whenever it changes.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from broker import logs, snapshot_files
from broker.backups.engine import Ending, Engine
from broker.clock import now_ms
from broker.errors import PulzarError
from broker.messages.backups import BUILD, BackupState, MakeBackup, Outcome, Work

log = logs.get(__name__)

FILE = "backup.json"
TOLD_SECS = 2.0  # between two states that differ in progress only
_SNAPSHOT = "snapshot"  # the phase before the engine's
_ENDED = "the process that made it ended meanwhile"


class Snapshots(Protocol):
    """Makes snapshots of one member."""

    def make(self) -> Path:
        """Make one and return its folder. Raises `PulzarError`, `OSError`."""

    def remove(self, folder: Path) -> None:
        """Remove it. Raises `PulzarError`, `OSError`."""


class BackupWorker:
    """A thread that carries out one order at a time, the newest one."""

    def __init__(
        self, member: str, directory: Path, verify: float, snapshots: Snapshots, tell: Callable[[BackupState], None]
    ) -> None:
        """`directory` is the member's data directory, `verify` a share in percent.

        `tell` gets the state whenever it has changed, on any thread, also when there is no connection.
        """
        self._directory = directory
        self._verify = verify
        self._snapshots = snapshots
        self._tell = tell
        self._engine = Engine()
        self._guard = threading.Lock()
        self._saving = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._told = 0.0
        self._order: MakeBackup | None = None  # to be begun
        self._state = read(directory / FILE, member)
        if self._state.busy:
            self._state = self._state._replace(outcome=Outcome.FAILED, reason=_ENDED, ended=now_ms(), phase="")
        self._thread = threading.Thread(target=self._run, name="backup", daemon=True)

    def start(self) -> None:
        """Start the thread. Snapshots of the process before are removed first."""
        self._thread.start()

    def stop(self) -> None:
        """End what is being done, and the thread."""
        self._stopping = True
        self._engine.stop()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(15)

    @property
    def state(self) -> BackupState:
        """The state of this moment."""
        with self._guard:
            return self._state

    def tell(self) -> None:
        """Tell the state once more."""
        self._tell(self.state)

    def take(self, order: MakeBackup) -> None:
        """Carry out an order soon. While the same is being done, its outcome is the one of this order, too.

        An order that came before is answered with the state.
        """
        with self._guard:
            busy = self._state.busy
            if order.order == self._state.order:
                log.debug("order came again", order=order.order)
            elif busy and (order.work, order.target) == (self._state.work, self._state.target):
                if self._order is not None:
                    self._order = order
                self._state = self._state._replace(order=order.order)
            elif busy:
                log.warning("order dropped: another one is being carried out", order=order.order, work=order.work)
                return
            else:
                self._order = order
                self._state = self._state._replace(
                    order=order.order, work=order.work, target=order.target, outcome=Outcome.NONE, reason=""
                )._replace(began=now_ms(), ended=0, phase="", done=0, total=0)
        self._save()
        self._wake.set()

    # The thread.

    def _run(self) -> None:
        self._remove_all()
        self.tell()
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            with self._guard:
                order, self._order = self._order, None
            if order is not None and not self._stopping:
                self._carry_out(order)

    def _carry_out(self, order: MakeBackup) -> None:
        log.info("backup begins", work=order.work, target=order.target or "as set")
        try:
            ending = self._send(order) if order.work is Work.SEND else self._verified(order)
        except (PulzarError, OSError) as error:
            ending = Ending(False, str(error), {})
        except Exception as error:
            log.exception("backup failed")
            ending = Ending(False, repr(error), {})
        now = now_ms()
        with self._guard:
            state = self._state._replace(phase="", done=0, total=0, ended=now)
            if not ending.good:
                state = state._replace(outcome=Outcome.FAILED, reason=ending.reason)
            else:
                state = state._replace(outcome=Outcome.GOOD)
                if not order.target:
                    state = _with_good(state, ending.fields, now)
            self._state = state
        self._save()
        if ending.good:
            log.info("backup is good", work=order.work, secs=(now - state.began) / 1000, **ending.fields)
        else:
            log.error("backup failed", work=order.work, reason=ending.reason)

    def _send(self, order: MakeBackup) -> Ending:
        self._progress(_SNAPSHOT, 0, 0)
        self._wait_for_a_name()
        folder = self._snapshots.make()
        try:
            return self._engine.run(self._arguments(order, ["--snapshot", str(folder)]), self._progress)
        finally:
            try:
                self._snapshots.remove(folder)
            except (PulzarError, OSError) as error:
                log.error("snapshot can't be removed; the next start will try again", snapshot=folder, reason=error)

    def _wait_for_a_name(self) -> None:
        """Wait for the next second when the last snapshot was made in this one: it has the name at the target."""
        last = self._state.snapshot
        now = time.time()
        if snapshot_files.is_name(last) and snapshot_files.time_of(last) == int(now):
            time.sleep(int(now) + 1 - now)

    def _verified(self, order: MakeBackup) -> Ending:
        # Values are compared with the node's index, and what is damaged is remembered there.
        more = ["--share", f"{self._verify:g}", "--data", str(self._directory)]
        return self._engine.run(self._arguments(order, more), self._progress)

    def _arguments(self, order: MakeBackup, more: Sequence[str]) -> list[str]:
        target = ["--to", order.target] if order.target else []
        return [order.work, "--member", self._state.member, *more, *target]

    def _progress(self, phase: str, done: int, total: int) -> None:
        with self._guard:
            news = phase != self._state.phase
            self._state = self._state._replace(phase=phase, done=done, total=total)
        if news or time.monotonic() - self._told > TOLD_SECS:
            self._told = time.monotonic()
            self.tell()

    def _remove_all(self) -> None:
        """Remove what a process before this one has left: no snapshot outlives its process."""
        folder = self._directory / snapshot_files.FOLDER
        try:
            for name in os.listdir(folder) if folder.is_dir() else ():
                if snapshot_files.is_name(name):
                    self._snapshots.remove(folder / name)
                else:
                    shutil.rmtree(folder / name)
                log.info("snapshot of an earlier process removed", snapshot=name)
        except (PulzarError, OSError) as error:
            log.error("old snapshots can't be removed", reason=error)

    def _save(self) -> None:
        """Make the state durable, and tell it."""
        with self._saving:
            state = self.state
            try:
                write(self._directory / FILE, state)
            except OSError as error:
                log.error("state of backups can't be written", reason=error)
            self._tell(state)


def _with_good(state: BackupState, fields: dict[str, object], now: int) -> BackupState:
    """The state after an order that was carried out well; `fields` are those of the engine's last line."""
    if state.work is Work.VERIFY:
        return state._replace(verified_at=now)

    def number(name: str) -> int:
        value = fields.get(name)
        return value if isinstance(value, int) else 0

    name = str(fields.get("snapshot", ""))
    good_at = int(snapshot_files.time_of(name) * 1000) if snapshot_files.is_name(name) else state.began
    size, files, sent = number("bytes"), number("files"), number("sent_bytes")
    took = now - state.began
    return state._replace(snapshot=name, good_at=good_at, size=size, files=files, sent=sent, took_ms=took)


def read(path: Path, member: str) -> BackupState:
    """The state in a file; a state without any backup when there is none, or it is another member's."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        state = BUILD[BackupState](*(fields[name] for name in BackupState._fields))
    except FileNotFoundError:
        return BackupState(member)
    except (OSError, ValueError, TypeError, KeyError) as error:
        log.warning("state of backups can't be read; it begins anew", file=path, reason=error)
        return BackupState(member)
    assert isinstance(state, BackupState)
    return state if state.member == member else BackupState(member)


def write(path: Path, state: BackupState) -> None:
    """Write the state into a file, durably. Raises `OSError`."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        json.dump(state._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
