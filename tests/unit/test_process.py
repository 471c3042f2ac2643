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


def test_a_directory_has_one_holder_until_it_lets_go(tmp_path: Path) -> None:
    held = process.hold(tmp_path)
    with pytest.raises(BlockingIOError):
        process.hold(tmp_path)
    os.close(held)
    os.close(process.hold(tmp_path))
    with pytest.raises(FileNotFoundError):
        process.hold(tmp_path / "none")


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
        except FileNotFoundError:
            return True

    wait_for(gone, 10, "the end of the child")
