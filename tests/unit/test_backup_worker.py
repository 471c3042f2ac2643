"""A member carries out orders: a snapshot, the real engine, and a state that survives."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from broker.backups import worker
from broker.backups.worker import BackupWorker
from broker.messages.backups import BackupState, MakeBackup, Outcome, Work
from node.backups import _NodeSnapshots
from node.storage.storage import Storage
from tests.support import ROOT, wait_for
from tests.unit.volume import Volume, done, store

SECS = 60.0


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that backups go to, as the settings of this process and its children say."""
    folder = tmp_path / "target"
    folder.mkdir()
    monkeypatch.setenv("PULZAR_BACKUP_TYPE", "directory")
    monkeypatch.setenv("PULZAR_BACKUP_ADDRESS", str(folder))
    return folder


class Member:
    """A node's storage and the worker for it."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.storage: Storage = volume.open()
        self.told: list[BackupState] = []
        self.worker = self.make()

    def make(self) -> BackupWorker:
        """A worker as a new process would make it."""
        made = _NodeSnapshots("node-1", self.storage, self.volume.directory)
        return BackupWorker("node-1", self.volume.directory, 100, made, self.told.append)

    def order(self, work: Work = Work.SEND, target: str = "") -> MakeBackup:
        """Give an order, and wait for nothing."""
        order = MakeBackup(secrets.token_hex(16), work, target)
        self.worker.take(order)
        return order

    def outcome(self, work: Work = Work.SEND, target: str = "") -> BackupState:
        """Give an order, and wait for what comes of it."""
        order = self.order(work, target)
        # It is told when it is durable
        return wait_for(
            lambda: next((told for told in self.told if told.order == order.order and told.outcome), None), SECS
        )


@pytest.fixture
def member(tmp_path: Path) -> Iterator[Member]:
    made = Member(Volume(tmp_path / "data"))
    assert done(made.storage.apply([store(f"key{n}", n, b"x" * 6000) for n in range(1, 20)]))
    made.worker.start()
    yield made
    made.worker.stop()
    made.storage.close()


def test_an_order_is_carried_out_and_the_state_says_so(member: Member, target: Path) -> None:
    # When a backup is made
    state = member.outcome()
    # Then it is at the target, the snapshot is gone, and the state is durable and was told
    assert (state.outcome, state.reason) == (Outcome.GOOD, "")
    assert (target / "node-1" / "snapshots" / state.snapshot / "MANIFEST").exists()
    assert not list((member.volume.directory / "snapshots").iterdir())
    assert (state.files, state.size > 19 * 6000, state.sent) == (20, True, state.size)
    assert abs(state.good_at / 1000 - time.time()) < 60
    assert worker.read(member.volume.directory / "backup.json", "node-1") == state == member.told[-1]
    assert any(told.phase for told in member.told)
    # When there is hardly anything new, then little is sent
    assert done(member.storage.apply([store("new", 100, b"y")]))
    second = member.outcome()
    assert second.size > state.size
    assert second.sent < state.size / 10
    # And it can be read back
    verified = member.outcome(Work.VERIFY)
    assert (verified.outcome, verified.snapshot) == (Outcome.GOOD, second.snapshot)
    assert verified.verified_at >= second.ended


def test_a_failure_is_told_in_words_and_the_last_good_one_stays(member: Member, target: Path) -> None:
    good = member.outcome()
    target.rename(target.with_name("away"))
    failed = member.outcome()
    assert failed.outcome is Outcome.FAILED
    assert str(target) in failed.reason
    assert (failed.snapshot, failed.good_at) == (good.snapshot, good.good_at)
    assert not list((member.volume.directory / "snapshots").iterdir())
    target.with_name("away").rename(target)
    assert member.outcome().outcome is Outcome.GOOD


def test_a_damaged_backup_is_found_by_reading_it_back(member: Member, target: Path) -> None:
    member.outcome()
    flipped = next(path for path in (target / "node-1" / "objects").rglob("*") if path.is_file())
    flipped.chmod(0o644)
    flipped.write_bytes(b"\0" * flipped.stat().st_size)
    state = member.outcome(Work.VERIFY)
    assert (state.outcome, state.verified_at) == (Outcome.FAILED, 0)
    assert "damaged" in state.reason


def test_a_backup_to_another_target_does_not_count_as_the_last_good_one(
    member: Member, target: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    state = member.outcome(target=str(other))
    assert (state.outcome, state.snapshot, state.good_at) == (Outcome.GOOD, "", 0)
    assert list((other / "node-1" / "snapshots").iterdir())
    assert not list(target.iterdir())


def test_without_settings_it_fails_in_words(member: Member) -> None:
    state = member.outcome()
    assert state.outcome is Outcome.FAILED
    assert "[backup]" in state.reason


def test_the_same_order_again_is_one_backup(member: Member, target: Path) -> None:
    first = member.order()
    second = member.order()
    wait_for(lambda: member.worker.state.outcome, SECS)
    assert first.order != member.worker.state.order == second.order
    assert len(list((target / "node-1" / "snapshots").iterdir())) == 1


def test_the_engine_ends_with_its_member(member: Member, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given an engine that stands still, since nobody writes the file of its settings
    fifo = tmp_path / "server.conf"
    os.mkfifo(fifo)
    monkeypatch.setenv("PULZAR_CONFIG", str(fifo))
    member.order()
    child = wait_for(lambda: _engine_of(os.getpid()), SECS)
    # When the member ends
    member.worker.stop()
    # Then the engine is gone, the order has failed, and the snapshot is removed
    assert not child.is_running()
    assert (member.worker.state.outcome, "ended" in member.worker.state.reason) == (Outcome.FAILED, True)
    assert not list((member.volume.directory / "snapshots").iterdir())


PROGRAM = """
import sys, threading
from broker.backups.engine import Engine
Engine().run(["list"], lambda *_: None)
"""


def test_the_engine_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    # Given a process whose engine stands still, since nobody reads the file of its settings
    fifo = tmp_path / "server.conf"
    os.mkfifo(fifo)
    environ = {"PATH": os.environ["PATH"], "PULZAR_CONFIG": str(fifo)}
    parent = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, env=environ)
    child = wait_for(lambda: _engine_of(parent.pid), SECS)
    assert child.nice() == 19
    # When the process is killed
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    # Then the engine is gone, too
    wait_for(lambda: not psutil.pid_exists(child.pid) or child.status() == psutil.STATUS_ZOMBIE, SECS)


def _engine_of(pid: int) -> psutil.Process | None:
    for one in psutil.Process(pid).children():
        if "broker.backups.engine" in " ".join(one.cmdline()) and one.nice() == 19:
            return one
    return None


def test_what_a_process_before_has_left_is_put_right(member: Member, target: Path) -> None:
    # Given a process that was killed while it made a backup
    member.worker.stop()
    left = member.storage.snapshot("node-1")
    state = BackupState("node-1", "f0" * 16, Work.SEND, began=5, phase="send", snapshot="20261129T003000Z", good_at=7)
    worker.write(member.volume.directory / "backup.json", state)
    # When the next one starts
    member.told.clear()
    member.worker = member.make()
    member.worker.start()
    wait_for(lambda: member.told, SECS)
    # Then the order has failed, the last good one is known, and the snapshot is gone
    told = member.told[-1]
    assert (told.outcome, told.order, told.good_at) == (Outcome.FAILED, "f0" * 16, 7)
    assert "ended meanwhile" in told.reason
    wait_for(lambda: not left.exists(), SECS)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"member": 5}', json.dumps(BackupState("n")._asdict() | {"size": -1})]
)
def test_a_state_that_can_not_be_read_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / "backup.json").write_text(text)
    assert worker.read(tmp_path / "backup.json", "n") == BackupState("n")


def test_states_written_by_two_threads_at_once_are_all_written(
    member: Member, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(4) as threads:
        for _ in range(200):
            threads.submit(member.worker._save)
    assert "can't be written" not in caplog.text
