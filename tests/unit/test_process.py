"""What a process asks of the kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker import process
from tests.support import ROOT, wait_for

CHILD = """\
import os, signal, sys, time
from broker import process
process.die_with_parent(signal.SIGTERM)
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', sys.argv[1]]); time.sleep(600)"
HOLD = """
import sys
from pathlib import Path
from broker import process
process.hold(Path(sys.argv[1]), shared=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_directory_has_one_holder_until_it_lets_go(tmp_path: Path) -> None:
    held = process.hold(tmp_path)
    with pytest.raises(BlockingIOError):
        process.hold(tmp_path)
    os.close(held)
    os.close(process.hold(tmp_path))
    with pytest.raises(FileNotFoundError):
        process.hold(tmp_path / "none")


def test_many_share_a_lock(tmp_path: Path) -> None:
    held = [process.hold(tmp_path, shared=True) for _ in range(2)]
    with pytest.raises(BlockingIOError):
        process.hold(tmp_path)
    for descriptor in held:
        os.close(descriptor)


def test_who_waits_goes_on_when_the_last_holder_is_killed(tmp_path: Path) -> None:
    # Given a directory that another process locks
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stdout.readline() == "held\n"
        directory = os.open(tmp_path, os.O_RDONLY)
        assert not process.wait_until_free(directory, 0.02)
        # When that process is killed
        child.kill()
        # Then the lock is free
        assert process.wait_until_free(directory, 20)
        os.close(directory)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has it")
def test_a_process_ends_with_its_parent_however_that_ends() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()

    def gone() -> bool:
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except (FileNotFoundError, ProcessLookupError):
            return True

    wait_for(gone, 10, "the end of the child")
