"""A lock on a directory: one holder, or many that share it, and whoever waits for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from broker import directory_lock
from tests.support import ROOT

HOLD = """
import sys
from pathlib import Path
from broker import directory_lock
directory_lock.hold(Path(sys.argv[1]), shared=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_one_alone_holds_a_lock_until_its_descriptor_is_closed(tmp_path: Path) -> None:
    held = directory_lock.hold(tmp_path)
    for shared in (False, True):
        with pytest.raises(BlockingIOError):
            directory_lock.hold(tmp_path, shared=shared)
    os.close(held)
    os.close(directory_lock.hold(tmp_path))


def test_many_share_a_lock(tmp_path: Path) -> None:
    held = [directory_lock.hold(tmp_path, shared=True) for _ in range(2)]
    with pytest.raises(BlockingIOError):
        directory_lock.hold(tmp_path)
    for descriptor in held:
        os.close(descriptor)


def test_a_directory_that_is_not_there_is_no_lock_that_is_held(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        directory_lock.hold(tmp_path / "none")


def test_who_waits_goes_on_when_the_last_holder_is_killed(tmp_path: Path) -> None:
    # Given a directory that another process locks
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        directory = os.open(tmp_path, os.O_RDONLY)
        assert not directory_lock.wait(directory, 0.02)
        # When that process is killed
        process.kill()
        # Then the lock is free
        assert directory_lock.wait(directory, 20)
        os.close(directory)
