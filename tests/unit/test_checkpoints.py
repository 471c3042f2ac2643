"""What is left of the index after a power cut, after kill -9, and in copies.

A power cut is played on the bytes of the file: of each sector any content survives that it has had since the last
flush, and so does any length of the file.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lmdb
import pytest

from broker import keys, lmdb_files
from broker.clock import DAY_MS
from broker.messages.store import Heartbeat
from master.errors import IndexUnusable
from master.index import checkpoint_file, checkpoints
from master.index.index import Entry, Index
from tests.support import wait_for

MAP = 64 << 20
SECTOR = 512
DAYS = 90
BEAT = Heartbeat("n1", "http://n1:1", 1, "", "e1", 1, 5, 1, 1, False, 0.0, 0.0, 0, 2, [("r", 1, 1)], "")


def entry(version: int, size: int = 100) -> Entry:
    return Entry(version, "n1", 1, 1, 1, 0, size, "text/plain", b"d" * 32, b"v" * size)


class Machine:
    """An index on a machine whose power may go."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.random = random.Random(seed)
        self.rows: dict[bytes, int] = {}  # what the index has: key → version
        self.durable: dict[bytes, int] = {}  # the same at the last checkpoint
        self.contents: list[bytes] = []  # of the file, since its last flush
        self.open()

    def open(self) -> None:
        checkpoints.make_ready(self.directory, DAYS)
        self.index = Index(self.directory, MAP, write=True)
        self.flushed()

    def flushed(self) -> None:
        self.durable = dict(self.rows)
        self.contents = [self.file.read_bytes()]

    @property
    def file(self) -> Path:
        return self.directory / lmdb_files.DATA

    def write(self) -> None:
        """A commit of a few random changes, with values of one page and more."""
        with self.index.write() as tables:
            for _ in range(self.random.randint(1, 30)):
                key = keys.encode(f"folder-{self.random.randrange(9)}/{self.random.randrange(300)}")
                old = tables.entry(key)
                if old and self.random.random() < 0.4:
                    tables.drop_entry(key, old)
                    del self.rows[key]
                else:
                    version = self.random.randrange(1, 1 << 40)
                    tables.put_entry(key, old, entry(version, self.random.choice((20, 300, 4096))))
                    self.rows[key] = version
        self.contents.append(self.file.read_bytes())

    def cut_power(self, note: bytes | None = None) -> None:
        """Lose what was not flushed, or only parts of it. `note` is the one that is on the disk."""
        note = note or (self.directory / checkpoint_file.NAME).read_bytes()
        self.index.close()
        length = self.random.choice([len(content) for content in self.contents])
        pieces = [
            self.random.choice(self.contents)[at : at + SECTOR].ljust(SECTOR, b"\0") for at in range(0, length, SECTOR)
        ]
        with self.file.open("r+b") as file:
            file.truncate(length)
            file.write(b"".join(pieces))
        with (self.directory / checkpoint_file.NAME).open("r+b") as file:
            file.write(note)

    def found(self) -> dict[bytes, int]:
        with self.index.read() as tables:
            return {key: found.version for key, found in tables.entries()}


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The boots of the machine so far; append one to start it anew."""
    boots = ["first boot"]
    monkeypatch.setattr(lmdb_files, "boot", lambda: boots[-1])
    return boots


@pytest.mark.parametrize("seed", range(6))
def test_after_a_power_cut_the_index_is_what_it_was_at_its_last_checkpoint(
    seed: int, tmp_path: Path, boots: list[str]
) -> None:
    machine = Machine(tmp_path / "index", seed)
    for cut in range(4):
        # Given an index with commits before and after its last checkpoint
        for _ in range(machine.random.randint(0, 40)):
            machine.write()
        machine.index.make_durable()
        machine.flushed()
        for _ in range(machine.random.randint(0, 40)):
            machine.write()
        # When the power goes, and the machine is started again
        machine.cut_power()
        boots.append(f"boot {cut}")
        machine.rows = machine.durable
        machine.open()
        # Then the checkpoint is there, to the last row
        assert machine.found() == machine.durable
        with machine.index.read() as tables:
            assert tables.usage().keys == len(machine.durable)
            assert tables.counted()
        assert lmdb_files.faults(machine.directory) == []
    machine.index.close()


@pytest.mark.parametrize("seed", range(3))
def test_a_power_cut_between_the_flush_and_its_note_leaves_the_checkpoint_before(
    seed: int, tmp_path: Path, boots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a checkpoint whose flush is over and whose note is not written, while commits go on
    machine = Machine(tmp_path / "index", seed)
    for _ in range(20):
        machine.write()
    machine.index.make_durable()
    machine.flushed()
    note = (machine.directory / checkpoint_file.NAME).read_bytes()
    for _ in range(20):
        machine.write()
    write, reached, go_on = checkpoint_file.write, threading.Event(), threading.Event()

    def stand_still(directory: Path, note: checkpoint_file.Note) -> None:
        reached.set()
        go_on.wait(30)
        write(directory, note)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "EVERY_SECS", 0.0)
        patch.setattr(checkpoint_file, "write", stand_still)
        machine.index.tick()
        assert reached.wait(30)
        for _ in range(20):
            machine.write()
    go_on.set()
    # When the power goes
    machine.cut_power(note)
    boots.append("second boot")
    machine.rows = machine.durable
    machine.open()
    # Then the one before it counts
    assert machine.found() == machine.durable
    machine.index.close()


def test_a_return_to_a_checkpoint_may_be_interrupted(
    tmp_path: Path, boots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "index", 1)
    for _ in range(30):
        machine.write()
    machine.index.make_durable()
    machine.flushed()
    for _ in range(30):
        machine.write()
    machine.cut_power()
    boots.append("second boot")

    def die(_: Path) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_files, "faults", die)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.make_ready(machine.directory, DAYS)
    with pytest.raises(IndexUnusable, match="interrupted"):
        Index(machine.directory, MAP, write=True)
    machine.rows = machine.durable
    machine.open()
    assert machine.found() == machine.durable
    machine.index.close()


def test_after_a_power_cut_the_index_says_that_it_may_lack_keys_of_every_node(tmp_path: Path, boots: list[str]) -> None:
    # Given an index that lacks nothing, and a node that it heard of before its last checkpoint
    machine = Machine(tmp_path / "index", 1)
    with machine.index.write() as tables:
        tables.set_node(BEAT, 1)
        tables.set_incomplete([])
    assert not machine.index.survives(["n1"])
    machine.index.make_durable()
    assert machine.index.survives(["n1"])
    machine.flushed()
    machine.write()
    # When the power goes
    machine.cut_power()
    boots.append("second boot")
    machine.open()
    # Then it says so, and says it still after the next start
    for _ in range(2):
        with machine.index.read() as tables:
            assert tables.incomplete() == ["n1"]
        machine.index.close()
        machine.open()
    machine.index.close()


def test_an_index_that_is_lost_knows_of_which_nodes_it_lacks_keys(tmp_path: Path, boots: list[str]) -> None:
    # Given an index whose last checkpoint is older than what nodes remember of deletions
    machine = Machine(tmp_path / "index", 1)
    with machine.index.write() as tables:
        tables.set_node(BEAT, 1)
        tables.set_incomplete([])
    machine.write()
    machine.index.make_durable()
    machine.flushed()
    machine.cut_power()
    boots.append("second boot")
    note = checkpoint_file.read(machine.directory)
    assert note
    checkpoint_file.write(machine.directory, note._replace(at=note.at - DAYS * DAY_MS))
    # When the master starts
    machine.open()
    # Then there is a new one
    assert machine.found() == {}
    with machine.index.read() as tables:
        assert tables.incomplete() == ["n1"]
    machine.index.close()


def test_a_file_that_a_disk_has_spoiled_is_removed_unopened(tmp_path: Path, boots: list[str]) -> None:
    machine = Machine(tmp_path / "index", 1)
    for _ in range(40):
        machine.write()
    machine.index.make_durable()
    machine.flushed()
    machine.cut_power()
    boots.append("second boot")
    data = bytearray(machine.file.read_bytes())
    for at in range(2 * 4096, len(data), 4096):
        data[at : at + 4096] = bytes(4096)
    with machine.file.open("r+b") as file:
        file.write(data)
    machine.open()
    assert machine.found() == {}
    machine.index.close()


def test_a_copy_of_an_index_in_use_is_not_opened_and_one_that_was_closed_is(tmp_path: Path) -> None:
    # Given a copy of an index in use, and one of the same when it was closed
    machine = Machine(tmp_path / "index", 1)
    machine.write()
    shutil.copytree(machine.directory, tmp_path / "torn")
    machine.index.close()
    shutil.copytree(machine.directory, tmp_path / "whole")
    # Then the first one is removed, the second one counts
    with pytest.raises(IndexUnusable, match="copy"):
        Index(tmp_path / "torn", MAP, write=True)
    for name, rows in (("torn", {}), ("whole", machine.rows)):
        checkpoints.make_ready(tmp_path / name, DAYS)
        copy = Index(tmp_path / name, MAP, write=True)
        with copy.read() as tables:
            assert {key: found.version for key, found in tables.entries()} == rows
        copy.close()


def test_an_index_of_a_pulzar_that_flushed_each_commit_is_opened_as_it_is(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "index", 1)
    machine.write()
    machine.index.close()
    (machine.directory / checkpoint_file.NAME).unlink()
    machine.open()
    assert machine.found() == machine.rows
    machine.index.close()


def test_pages_that_a_checkpoint_needs_are_free_again_after_the_next_one(tmp_path: Path) -> None:
    # Given an index that is full of pages that only its last checkpoint needs
    index = Index(tmp_path / "index", 1 << 20, write=True)
    key = keys.encode("k")

    def overwrite(times: int = 20) -> None:
        for _ in range(times):
            with index.write() as tables:
                tables.put_entry(key, tables.entry(key), entry(1, 4096))

    with pytest.raises(lmdb.MapFullError):
        overwrite(1000)
    # When there is another checkpoint
    index.make_durable()
    # Then it can be written again
    overwrite()
    index.close()


def test_checkpoints_are_made_when_it_is_time_and_when_the_file_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "index", 1)

    def at() -> int:
        note = checkpoint_file.read(machine.directory)
        return note.at if note else 0

    def made_by_tick() -> bool:
        machine.write()
        before = at()
        time.sleep(0.002)
        machine.index.tick()
        thread = machine.index._checkpoints and machine.index._checkpoints._thread
        if thread:
            thread.join()
        return at() > before

    assert not made_by_tick()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "EVERY_SECS", 0.0)
        assert made_by_tick()
    assert not made_by_tick()
    monkeypatch.setattr(checkpoints, "GROWTH_BYTES", 4096)
    machine.write()
    assert made_by_tick()
    machine.index.close()


def test_a_flush_that_fails_ends_the_checkpoints(
    tmp_path: Path, boots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an index of which the disk could not keep a page: the kernel says so once
    machine = Machine(tmp_path / "index", 1)
    machine.write()

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        machine.index.make_durable()
    machine.write()
    machine.index.make_durable()
    # Then this boot goes on with it, another one doesn't, whether it was closed in order or not
    machine.index.close()
    assert checkpoint_file.objection(machine.directory) == ""
    boots.append("second boot")
    assert checkpoint_file.objection(machine.directory)
    machine.open()
    assert machine.found() == {}
    machine.index.close()


WRITER = """
import sys
from pathlib import Path
from broker import keys
from master.index import checkpoints
from master.index.index import Entry, Index
checkpoints.EVERY_SECS = 0.01
checkpoints.make_ready(Path(sys.argv[1]), 90)
index = Index(Path(sys.argv[1]), 64 << 20, write=True)
number = index.stat()["entries"]
while True:
    with index.write() as tables:
        for _ in range(7):
            entry = Entry(number + 1, "n1", 1, 1, 1, 0, 10, "", bytes(32), bytes(10))
            tables.put_entry(keys.encode(f"{number:08d}"), None, entry)
            number += 1
    print(number, flush=True)
    index.tick()
"""


def test_kill_9_at_any_moment_loses_no_commit(tmp_path: Path) -> None:
    rng = random.Random(1)
    directory = tmp_path / "index"
    root = str(Path(checkpoints.__file__).parents[2])
    told = 0
    for _ in range(8):
        # Given a process that writes, with checkpoints all the while
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(directory)], stdout=subprocess.PIPE, cwd=root, text=True
        ) as writer:
            assert writer.stdout
            for _ in range(rng.randint(1, 200)):
                told = int(writer.stdout.readline())
            # When it is killed
            writer.send_signal(signal.SIGKILL)
            told = max([told, *(int(line) for line in writer.stdout.read().split("\n")[:-1])])
        # Then every commit that it has told of is there, and nothing is wrong with the file
        assert checkpoint_file.objection(directory) == ""
        assert lmdb_files.faults(directory) == []
        reader: Any = Index(directory, MAP)
        found = reader.stat()["entries"]
        reader.close()
        assert told <= found <= told + 7


def test_a_writer_waits_for_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a disk whose flush stands still
    machine = Machine(tmp_path / "index", 1)
    machine.write()
    monkeypatch.setattr(checkpoints, "EVERY_SECS", 0.0)
    fdatasync, begun = os.fdatasync, []

    def stand_still(fd: int) -> None:
        begun.append(fd)
        wait_for(lambda: len(begun) > 1, 30)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", stand_still)
    machine.index.tick()
    wait_for(lambda: begun, 30)
    # When there are commits meanwhile, then they are done at once
    for _ in range(5):
        machine.write()
        machine.index.tick()
    begun.append(0)
    machine.index.close()
